"""Scoring a long stream at once: what the served graph answers when it is asked at every step and handed its memory.

The graph sees all windows together; only the memories are followed step by step, outside it. That the answers are those
of the graph asked step by step is tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clusterheal.contracts import FeaturePanel, Float32
from clusterheal_models.detector.memory import LEAST_LEVEL, MOST_BEGUN, RARE, SAME_ALARM, Limit
from clusterheal_models.detector.model import Detector
from clusterheal_models.detector.windows import Windows

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StreamScores:
    """`score` and `alarm` `(n_steps,)`, `contribution` `(n_steps, n_features)` adding up to the score."""

    score: Float64
    alarm: npt.NDArray[np.bool_]
    contribution: Float32


def follow_baseline(statistic: Float64, start: float, step: float) -> Float64:
    """The statistic over a baseline that began at `start` and moves by `step` towards it after each row."""
    out = np.empty_like(statistic)
    moved = 0.0
    for t, value in enumerate(statistic.tolist()):
        out[t] = value - moved
        moved += step if value > start + moved else -step
    return out


def follow_rare(values: Float64, *, start: float, step: float) -> Float64:
    """What two per cent of the values exceeded so far, at each row before it is seen: it began at `start`.

    It rises by at most `step` per row, however large the value is, and falls by a fiftieth of it.
    """
    out = np.empty_like(values)
    level = start
    for t, value in enumerate(values.tolist()):
        out[t] = level
        level = max(level + (RARE * step if value > level else -(1.0 - RARE) * step), LEAST_LEVEL)
    return out


def hold(score: Float64, decay: float) -> Float64:
    """Each score, or what is left of an earlier one, of which a step leaves `decay`, whichever is larger."""
    out = np.empty_like(score)
    kept = 0.0
    for t, value in enumerate(score.tolist()):
        kept = max(value, kept * decay)
        out[t] = kept
    return out


def limit_alarms(loudness: Float64, limit: Limit) -> npt.NDArray[np.bool_]:
    """Where the loudness passes 1, or more after alarms that began too often."""
    out = np.empty(len(loudness), bool)
    begun, quiet, per_step = 0.0, SAME_ALARM, float(limit.per_step)
    for t, value in enumerate(loudness.tolist()):
        out[t] = on = value >= 1.0 + limit.bar_step * max(begun - limit.burst, 0.0)
        begun = min(max(begun + (on and quiet >= SAME_ALARM) - per_step, 0.0), MOST_BEGUN)
        quiet = 0.0 if on else min(quiet + 1.0, SAME_ALARM)
    return out


@torch.no_grad()
def score_stream(detector: Detector, panel: FeaturePanel, entity: int, *, first: int) -> StreamScores:
    """Score every row from `first` on of an entity that the detector was trained on.

    `panel` has the detector's entities in its order.
    """
    graph = detector.fitted.graph
    layout = graph.layout
    graph.all_known = True
    states, events, shares, seen = [], [], [], []
    for batch in Windows(panel, entity).batches(np.arange(first, len(panel.timestamps)), detector.config.batch):
        state, event, share, parts = graph.statistics(batch.recent, batch.seasonal, batch.entity_index)
        states.append(state.double().numpy())
        events.append(event.double().numpy())
        shares.append(share.numpy())
        seen.append(parts.fresh.amax(1).numpy() > 0)
    graph.all_known = False
    some = np.concatenate(seen)
    above = _above(np.concatenate(states), some, float(graph.state_middle[entity]), float(graph.state_step[entity]))
    sudden = _above(np.concatenate(events), some, float(graph.event_middle[entity]), float(graph.event_step[entity]))
    rare = np.ones_like(sudden)
    rare[some] = follow_rare(sudden[some], start=float(graph.event_rare[entity]), step=float(graph.rare_step[entity]))
    ratio = torch.from_numpy(sudden / rare).float()
    held = (hold(above, layout.decay) + layout.echo * hold(above, layout.decay_long)) / (1.0 + layout.echo)
    row = torch.full((len(above),), entity)
    now, score = (graph.score(torch.from_numpy(x).float(), ratio, row) * torch.from_numpy(some) for x in (above, held))
    return StreamScores(
        score=score.double().numpy(),
        alarm=limit_alarms(graph.loudness(ratio, now).double().numpy(), graph.limit()),
        contribution=(np.concatenate(shares) * score.numpy()[:, None]).astype(np.float32),
    )


def _above(statistic: Float64, seen: npt.NDArray[np.bool_], middle: float, step: float) -> Float64:
    """By how much the statistic exceeds its baseline; 0, and nothing learned, where the entity had no sample."""
    above = np.zeros_like(statistic)
    above[seen] = np.maximum(follow_baseline(statistic[seen], middle, step) - middle, 0.0)
    return above
