"""Watches: what changed after a resourceVersion, seen through selectors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from clusterheal.kube.ports import Manifest, WatchEvent
from clusterheal.local.kube.store import Change, Store, Subscription

Present = Callable[[Manifest], Manifest]


@dataclass(frozen=True, kw_only=True)
class View:
    """What one reader sees: a namespace (`None` = all) and a predicate; `present` shows it in the reader's version."""

    resource: str
    namespace: str | None
    selects: Callable[[Manifest], bool]
    present: Present


class Watcher:
    """Events of one watch. `close` it when done.

    `replay` are the events that are due at once: the past after the asked version, or the present state.
    """

    def __init__(self, store: Store, view: View, replay: list[WatchEvent], *, starts_at: int) -> None:
        self._store = store
        self._view = view
        self._ready: deque[WatchEvent] = deque(replay)
        self._subscription: Subscription = store.subscribe(view.resource)
        self._seen = starts_at
        self.closed = False

    @property
    def revision(self) -> int:
        """Everything up to here has been seen: what a bookmark says."""
        return self._seen

    def take(self) -> list[WatchEvent]:
        """All events that are due now."""
        due = list(self._ready)
        self._ready.clear()
        for change in self._subscription.take():
            if (event := event_of(change, self._view)) is not None:
                due.append(event)
        self._seen = max(self._seen, self._store.revision)
        return due

    async def wait(self) -> None:
        """Return when `take` may have something."""
        if not self._ready and not self._subscription.pending:
            await self._subscription.wake.wait()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._store.unsubscribe(self._view.resource, self._subscription)


def event_of(change: Change, view: View) -> WatchEvent | None:
    """A change through a view: entering a selector is ADDED, leaving it DELETED."""
    if view.namespace and change.namespace != view.namespace:
        return None
    before = change.old is not None and view.selects(change.old)
    after = change.new is not None and view.selects(change.new)
    if after and change.new is not None:
        return WatchEvent(type="MODIFIED" if before else "ADDED", object=view.present(change.new))
    if before and change.old is not None:
        gone = view.present(change.old)
        metadata = {**gone["metadata"], "resourceVersion": str(change.revision)}
        return WatchEvent(type="DELETED", object={**gone, "metadata": metadata})
    return None
