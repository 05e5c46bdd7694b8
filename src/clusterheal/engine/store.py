"""Incidents in the API server: anybody adds observations, the leader writes decisions; every write is conditional."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from clusterheal.clock import Clock
from clusterheal.contracts import ObjectRef, Signal
from clusterheal.engine.cache import Cache
from clusterheal.engine.codec import decode, encode
from clusterheal.engine.merge import is_old_news, merge_signal
from clusterheal.engine.names import incident_name, root_key
from clusterheal.engine.records import Record
from clusterheal.engine.views import Key
from clusterheal.errors import ClusterhealError, InvalidInput, RetryableError
from clusterheal.kube.ports import ApiError, ApiRetryable, Cluster, Manifest
from clusterheal.kube.resources import INCIDENTS

log = logging.getLogger(__name__)

ATTEMPTS = 8  # conflicts are settled by reading again; more in a row means that somebody writes all the time
WRITERS = 16  # at once, below the connections that the client keeps: one that must be opened costs as much as a write


class Superseded(RetryableError):
    """Somebody else wrote the incident in between; read it again and decide again."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Where a signal went: the incident, or why none was touched (`lingering`, `unknown`)."""

    signal: Signal
    incident: str | None
    outcome: str


@dataclass(kw_only=True, eq=False)
class _Waiting:
    """Signals of one root object that somebody wants stored, and how that went."""

    signals: Sequence[Signal]
    taken: list[Taken] | None = None
    error: ClusterhealError | None = None


