"""What a registered version is, and the names of the properties it carries in the registry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlparse

from clusterheal.errors import InvalidInput

Property = bool | int | float | str

STATE = "state"
STATE_SINCE = "state_since"
CONTRACT = "contract_sha256"
PACKAGE = "package_sha256"
ROLLBACK_HOLDER = "rollback_holder"
ROLLBACK_REASON = "rollback_reason"
RETURN_HOLDER = "return_holder"
"""Who chose this version to go back to: a repeat must not choose again, since the two have changed places by then."""
RESERVED = frozenset({STATE, STATE_SINCE, CONTRACT, PACKAGE})

_VERSION = re.compile(r"^v(\d{6,})$")


class State(StrEnum):
    """Where a version stands. The registry itself only knows LIVE and ARCHIVED; this is a custom property."""

    CANDIDATE = "candidate"
    SHADOW = "shadow"
    SERVING = "serving"
    PREVIOUS = "previous"
    REJECTED = "rejected"
    ARCHIVED = "archived"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The pipeline run that made a version: its id, its readable name, and its namespace (`group`)."""

    run_id: str
    run_name: str
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One complete, registered version. `version` is zero-padded (`v000003`), `uri` ends with a slash."""

    name: str
    version: str
    state: State
    state_since: datetime
    uri: str
    package_sha256: str
    contract_sha256: str
    registered_model_id: str
    version_id: str
    lineage: Lineage | None = None
    properties: Mapping[str, Property] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return version_number(self.version) or 0

    @property
    def path(self) -> Path:
        """The package's folder.

        Raises:
            InvalidInput: the package is not on a local disk.
        """
        parts = urlparse(self.uri)
        if parts.scheme != "file":
            raise InvalidInput(
                f"{self.name} {self.version} is at {self.uri}; expected a file:// address, fetch it first"
            )
        return Path(unquote(parts.path))


def version_name(number: int) -> str:
    """`v000003`: zero-padded, so that an object store's prefix `v000001/` never also matches version 10."""
    return f"v{number:06d}"


def version_number(name: str) -> int | None:
    """Inverse of `version_name`; None for a name of another form."""
    match = _VERSION.match(name)
    return int(match.group(1)) if match else None
