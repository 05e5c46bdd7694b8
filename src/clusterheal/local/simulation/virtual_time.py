"""An event loop whose time passes only when nothing is left to do: hours run in moments, and the same way each time."""

from __future__ import annotations

import asyncio
import selectors
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)  # a Monday


class _NoWait(selectors.SelectSelector):
    """Never blocks: waiting for a timer is moving the loop's clock to it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: VirtualLoop | None = None

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that no timer and no task will bring")
        if timeout > 0 and self.loop is not None:
            self.loop.now += timeout
        return []  # no socket is ever waited for


class VirtualLoop(asyncio.SelectorEventLoop):
    """Deterministic as long as nothing waits for sockets or threads."""

    def __init__(self) -> None:
        selector = _NoWait()
        self.now = 0.0
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self.now


class VirtualClock:
    """`clusterheal.clock.Clock` on the loop's time. `skew` makes one replica's wall clock differ."""

    def __init__(self, loop: VirtualLoop, *, skew: timedelta = timedelta(0)) -> None:
        self._loop = loop
        self._skew = skew

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time()) + self._skew

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
