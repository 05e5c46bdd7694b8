"""What an action is: a pure change of one object, applied once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from clusterheal.engine.names import FIELD_MANAGER
from clusterheal.engine.views import Snapshot
from clusterheal.errors import PermanentError
from clusterheal.kube.ports import Manifest, PatchType


class Refused(PermanentError):
    """The action does not fit the object as it is now; the message says what was expected."""


class Gone(PermanentError):
    """The target does not exist any more, or another object has its name."""


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Written into the target in the same patch as the change, so that a change and its mark are one."""

    action_id: str
    incident: str
    now: datetime


@dataclass(frozen=True, kw_only=True)
class Change:
    """One conditional patch. `patch` comes without the stamp and the resourceVersion, which `apply` adds."""

    patch: Any
    patch_type: PatchType = PatchType.MERGE
    field_manager: str = FIELD_MANAGER


class Action(Protocol):
    """Pure: given the object as it is, what to change; and what to remember of it."""

    @property
    def name(self) -> str: ...

    def before(self, target: Manifest, snapshot: Snapshot) -> dict[str, Any]:
        """Facts to store with the intent: what verification compares with and a rollback needs."""
        ...

    def change(self, target: Manifest, parameters: Mapping[str, Any], stamp: Stamp) -> Change:
        """The patch.

        Raises:
            Refused: the object is not in the state that the plan was made for.
        """
        ...

    def undo(self, parameters: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """The action and parameters that take this one back; `None` when nothing can."""
        ...


def workload_facts(target: Manifest) -> dict[str, Any]:
    """Replicas wanted and available, and the generation."""
    status = target.get("status") or {}
    return {
        "replicas": int((target.get("spec") or {}).get("replicas") or 0),
        "available": int(status.get("availableReplicas") or 0),
        "generation": int(target["metadata"].get("generation") or 0),
    }