class _Queue:
    """Who waits to have signals of one root object stored, and the lock of whoever writes for all of them."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting: list[_Waiting] = []


class IncidentStore:
    """Reads from the cache, writes through the API."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        clock: Clock,
        *,
        namespace: str,
        linger: timedelta,
        request_timeout: timedelta,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._clock = clock
        self.namespace = namespace
        self._linger = linger
        self._timeout = request_timeout.total_seconds()
        self._queues: dict[str, _Queue] = {}  # only of roots for which somebody waits
        self._writers = asyncio.Semaphore(WRITERS)
        self._read_from: Mapping[Key, Manifest] | None = None
        self._records: Mapping[str, Record] = {}
        self._by_root: dict[str, list[Record]] = {}

    def records(self) -> Mapping[str, Record]:
        """All incidents known to this replica, by name; unreadable ones are logged and left out."""
        objects = self._cache.objects(INCIDENTS)
        if objects is not self._read_from:
            self._read_from = objects
            self._records = self._read_anew(objects.values())
        return self._records

    def _read_anew(self, objects: Iterable[Manifest]) -> Mapping[str, Record]:
        """Only what changed is decoded and ordered again: in a storm every write changes one of many."""
        known, found = self._records, dict[str, Record]()
        for obj in objects:
            metadata = obj["metadata"]
            record = known.get(metadata["name"])
            if record is None or record.resource_version != metadata.get("resourceVersion"):
                try:
                    record = decode(obj)
                except InvalidInput as exc:
                    log.warning("incident skipped", extra={"error": str(exc)})
                    continue
            found[record.name] = record
        for name in known.keys() | found.keys():
            if (old := known.get(name)) is not (new := found.get(name)):
                self._reindex(old, new)
        return found

    def _reindex(self, old: Record | None, new: Record | None) -> None:
        if old is not None:
            left = [r for r in self._by_root.pop(old.root) if r is not old]
            if left:
                self._by_root[old.root] = left
        if new is not None:
            group = [*self._by_root.get(new.root, ()), new]
            self._by_root[new.root] = sorted(group, key=lambda r: -r.sequence)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for signals to be stored."""
        return bool(self._queues)

    def of_root(self, target: ObjectRef) -> list[Record]:
        """Incidents of one root object, newest first."""
        self.records()
        return list(self._by_root.get(root_key(target), ()))

    async def take(self, signals: Iterable[Signal]) -> list[Taken]:
        """Write signals into incidents, one write per root object; returns when they are stored.

        Raises:
            ApiError, ApiRetryable, Superseded: not stored; the sender has to send again.
        """
        by_root: dict[str, list[Signal]] = {}
        for signal in signals:
            by_root.setdefault(root_key(signal.target), []).append(signal)
        results = await asyncio.gather(*(self._take_root(key, group) for key, group in by_root.items()))
        return [taken for group in results for taken in group]

    async def _take_root(self, key: str, signals: Sequence[Signal]) -> list[Taken]:
        """Whoever gets to write takes along what came while it waited: in a storm one write stores many signals."""
        taken, changed = self._merged(signals)
        if changed is None:
            return taken
        mine = _Waiting(signals=signals)
        queue = self._queues.setdefault(key, _Queue())
        queue.waiting.append(mine)
        try:
            async with queue.lock:
                if mine.taken is None and mine.error is None:
                    async with self._writers:
                        await self._store_waiting(key, queue)
        finally:
            if mine in queue.waiting:
                queue.waiting.remove(mine)
            if not queue.waiting and self._queues.get(key) is queue:
                del self._queues[key]
        if mine.error is not None:
            raise mine.error
        assert mine.taken is not None
        return mine.taken

    async def _store_waiting(self, key: str, queue: _Queue) -> None:
        """One write for all that wait; they stay in the queue until it is known how it went."""
        batch = list(queue.waiting)
        taken: list[Taken] = []
        error: ClusterhealError | None = None
        try:
            taken = await self._stored(key, [s for waiting in batch for s in waiting.signals])
        except ClusterhealError as exc:
            error = exc
        for waiting in batch:
            waiting.error = error
            waiting.taken, taken = taken[: len(waiting.signals)], taken[len(waiting.signals) :]
        queue.waiting = [w for w in queue.waiting if w not in batch]

    async def _stored(self, key: str, signals: Sequence[Signal]) -> list[Taken]:
        for _ in range(ATTEMPTS):
            taken, changed = self._merged(signals)
            if changed is None:
                return taken
            try:
                await self._write_spec(changed)
                return taken
            except ApiError as exc:
                if exc.status != 409:
                    raise
            await self._reread(changed.name)
        raise Superseded(f"the incident of {key} was changed by others {ATTEMPTS} times in a row")

    async def _reread(self, name: str) -> None:
        try:
            await self.read(name)
        except ApiError as exc:
            if exc.status != 404:
                raise
            await self._cache.refresh([INCIDENTS])  # it is gone, and its deletion has not been heard of yet

    def _merged(self, signals: Sequence[Signal]) -> tuple[list[Taken], Record | None]:
        """Where signals of one root go, and the incident as it has to be written, if it has to."""
        known = self.of_root(signals[0].target)
        current = next((r for r in known if not r.ended), None)
        last = known[0] if known else None
        now = self._clock.now()
        taken: list[Taken] = []
        changed = current
        ended_change = last if last is not None and last.ended else None
        for signal in signals:
            if changed is None and (
                signal.resolved or (last is not None and is_old_news(last, signal, now, self._linger))
            ):
                if ended_change is not None and (merged := merge_signal(ended_change.observations, signal, now)):
                    ended_change = replace(ended_change, observations=merged)
                taken.append(
                    Taken(
                        signal=signal, incident=last.name if last else None, outcome="lingering" if last else "unknown"
                    )
                )
                continue
            if changed is None:
                changed = self._new(signal, last)
            observations = merge_signal(changed.observations, signal, now)
            if observations is not None:
                changed = replace(changed, observations=observations)
            taken.append(
                Taken(signal=signal, incident=changed.name, outcome="repeat" if observations is None else "stored")
            )
        if changed is not None:
            return taken, changed if changed is not current else None
        return taken, ended_change if ended_change is not last else None

    def _new(self, signal: Signal, last: Record | None) -> Record:
        sequence = 1 if last is None else last.sequence + 1
        return Record(
            name=incident_name(signal.target, sequence),
            namespace=self.namespace,
            target=signal.target,
            opened_at=self._clock.now(),
            observations=(),
        )

    async def _write_spec(self, record: Record) -> None:
        body = encode(record)
        if record.resource_version is None:
            body.pop("status")
            written = await self._cluster.create(INCIDENTS, body, namespace=self.namespace)
        else:
            written = await self._cluster.update(INCIDENTS, body, namespace=self.namespace)
        self._cache.put(INCIDENTS, written)

    async def amend(self, name: str, change: Callable[[Record], Record]) -> Record:
        """Change the people's part of an incident (approval, request), whoever else writes to it.

        Raises:
            ApiError: 404 when there is no such incident; ApiRetryable; Superseded.
        """
        for _ in range(ATTEMPTS):
            record = decode(await self._cluster.get(INCIDENTS, name, namespace=self.namespace))
            changed = change(record)
            if changed == record:
                return record
            try:
                await self._write_spec(changed)
                return changed
            except ApiError as exc:
                if exc.status != 409:
                    raise
        raise Superseded(f"incident {name} was changed by others {ATTEMPTS} times in a row")

    async def open(self, record: Record) -> Record:
        """Create a new incident as given.

        Raises:
            ApiError: 409 when it exists.
        """
        body = encode(record)
        body.pop("status")
        written = await self._cluster.create(INCIDENTS, body, namespace=self.namespace)
        self._cache.put(INCIDENTS, written)
        return decode(written)

    async def write_status(self, record: Record) -> Record:
        """Write the leader's decision, if nobody wrote since `record` was read.

        Raises:
            Superseded: somebody did. ApiRetryable: unknown whether it was written; read again.
        """
        try:
            async with asyncio.timeout(self._timeout):
                written = await self._cluster.update(
                    INCIDENTS, encode(record), namespace=self.namespace, subresource="status"
                )
        except TimeoutError as exc:
            raise ApiRetryable(f"incident {record.name}: no answer within {self._timeout} s") from exc
        except ApiError as exc:
            if exc.status in (404, 409):
                raise Superseded(f"incident {record.name}: {exc}") from exc
            raise
        self._cache.put(INCIDENTS, written)
        return decode(written)

    async def read(self, name: str) -> Record:
        """The incident as the API server has it now.

        Raises:
            ApiError, ApiRetryable.
        """
        found: Manifest = await self._cluster.get(INCIDENTS, name, namespace=self.namespace)
        self._cache.put(INCIDENTS, found)
        return decode(found)

    async def delete(self, record: Record) -> None:
        """Remove an incident that has ended long ago."""
        await self._cluster.delete(INCIDENTS, record.name, namespace=self.namespace, uid=record.uid)
