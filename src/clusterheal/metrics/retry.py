"""Bounded retries with full jitter, over an injected clock."""

from __future__ import annotations

import email.utils
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from clusterheal.clock import Clock
from clusterheal.errors import RetryableError

T = TypeVar("T")
log = logging.getLogger(__name__)

BASE_SECONDS = 0.25
CAP_SECONDS = 8.0


class RetryLater(RetryableError):
    """The server said how long to wait, in seconds."""

    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


async def retried(
    call: Callable[[], Awaitable[T]], *, attempts: int, longest_wait: float, clock: Clock, rng: random.Random
) -> T:
    """Run `call` until it succeeds, at most `attempts` times, waiting a random time that grows between tries.

    A wait that the server asked for is honoured up to `longest_wait` seconds; beyond that there is no point in
    trying, since whoever waits for us has given up by then.

    Raises:
        RetryableError: what the last attempt raised.
    """
    for attempt in range(1, attempts + 1):
        try:
            return await call()
        except RetryableError as exc:
            asked = exc.after if isinstance(exc, RetryLater) else None
            if attempt == attempts or (asked is not None and asked > longest_wait):
                raise
            jitter = rng.uniform(0, min(CAP_SECONDS, BASE_SECONDS * 2**attempt))
            wait = jitter if asked is None else asked + jitter * 0.1
            log.debug("request will be repeated", extra={"attempt": attempt, "wait_s": round(wait, 3), "why": str(exc)})
            await clock.sleep(wait)
    raise AssertionError("attempts is at least 1")


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """The `Retry-After` header, as seconds or as an HTTP date; `None` when absent or unreadable."""
    if header is None:
        return None
    text = header.strip()
    if text.isdigit():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
