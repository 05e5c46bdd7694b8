"""What every controller needs: reading the store, writing only what changed, and knowing when to look again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from clusterheal.kube.ports import ApiError, Manifest
from clusterheal.local.kube.api import ApiServer
from clusterheal.local.kube.kinds import ResourceType
from clusterheal.local.kube.objects import parse_time, rfc3339
from clusterheal.local.kube.store import clone

BEHAVIOUR = "emulator.clusterheal.io/behaviour"
"""Pod annotation (set it on a template): CrashLoopBackOff, OOMKilled, ImagePullBackOff or NeverReady."""
READY_AFTER = "emulator.clusterheal.io/ready-after"
"""Pod annotation: seconds from start to readiness, instead of the timing's."""

EVERYTHING = ("*",)
"""For a controller that reads every resource."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long things take in the emulated cluster."""

    start: timedelta = timedelta(seconds=1)
    ready: timedelta = timedelta(seconds=1)
    crash: timedelta = timedelta(seconds=1)
    stop: timedelta = timedelta(seconds=1)
    backoff: timedelta = timedelta(seconds=10)
    longest_backoff: timedelta = timedelta(minutes=5)
    node_toleration: timedelta = timedelta(minutes=5)


class World:
    """The controllers' view: stored objects are read as they are and copied before a change."""

    def __init__(self, api: ApiServer, timing: Timing) -> None:
        self.api = api
        self.timing = timing

    @property
    def now(self) -> datetime:
        return self.api.clock.now()

    @property
    def stamp(self) -> str:
        return rfc3339(self.now)

    def kind(self, key: str) -> ResourceType | None:
        return self.api.catalogue.by_key(key)

    def items(self, key: str, namespace: str | None = None) -> list[Manifest]:
        return self.api.store.items(key, namespace)

    def get(self, key: str, namespace: str, name: str) -> Manifest | None:
        return self.api.store.get(key, namespace, name)

    def owned(self, key: str, owner: Manifest) -> list[Manifest]:
        """Objects whose controller is `owner`."""
        return self.api.store.controlled_by(key, owner["metadata"]["uid"])

    def change(self, key: str, obj: Manifest, edit: Callable[[Manifest], None]) -> Manifest:
        """Store an edited copy; nothing is written where the edit changed nothing.

        `edit` may change metadata and status anywhere, but of the spec only replace, add or remove whole fields.
        """
        kind = self.kind(key)
        assert kind is not None
        edited = _editable(obj)
        edit(edited)
        if edited == obj:
            return obj
        if "generation" in obj["metadata"] and edited.get("spec") != obj.get("spec"):
            edited["metadata"]["generation"] = obj["metadata"]["generation"] + 1
        stored = self.api.writer.store_as_is(kind, edited)
        self.api.remover.finish_if_due(kind, stored)
        return stored

    def create(self, key: str, namespace: str, obj: Manifest) -> Manifest | None:
        """Create; `None` where the server refuses (e.g. the namespace is ending)."""
        kind = self.kind(key)
        assert kind is not None
        try:
            return self.api.create(kind, namespace, obj)
        except ApiError as exc:
            if exc.status in (403, 404, 409):
                return None
            raise

    def newest(self, keys: tuple[str, ...]) -> int:
        """Revision of the last write to any of these resources."""
        if keys == EVERYTHING:
            return self.api.store.revision
        return max(map(self.api.store.changed_at, keys))

    def delete(self, key: str, obj: Manifest, *, grace: int | None = None) -> None:
        kind = self.kind(key)
        assert kind is not None
        options: Manifest = {} if grace is None else {"gracePeriodSeconds": grace}
        metadata = obj["metadata"]
        if self.get(key, metadata.get("namespace", ""), metadata["name"]) is not None:
            self.api.delete(kind, metadata.get("namespace"), metadata["name"], options)


def _editable(obj: Manifest) -> Manifest:
    """A copy of what controllers change; what they leave alone is shared, as most of an object is."""
    edited = dict(obj)
    owned = obj["metadata"].get("managedFields")
    edited["metadata"] = clone({k: v for k, v in obj["metadata"].items() if k != "managedFields"})
    if owned is not None:
        edited["metadata"]["managedFields"] = owned
    if "status" in obj:
        edited["status"] = clone(obj["status"])
    if "spec" in obj:
        edited["spec"] = dict(obj["spec"])
    return edited


class Settled:
    """What a controller made of each object last, so that it looks again only where something may have changed.

    Good for a reconcile step that is a function of its inputs and of time, and that changed nothing else.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[object, ...], datetime | None]] = {}
        self._kept: dict[str, tuple[tuple[object, ...], datetime | None]] = {}

    def begin(self) -> None:
        """A new pass over all objects: what the last one did not meet is forgotten."""
        self._known, self._kept = self._kept, {}

    def step(
        self, inputs: tuple[Manifest, ...], now: datetime, reconcile: Callable[[], datetime | None], *more: object
    ) -> datetime | None:
        """When the first of `inputs` is due again; the others are what else it depends on, `more` what is no object."""
        uid = inputs[0]["metadata"]["uid"]
        state = (*(o["metadata"]["resourceVersion"] for o in inputs), *more)
        known = self._known.get(uid)
        if known is None or known[0] != state or (known[1] is not None and now >= known[1]):
            known = (state, reconcile())
        self._kept[uid] = known
        return known[1]


class Controller(Protocol):
    """One reconcile loop; `step` returns when it wants to run again though nothing changes.

    `reads` names the resources that it looks at: while none of them changes, it has nothing to do.
    """

    @property
    def reads(self) -> tuple[str, ...]: ...

    def step(self, world: World) -> datetime | None: ...


def owner_reference(owner: Manifest) -> Manifest:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def condition_of(obj: Manifest, name: str) -> Manifest | None:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == name), None)


def set_condition(obj: Manifest, name: str, status: str, stamp: str, **more: Any) -> None:
    """Set a condition in place; the transition time moves only with the status."""
    conditions = obj.setdefault("status", {}).setdefault("conditions", [])
    found = next((c for c in conditions if c["type"] == name), None)
    if found is None:
        found = {"type": name, "status": "", "lastTransitionTime": stamp}
        conditions.append(found)
    if found["status"] != status:
        found["lastTransitionTime"] = stamp
    found["status"] = status
    for field in ("reason", "message"):
        if more.get(field):
            found[field] = more[field]
        else:
            found.pop(field, None)
    for field in more.keys() - {"reason", "message"}:
        found[field] = more[field]


def since(obj: Manifest, name: str) -> datetime:
    """When a condition came to its present status."""
    found = condition_of(obj, name)
    return parse_time(found["lastTransitionTime"] if found else obj["metadata"]["creationTimestamp"])


def resolve_count(value: Any, total: int, *, up: bool) -> int:
    """An int-or-percent such as `25%` of `total`."""
    if isinstance(value, str) and value.endswith("%"):
        share = int(value[:-1]) * total
        return -(-share // 100) if up else share // 100
    return int(value or 0)


def earliest(*moments: datetime | None) -> datetime | None:
    known = [m for m in moments if m is not None]
    return min(known) if known else None


def active(pods: list[Manifest]) -> Iterator[Manifest]:
    """Pods that still count: neither ended nor ending."""
    for pod in pods:
        if not pod["metadata"].get("deletionTimestamp") and pod["status"].get("phase") not in ("Succeeded", "Failed"):
            yield pod
