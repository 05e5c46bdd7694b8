"""What the detector remembers of an entity from one step to the next.

A predictor answers any request on its own: it keeps nothing. So memory is a small tensor of the request and of the
answer, and whoever asks step by step hands in what the last answer gave. Without it, an entity is judged as if what the
calibration slice showed still held. Every part is causal and bounded:

- the baselines of the state and of the event, and the level of what is rare among events, move by a fixed small step up
  or down, however large a value is, so that a flood of anomalies drags them no faster than ordinary noise does;
- the state that an entity shows decays instead of dropping: trouble that pauses for a minute is still the same trouble.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MEMORY = ("state_baseline", "event_baseline", "rare", "held", "held_long")
"""Columns: how far both baselines have moved from where they began, the level of what is rare, what is held."""

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
    all `(B,)`. `memory` `(B, len(MEMORY))` is for the next step."""

    above: Tensor
    held: Tensor
    ratio: Tensor
    memory: Tensor


def no_memory(rows: int) -> Tensor:
    """The `memory` of entities of which nothing is remembered."""
    return torch.full((rows, len(MEMORY)), torch.nan)


def remember(state: Tensor, event: Tensor, seen: Tensor, memory: Tensor, pace: Pace, echo: float) -> Remembered:
    """One step of all memories. `seen` `(B,)` is 0 where the entity had no sample: then nothing is learned from it.

    `memory` is NaN (or not finite) where there is none yet.
    """
    zero = torch.zeros_like(state)
    start = torch.stack([zero, zero, pace.event_rare, zero, zero], 1)
    known = ~torch.isnan(memory) & (memory.abs() < 1e6)
    state_moved, event_moved, rare, held, held_long = torch.where(known, memory, start).unbind(1)
    rare = rare.clamp(min=LEAST_LEVEL)
    above = (state - pace.state_middle - state_moved).clamp(min=0.0) * seen
    sudden = (event - pace.event_middle - event_moved).clamp(min=0.0) * seen
    held = torch.maximum(above, held.clamp(min=0.0) * pace.decay)
    held_long = torch.maximum(above, held_long.clamp(min=0.0) * pace.decay_long)
    after = torch.stack(
        [
            state_moved + seen * _towards(state - pace.state_middle - state_moved, pace.state_step),
            event_moved + seen * _towards(event - pace.event_middle - event_moved, pace.event_step),
            (rare + seen * torch.where(sudden > rare, RARE, RARE - 1.0) * pace.rare_step).clamp(min=LEAST_LEVEL),
            held,
            held_long,
        ],
        1,
    )
    return Remembered(above, (held + echo * held_long) / (1.0 + echo), sudden / rare, after)


def _towards(gap: Tensor, step: Tensor) -> Tensor:
    return torch.where(gap > 0, step, -step)
