"""One collector per dataset: a file lock where files are local, a lease of objects on S3."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import random
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

from clusterheal.clock import Clock
from clusterheal.errors import PermanentError, RetryableError
from clusterheal.metrics.storage import Entry, Storage

log = logging.getLogger(__name__)

FOLDER = "_locks"
TTL = timedelta(minutes=2)
"""A lease that was not renewed for so long belongs to a dead collector."""
RENEW = timedelta(seconds=30)
TRIES = 3


class DatasetBusy(RetryableError):
    """Another collector is writing this dataset; try again when it is done."""


class Holder:
    """What a collector has while it holds the lock."""

    def __init__(self) -> None:
        self.lost: str | None = None

    def require(self) -> None:
        """Refuse to write when the lock may have passed to somebody else.

        Raises:
            DatasetBusy: the lease could not be renewed in time.
        """
        if self.lost:
            raise DatasetBusy(f"the lock on the dataset was lost: {self.lost}; collect again to go on")


@contextlib.asynccontextmanager
async def hold(storage: Storage, name: str, clock: Clock, rng: random.Random) -> AsyncIterator[Holder]:
    """Hold the lock called `name`.

    A local lock ends with the process that holds it, however it ends; a lease on S3 ends `TTL` after its holder.

    Raises:
        DatasetBusy: somebody else holds it; the message says who.
    """
    if storage.local is not None:
        with _local(storage, name):
            yield Holder()
        return
    async with _Lease(storage, name, clock, rng).held() as holder:
        yield holder


@contextlib.contextmanager
def _local(storage: Storage, name: str) -> Iterator[None]:
    assert storage.local is not None
    path = storage.local / FOLDER / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as exc:
        raise PermanentError(f"{path}: the lock cannot be made ({exc}); is the dataset path writable?") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            who = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            raise DatasetBusy(f"{storage.url} is being collected by {who}; wait until it is done") from exc
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _me().encode(), 0)
        yield
    finally:
        os.close(descriptor)


class _Lease:
    """Lamport's bakery with objects: announce, look, claim, look again. Needs listings that show finished writes,
    which S3 has given since 2020; conditional writes, which not every S3 has, are not needed.
    """

    def __init__(self, storage: Storage, name: str, clock: Clock, rng: random.Random) -> None:
        self._storage = storage
        self._folder = f"{FOLDER}/{name}"
        self._id = uuid.UUID(int=rng.getrandbits(128)).hex
        self._clock = clock
        self._rng = rng

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[Holder]:
        for attempt in range(1, TRIES + 1):
            rival = await asyncio.to_thread(self._try)
            if rival is None:
                break
            await asyncio.to_thread(self._release)
            if attempt == TRIES or rival.name.endswith(".held"):
                raise DatasetBusy(
                    f"{self._storage.url} is being collected by {self._who(rival)}; wait until it is done"
                )
            await self._clock.sleep(self._rng.uniform(0.1, 1.0))
        holder = Holder()
        renewal = asyncio.create_task(self._renew(holder))
        try:
            yield holder
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            await asyncio.to_thread(self._release)

    def _try(self) -> Entry | None:
        """Claim the lease; returns a rival that has the better right."""
        mine, claimed = f"{self._folder}/{self._id}.wanted", f"{self._folder}/{self._id}.held"
        self._storage.write(mine, _me().encode())
        rivals = self._rivals()
        if better := [r for r in rivals if r.name.endswith(".held") or r.name < mine]:
            return better[0]
        self._storage.write(claimed, _me().encode())
        rivals = self._rivals()
        better = [r for r in rivals if r.name < mine]
        return better[0] if better else None

    def _rivals(self) -> list[Entry]:
        """Live objects of others, claims first. Ages are told by the storage's clock alone."""
        entries = list(self._storage.list(self._folder))
        mine = [e for e in entries if self._id in e.name]
        now = max((e.mtime_ns for e in mine), default=0)
        limit = TTL.total_seconds() * 1e9
        others = [e for e in entries if self._id not in e.name]
        for entry in others:
            if now - entry.mtime_ns > 10 * limit:
                self._storage.delete(entry.name)
        live = [e for e in others if now - e.mtime_ns <= limit]
        return sorted(live, key=lambda e: (not e.name.endswith(".held"), e.name))

    async def _renew(self, holder: Holder) -> None:
        renewed = self._clock.monotonic()
        while True:
            await self._clock.sleep(RENEW.total_seconds())
            try:
                await asyncio.to_thread(self._storage.write, f"{self._folder}/{self._id}.held", _me().encode())
                renewed = self._clock.monotonic()
            except (RetryableError, PermanentError) as exc:
                log.warning("lease not renewed", extra={"why": str(exc)})
                if self._clock.monotonic() - renewed > (TTL - RENEW).total_seconds():
                    holder.lost = str(exc)
                    return

    def _release(self) -> None:
        for state in ("held", "wanted"):
            self._storage.delete(f"{self._folder}/{self._id}.{state}")

    def _who(self, rival: Entry) -> str:
        return (self._storage.read(rival.name) or b"somebody who has just ended").decode(errors="replace")


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
