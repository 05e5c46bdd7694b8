"""The versioned store: objects, one counter for resourceVersions, the history that watches replay."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import orjson

from clusterheal.kube.ports import Manifest

ObjectKey = tuple[str, str]
"""(namespace or "", name)"""


def clone(obj: Manifest) -> Manifest:
    """A copy that shares nothing."""
    copied: Manifest = orjson.loads(orjson.dumps(obj))
    return copied


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One write: `old` is `None` for a new object, `new` is `None` for a removed one, `revision` numbers it."""

    revision: int
    resource: str
    namespace: str
    old: Manifest | None
    new: Manifest | None


Listener = Callable[[Change], None]


@dataclass
class Subscription:
    """Changes not yet consumed by one watcher; `wake` is set whenever there are some."""

    pending: deque[Change] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, change: Change) -> None:
        self.pending.append(change)
        self.wake.set()

    def take(self) -> Iterator[Change]:
        while self.pending:
            yield self.pending.popleft()
        self.wake.clear()


def _ties(obj: Manifest | None) -> tuple[object, ...]:
    """What binds an object to others, or holds it back from going."""
    metadata = {} if obj is None else obj["metadata"]
    return tuple(metadata.get(field) for field in ("deletionTimestamp", "finalizers", "ownerReferences"))


def controller_uid(obj: Manifest | None) -> str | None:
    """The uid of the owner that controls an object, if one does."""
    owners = () if obj is None else obj["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


class Store:
    """Objects by resource type (`pods`, `deployments.apps`).

    What goes in belongs to the store and is never changed afterwards; readers get the stored object itself and must
    `clone` before they change it.
    """

    def __init__(self, *, history: int = 10_000) -> None:
        self.revision = 1
        self.compacted = 0
        self._objects: dict[str, dict[ObjectKey, Manifest]] = {}
        self._history: deque[Change] = deque()
        self._keep = history
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._changed_at: dict[str, int] = {}
        self._controlled: dict[tuple[str, str], set[ObjectKey]] = {}
        self.ties_changed_at = 0
        """Revision of the last removal, deletion mark or change of owners: what garbage collection depends on."""

    def changed_at(self, resource: str) -> int:
        """Revision of the last write to an object of this type; 0 = none yet."""
        return self._changed_at.get(resource, 0)

    def get(self, resource: str, namespace: str, name: str) -> Manifest | None:
        return self._objects.get(resource, {}).get((namespace, name))

    def items(self, resource: str, namespace: str | None = None) -> list[Manifest]:
        """In the order of namespace and name, as etcd lists them."""
        found = self._objects.get(resource, {})
        keys = sorted(k for k in found if not namespace or k[0] == namespace)
        return [found[key] for key in keys]

    def controlled_by(self, resource: str, uid: str) -> list[Manifest]:
        """Objects whose controller is the object with this uid, in the order of `items`."""
        objects = self._objects.get(resource, {})
        return [objects[key] for key in sorted(self._controlled.get((resource, uid), ()))]

    def resources(self) -> list[str]:
        return sorted(name for name, objects in self._objects.items() if objects)

    def put(self, resource: str, namespace: str, name: str, obj: Manifest) -> Manifest:
        """Store `obj` under the next resourceVersion, which is written into it."""
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        objects = self._objects.setdefault(resource, {})
        old = objects.get((namespace, name))
        objects[namespace, name] = obj
        self._index(resource, (namespace, name), old, obj)
        self._record(Change(revision=self.revision, resource=resource, namespace=namespace, old=old, new=obj))
        return obj

    def remove(self, resource: str, namespace: str, name: str) -> Manifest:
        """Remove an object that exists; what it was last, with the resourceVersion of its removal."""
        self.revision += 1
        old = self._objects[resource].pop((namespace, name))
        self._index(resource, (namespace, name), old, None)
        self._record(Change(revision=self.revision, resource=resource, namespace=namespace, old=old, new=None))
        return {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.revision)}}

    def _index(self, resource: str, key: ObjectKey, old: Manifest | None, new: Manifest | None) -> None:
        before, after = controller_uid(old), controller_uid(new)
        if before == after:
            return
        if before is not None:
            self._controlled[resource, before].discard(key)
        if after is not None:
            self._controlled.setdefault((resource, after), set()).add(key)

    def _record(self, change: Change) -> None:
        self._history.append(change)
        self._changed_at[change.resource] = change.revision
        if change.new is None or _ties(change.old) != _ties(change.new):
            self.ties_changed_at = change.revision
        while len(self._history) > self._keep:
            self.compacted = self._history.popleft().revision
        for subscription in self._subscriptions.get(change.resource, ()):
            subscription.push(change)

    def compact(self) -> None:
        """Forget the history: watches from before now get 410."""
        self._history.clear()
        self.compacted = self.revision

    def since(self, resource: str, revision: int) -> list[Change]:
        """Changes after `revision`, which must not be older than `compacted`."""
        newer = []
        for change in reversed(self._history):
            if change.revision <= revision:
                break
            if change.resource == resource:
                newer.append(change)
        newer.reverse()
        return newer

    def subscribe(self, resource: str) -> Subscription:
        subscription = Subscription()
        self._subscriptions.setdefault(resource, []).append(subscription)
        return subscription

    def unsubscribe(self, resource: str, subscription: Subscription) -> None:
        self._subscriptions[resource].remove(subscription)
