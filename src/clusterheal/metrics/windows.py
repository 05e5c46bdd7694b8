"""Cutting a window of steps into requests."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from clusterheal.errors import InvalidInput
from clusterheal.metrics.points import StepGrid

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def to_ms(time: datetime) -> int:
    """Milliseconds since the epoch.

    Raises:
        InvalidInput: a time without a zone.
    """
    if time.tzinfo is None:
        raise InvalidInput(f"times need a time zone, got {time!r}; use UTC")
    return (time - EPOCH) // _MS


def from_ms(time_ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=time_ms)


def step_ms(step: timedelta) -> int:
    """A step in milliseconds.

    Raises:
        InvalidInput: not a positive whole number of milliseconds.
    """
    if step <= timedelta(0) or step % _MS:
        raise InvalidInput(f"a step is a positive whole number of milliseconds, got {step}")
    return step // _MS


def step_grid(start: datetime, end: datetime, step: timedelta, *, now: datetime) -> StepGrid:
    """`start`, `start + step`, ... up to and including `end`.

    Raises:
        InvalidInput: a step that is not positive, an end before the start, or a window in the future.
    """
    first, last, width = to_ms(start), to_ms(end), step_ms(step)
    if last < first:
        raise InvalidInput(f"the window ends at {end.isoformat()}, before it starts at {start.isoformat()}")
    if start > now + step:
        raise InvalidInput(f"the window starts at {start.isoformat()}, in the future; now is {now.isoformat()}")
    return StepGrid(start_ms=first, step_ms=width, n_steps=(last - first) // width + 1)


def split_steps(n_steps: int, limit: int, parallel: int) -> list[tuple[int, int]]:
    """`(first, count)` of consecutive windows of at most `limit` steps, even in size.

    More than one window become a multiple of `parallel`, so that no request is left to run alone at the end.
    """
    windows = -(-n_steps // limit)
    if windows > 1:
        windows = min(n_steps, -(-windows // parallel) * parallel)
    bounds = [n_steps * i // windows for i in range(windows + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(bounds)]
