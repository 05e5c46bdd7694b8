"""Garbage collection by owner references, and the end of namespaces."""

from __future__ import annotations

from datetime import datetime

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.controllers.base import EVERYTHING, World

_FOREGROUND, _ORPHAN = "foregroundDeletion", "orphan"


class GarbageCollector:
    """Runs only after something was removed, marked or given other owners; looks at ownership object by object."""

    reads = EVERYTHING

    def __init__(self) -> None:
        self._seen = -1

    def step(self, world: World) -> datetime | None:
        revision = world.api.store.ties_changed_at
        if revision == self._seen:
            return None
        everything = [(key, obj) for key in world.api.store.resources() for obj in world.items(key)]
        present = {obj["metadata"]["uid"]: obj for _, obj in everything}
        for key, obj in everything:
            if world.kind(key) is None or not obj["metadata"].get("ownerReferences"):
                continue
            self._collect(world, key, obj, present)
        for key, obj in everything:
            self._finish_owner(world, key, obj, everything)
        # Its own deletions orphan others: the next pass must look again.
        self._seen = revision
        return None

    @staticmethod
    def _collect(world: World, key: str, obj: Manifest, present: dict[str, Manifest]) -> None:
        owners = [present.get(o["uid"]) for o in obj["metadata"]["ownerReferences"]]
        if all(o is None or _ends_with_dependents(o) for o in owners) and not obj["metadata"].get("deletionTimestamp"):
            world.delete(key, obj)

    @staticmethod
    def _finish_owner(world: World, key: str, obj: Manifest, everything: list[tuple[str, Manifest]]) -> None:
        """Owners that wait for their dependents: foreground until they are gone, orphan until they are let go."""
        finalizers = obj["metadata"].get("finalizers") or []
        if not obj["metadata"].get("deletionTimestamp") or not {_FOREGROUND, _ORPHAN} & set(finalizers):
            return
        uid = obj["metadata"]["uid"]
        dependents = [
            (k, o) for k, o in everything if any(r["uid"] == uid for r in o["metadata"].get("ownerReferences") or ())
        ]
        if _ORPHAN in finalizers:
            for dependent_key, dependent in dependents:
                world.change(dependent_key, dependent, lambda o: _disown(o, uid))
        elif any(_still_there(world, k, o) for k, o in dependents):
            return
        world.change(key, obj, _drop_policy)


def _ends_with_dependents(owner: Manifest) -> bool:
    return _FOREGROUND in (owner["metadata"].get("finalizers") or ()) and bool(
        owner["metadata"].get("deletionTimestamp")
    )


def _still_there(world: World, key: str, obj: Manifest) -> bool:
    return world.get(key, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]) is not None


def _disown(obj: Manifest, uid: str) -> None:
    obj["metadata"]["ownerReferences"] = [r for r in obj["metadata"]["ownerReferences"] if r["uid"] != uid]


def _drop_policy(obj: Manifest) -> None:
    kept = [f for f in obj["metadata"]["finalizers"] if f not in (_FOREGROUND, _ORPHAN)]
    if kept:
        obj["metadata"]["finalizers"] = kept
    else:
        obj["metadata"].pop("finalizers")


class NamespaceController:
    """Empties a namespace that is ending, then lets it go."""

    reads = EVERYTHING

    def step(self, world: World) -> datetime | None:
        for namespace in world.items("namespaces"):
            if not namespace["metadata"].get("deletionTimestamp"):
                continue
            name = namespace["metadata"]["name"]
            remaining = 0
            for key in world.api.store.resources():
                kind = world.kind(key)
                if kind is None or not kind.resource.namespaced:
                    continue
                for obj in world.items(key, name):
                    if not obj["metadata"].get("deletionTimestamp"):
                        world.delete(key, obj)
                    remaining += _still_there(world, key, obj)
            if not remaining:
                world.change("namespaces", namespace, lambda obj: obj["spec"].pop("finalizers", None))
        return None
