"""Repeat what a step does while a server is away.

Only the step itself can tell a server that restarts from an input that is wrong: Kubeflow Pipelines repeats a container
whatever made it fail (`docs/adrs/013-steps-repeat-themselves.md`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import stamina

from clusterheal.errors import RetryableError
from clusterheal.settings import load_settings

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

LONGEST_PAUSE_SECONDS = 300.0


def repeated(call: Callable[P, T]) -> Callable[P, T]:
    """`call`, again with growing pauses as long as it raises `RetryableError`; any other error ends it at once.

    `pipelines.step_attempts` and `pipelines.step_pause` say how often. `call` must be one that can be repeated.
    """

    @functools.wraps(call)
    def patient(*args: P.args, **kwargs: P.kwargs) -> T:
        settings = load_settings().pipelines
        for attempt in stamina.retry_context(
            on=RetryableError,
            attempts=settings.step_attempts,
            timeout=None,
            wait_initial=settings.step_pause,
            wait_max=LONGEST_PAUSE_SECONDS,
            wait_jitter=settings.step_pause / 10,
        ):
            with attempt:
                try:
                    return call(*args, **kwargs)
                except RetryableError as exc:
                    log.warning("try %d of %d: %s", attempt.num, settings.step_attempts, exc)
                    raise
        raise AssertionError("unreachable: the retry context returns or raises")

    return patient
