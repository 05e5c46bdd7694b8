"""What the detector remembers of an entity from one step to the next.

A predictor answers any request on its own: it keeps nothing. So memory is a small tensor of the request and of the
answer, and whoever asks step by step hands in what the last answer gave. Without it, an entity is judged as if what the
calibration slice showed still held. Every part is causal and bounded:

- the baselines of the state and of the event, and the level of what is rare among events, move by a fixed small step up
  or down, however large a value is, so that a flood of anomalies drags them no faster than ordinary noise does;
- the state that an entity shows decays instead of dropping: trouble that pauses for a minute is still the same trouble;
- alarms that begin are counted, and the count falls by what a day may have: where more begin, the threshold rises.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MEMORY = ("state_baseline", "event_baseline", "rare", "held", "held_long", "begun", "quiet")
"""Columns: how far both baselines have moved from where they began, the level of what is rare, what is held, how many
alarms began beyond what the time since may have, and the steps since one was on."""

SAME_ALARM = 5.0
"""Steps: an alarm after a shorter pause is still the same."""

MOST_BEGUN = 20.0

RARE = 0.98
LEAST_LEVEL = 0.05


class Pace(NamedTuple):
    """How fast memory moves. Per row of the batch `(B,)`: where the baselines and the level of what is rare began
    (`state_middle`, `event_middle`, `event_rare`), and their steps. Per step: what is left of what is held."""

    state_middle: Tensor
    state_step: Tensor
    event_middle: Tensor
    event_step: Tensor
    event_rare: Tensor
    rare_step: Tensor
    decay: float
    decay_long: float


class Remembered(NamedTuple):
    """By how much the state exceeds its baseline, now and with what is held; the event in multiples of what is rare;
    alarms begun, and the steps since one was on; all `(B,)`. `after` are the first memories for the next step."""

    above: Tensor
    held: Tensor
    ratio: Tensor
    begun: Tensor
    quiet: Tensor
    after: tuple[Tensor, ...]


class Limit(NamedTuple):
    """How many alarms may begin: `per_step` on the mean, and `burst` beyond it before each raises the bar by a step."""

    per_step: Tensor
    burst: float
    bar_step: float


def no_memory(rows: int) -> Tensor:
    """The `memory` of entities of which nothing is remembered."""
    return torch.full((rows, len(MEMORY)), torch.nan)


def remember(state: Tensor, event: Tensor, seen: Tensor, memory: Tensor, pace: Pace, echo: float) -> Remembered:
    """One step of all memories. `seen` `(B,)` is 0 where the entity had no sample: then nothing is learned from it.

    `memory` is NaN (or not finite) where there is none yet.
    """
    zero = torch.zeros_like(state)
    start = torch.stack([zero, zero, pace.event_rare, zero, zero, zero, zero + SAME_ALARM], 1)
    known = ~torch.isnan(memory) & (memory.abs() < 1e6)
    state_moved, event_moved, rare, held, held_long, begun, quiet = torch.where(known, memory, start).unbind(1)
    rare = rare.clamp(min=LEAST_LEVEL)
    above = (state - pace.state_middle - state_moved).clamp(min=0.0) * seen
    sudden = (event - pace.event_middle - event_moved).clamp(min=0.0) * seen
    held = torch.maximum(above, held.clamp(min=0.0) * pace.decay)
    held_long = torch.maximum(above, held_long.clamp(min=0.0) * pace.decay_long)
    after = (
        state_moved + seen * _towards(state - pace.state_middle - state_moved, pace.state_step),
        event_moved + seen * _towards(event - pace.event_middle - event_moved, pace.event_step),
        (rare + seen * torch.where(sudden > rare, RARE, RARE - 1.0) * pace.rare_step).clamp(min=LEAST_LEVEL),
        held,
        held_long,
    )
    return Remembered(
        above=above,
        held=(held + echo * held_long) / (1.0 + echo),
        ratio=sudden / rare,
        begun=begun.clamp(0.0, MOST_BEGUN),
        quiet=quiet.clamp(0.0, SAME_ALARM),
        after=after,
    )


def limited_alarm(loudness: Tensor, kept: Remembered, limit: Limit) -> tuple[Tensor, Tensor]:
    """Whether there is an alarm `(B,)`, and the whole memory `(B, len(MEMORY))` for the next step.

    `loudness` `(B,)`: 1 at the threshold that holds while no more alarms begin than may.
    """
    alarm = loudness >= 1.0 + limit.bar_step * (kept.begun - limit.burst).clamp(min=0.0)
    on = alarm.to(loudness.dtype)
    begins = on * (kept.quiet >= SAME_ALARM).to(loudness.dtype)
    begun = (kept.begun + begins - limit.per_step).clamp(0.0, MOST_BEGUN)
    quiet = ((kept.quiet + 1.0) * (1.0 - on)).clamp(max=SAME_ALARM)
    return alarm, torch.stack([*kept.after, begun, quiet], 1)


def _towards(gap: Tensor, step: Tensor) -> Tensor:
    return torch.where(gap > 0, step, -step)
