"""An event loop whose time passes only when nothing is left to do: hours run in moments, and the same way each time."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVarTuple

Args = TypeVarTuple("Args")

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)  # a Monday
RESOLUTION = 1e-9  # seconds; timers closer than this are of one moment
MOST_CANCELLED = 100  # timers kept before the cancelled ones among them are cleared out


class _Timer(asyncio.TimerHandle):
    """With the names of what asyncio keeps in a timer."""

    __slots__ = ()
    _when: float
    _scheduled: bool


class VirtualLoop(asyncio.BaseEventLoop):
    """Deterministic: callbacks run in the order in which they were asked for, timers in the order of a heap.

    It has asyncio's order without its polling: nothing here waits for sockets, threads or signals, and a seed makes
    a hundred thousand steps.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[_Timer]
    _timer_cancelled_count: int
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def call_soon(
        self, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _write_to_self(self) -> None:
        """Nothing to wake: this loop never sleeps."""

    def call_at(
        self,
        when: float,
        callback: Callable[[*Args], object],
        *args: *Args,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def _run_once(self) -> None:
        """Until the loop is stopped; asyncio calls it once for each batch of callbacks."""
        ready = self._ready
        while True:
            scheduled = self._without_cancelled()
            if not ready and not self._stopping:
                if not scheduled:
                    raise RuntimeError("the simulation waits for something that no timer and no task will bring")
                self.now += max(0.0, scheduled[0]._when - self.now)
            due = self.now + RESOLUTION
            while scheduled and scheduled[0]._when < due:
                timer = heapq.heappop(scheduled)
                timer._scheduled = False
                ready.append(timer)
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
            if self._stopping:
                return

    def _without_cancelled(self) -> list[_Timer]:
        """As asyncio does it, so that timers of one moment keep its order."""
        scheduled = self._scheduled
        if len(scheduled) > MOST_CANCELLED and self._timer_cancelled_count > len(scheduled) / 2:
            for timer in scheduled:
                timer._scheduled = not timer._cancelled
            scheduled = self._scheduled = [t for t in scheduled if not t._cancelled]
            heapq.heapify(scheduled)
            self._timer_cancelled_count = 0
        while scheduled and scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False
        return scheduled


class VirtualClock:
    """`clusterheal.clock.Clock` on the loop's time. `skew` makes one replica's wall clock differ."""

    def __init__(self, loop: VirtualLoop, *, skew: timedelta = timedelta(0)) -> None:
        self._loop = loop
        self._start = START + skew
        self._told = (-1.0, self._start)

    def now(self) -> datetime:
        if self._told[0] != self._loop.now:
            self._told = (self._loop.now, self._start + timedelta(seconds=self._loop.now))
        return self._told[1]

    def monotonic(self) -> float:
        return self._loop.now

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        return asyncio.sleep(seconds)
