"""How training tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One report of a running fit.

    `done` of `total` steps of `phase`; `loss` is the running training loss (`None` before the first step),
    `samples_per_second` counts training windows, `seconds_left` is an estimate for the phase.
    """

    phase: str
    done: int
    total: int
    loss: float | None = None
    samples_per_second: float | None = None
    seconds_left: float | None = None


ProgressCallback = Callable[[Progress], None]
