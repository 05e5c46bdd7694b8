"""Metadata: what the server sets, what it checks, what an update may not change."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from clusterheal.clock import Clock
from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.failures import Cause, bad_request, forbidden_field, invalid_value, required
from clusterheal.local.kube.kinds import ResourceType

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(rf"^{_LABEL}$")
_DNS_SUBDOMAIN = re.compile(rf"^{_LABEL}(\.{_LABEL})*$")
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_QUALIFIED = re.compile(r"^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$")
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_LABEL_NAMES = frozenset({"Namespace", "Service"})
_FREE_NAMES = frozenset({"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"})


def rfc3339(moment: datetime) -> str:
    """Whole seconds, as in `metadata.creationTimestamp`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Where new identities and times come from, so that a seed replays exactly."""

    clock: Clock
    rng: random.Random

    def now(self) -> str:
        return rfc3339(self.clock.now())

    def uid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def suffix(self) -> str:
        return "".join(self.rng.choice(_SUFFIX_ALPHABET) for _ in range(5))


def check_identity(kind: ResourceType, namespace: str, name: str | None, obj: Manifest) -> None:
    """The body must be of the URL's type and name the URL's object.

    Raises:
        ApiError: 400.
    """
    if not isinstance(obj, dict):
        raise bad_request("couldn't get version/kind; json parse error: the body is not an object")
    expected = kind.resource
    for field, want in (("apiVersion", expected.api_version), ("kind", expected.kind)):
        given = obj.setdefault(field, want)
        if given != want:
            label = "API version" if field == "apiVersion" else "kind"
            raise bad_request(f"the {label} in the data ({given}) does not match the expected {label} ({want})")
    metadata = obj.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise bad_request(
            f"{expected.kind} in version {expected.version!r} cannot be handled: metadata is not an object"
        )
    if name is not None and metadata.setdefault("name", name) != name:
        raise bad_request(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")
    if not expected.namespaced:
        metadata.pop("namespace", None)
    elif (metadata.get("namespace") or namespace) != namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    else:
        metadata["namespace"] = namespace


def stamp_new(obj: Manifest, stamp: Stamp) -> None:
    metadata = obj["metadata"]
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"):
        metadata.pop(field, None)
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = f"{metadata['generateName'][:58]}{stamp.suffix()}"
    metadata["uid"] = stamp.uid()
    metadata["creationTimestamp"] = stamp.now()


_KEPT = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName")


def keep_system_fields(obj: Manifest, old: Manifest) -> None:
    """What a client cannot change by writing it."""
    for field in _KEPT:
        if field in old["metadata"]:
            obj["metadata"][field] = old["metadata"][field]
        else:
            obj["metadata"].pop(field, None)


def validate_metadata(kind: ResourceType, obj: Manifest, old: Manifest | None) -> list[Cause]:
    metadata = obj["metadata"]
    causes = _validate_name(kind, metadata) if old is None else _validate_finalizers(metadata, old["metadata"])
    for name in ("labels", "annotations"):
        values = metadata.get(name)
        if values is None:
            metadata.pop(name, None)
            continue
        for key, value in values.items():
            causes += _validate_pair(f"metadata.{name}", key, value)
    return causes + _validate_owners(metadata.get("ownerReferences") or ())


def _validate_owners(owners: Sequence[Manifest]) -> list[Cause]:
    here = "metadata.ownerReferences"
    causes = [
        invalid_value(f"{here}.{field}", owner.get(field, ""), f"{text} not be empty")
        for owner in owners
        for field, text in (("apiVersion", "version must"), ("kind", "must"), ("name", "must"), ("uid", "must"))
        if not owner.get(field)
    ]
    if sum(bool(owner.get("controller")) for owner in owners) > 1:
        names = [o.get("name") for o in owners]
        causes.append(invalid_value(here, names, "Only one reference can have Controller set to true"))
    return causes


def _validate_pair(field: str, key: str, value: object) -> list[Cause]:
    causes = []
    prefix, _, bare = key.rpartition("/")
    if not _QUALIFIED.match(bare) or len(bare) > 63 or (prefix and not _DNS_SUBDOMAIN.match(prefix)):
        causes.append(invalid_value(field, key, "name part must consist of alphanumeric characters, '-', '_' or '.'"))
    if not isinstance(value, str):
        raise bad_request(
            f"json: cannot unmarshal {type(value).__name__} into Go struct field ObjectMeta.{field} of type string"
        )
    if field == "metadata.labels":
        if len(value) > 63:
            causes.append(invalid_value(field, value, "must be no more than 63 characters"))
        elif not _LABEL_VALUE.match(value):
            causes.append(invalid_value(field, value, _VALUE_RULE))
    return causes


def _validate_name(kind: ResourceType, metadata: Manifest) -> list[Cause]:
    name = metadata.get("name")
    if not name:
        return [required("metadata.name", "name or generateName is required")]
    if kind.resource.kind in _FREE_NAMES:
        return []
    if kind.resource.kind in _LABEL_NAMES:
        good = bool(_DNS_LABEL.match(name)) and len(name) <= 63
        return [] if good else [invalid_value("metadata.name", name, _LABEL_RULE)]
    if len(name) > 253:
        return [invalid_value("metadata.name", name, "must be no more than 253 characters")]
    return [] if _DNS_SUBDOMAIN.match(name) else [invalid_value("metadata.name", name, _SUBDOMAIN_RULE)]


def _validate_finalizers(new: Manifest, old: Manifest) -> list[Cause]:
    if not old.get("deletionTimestamp"):
        return []
    added = [f for f in new.get("finalizers") or () if f not in (old.get("finalizers") or ())]
    if not added:
        return []
    shown = "{" + ", ".join(f'"{f}"' for f in added) + "}"
    text = f"no new finalizers can be added if the object is being deleted, found new finalizers []string{shown}"
    return [forbidden_field("metadata.finalizers", text)]
