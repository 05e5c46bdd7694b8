"""Scoring a long stream: the served graph over sliding windows, plus what only a stream can remember.

A request to the served model is judged by itself. A stream adds memories, each causal and bounded:

- `remove_drift` follows every metric's level slowly, in steps of at most one robust scale over `drift_steps`, so that a
  metric that has settled elsewhere stops alarming after days, while one wild sample moves nothing;
- the baselines of the state and of the events, and what is rare among events, move by a fixed small step up or down,
  however large a value is, so that a flood of anomalies drags them no faster than ordinary noise does;
- the state that an entity shows decays instead of dropping: trouble that pauses for a minute is still the same trouble.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clusterheal.contracts import FeaturePanel, Float32, TimeSplit
from clusterheal_models.detector.calibrate import RARE
from clusterheal_models.detector.model import Detector
from clusterheal_models.detector.operators import squash, unsquash
from clusterheal_models.detector.scaling import robust_spread
from clusterheal_models.detector.windows import Windows

LEAST_LEVEL = 0.05

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """`drift_steps`, `baseline_steps`: how many steps an adaptation takes for about one scale of its quantity.

    `event_steps`, `rare_steps`: the same for the event's baseline, and for what is rare among events.
    `hold_seasons`: half-life of what is held of a state, as a share of the season, kept within `hold_steps`.
    `echo`, `echo_hold`: share of the state that is held longer, and how many times longer.
    """

    drift_steps: float = 1000.0
    baseline_steps: float = 1000.0
    event_steps: float = 250.0
    rare_steps: float = 100.0
    hold_seasons: float = 1.0 / 12.0
    hold_steps: tuple[float, float] = (2.0, 20.0)
    echo: float = 0.12
    echo_hold: float = 15.0


@dataclass(frozen=True, kw_only=True)
class StreamScores:
    """`score` and `alarm` `(n_steps,)`, `contribution` `(n_steps, n_features)` adding up to the score."""

    score: Float64
    alarm: npt.NDArray[np.bool_]
    contribution: Float32


def remove_drift(panel: FeaturePanel, split: TimeSplit, *, drift_steps: float) -> FeaturePanel:
    """The panel with every metric's slow drift away from its training level taken out, causally.

    A row depends on no later row of the time after `split.train_end_ns`; location and scale come from the time before.
    """
    n_train = len(panel.between(None, split.train_end_ns).timestamps)
    values = np.empty_like(panel.values)
    for e in range(len(panel.entities)):
        x = panel.values[e].astype(np.float64)
        loc, spread = robust_spread(x[:n_train])
        z = squash(torch.from_numpy((x - loc) / spread)).numpy()
        drift, rate = np.zeros(x.shape[1]), 1.0 / drift_steps
        for t, row in enumerate(z):
            away = row - drift
            z[t] = away
            drift += rate * np.nan_to_num(np.clip(away, -1.0, 1.0))
        values[e] = (loc + spread * unsquash(torch.from_numpy(z)).numpy()).astype(np.float32)
    return FeaturePanel(values=values, timestamps=panel.timestamps, entities=panel.entities, contract=panel.contract)


def follow_baseline(statistic: Float64, start: float, step: float) -> Float64:
    """The statistic over a baseline that began at `start` and moves by `step` towards it after each row."""
    out = np.empty_like(statistic)
    moved = 0.0
    for t, value in enumerate(statistic):
        out[t] = value - moved
        moved += step if value > start + moved else -step
    return out


def follow_rare(values: Float64, *, start: float, step: float) -> Float64:
    """What two per cent of the values exceeded so far, at each row before it is seen: it began at `start`.

    It rises by at most `step` per row, however large the value is, and falls by a fiftieth of it.
    """
    out = np.empty_like(values)
    level = start
    for t, value in enumerate(values):
        out[t] = level
        level = max(level + (RARE * step if value > level else -(1.0 - RARE) * step), LEAST_LEVEL)
    return out


def hold(score: Float64, half_life: float) -> Float64:
    """Each score, or an earlier one that halves every `half_life` steps, whichever is larger."""
    out = np.empty_like(score)
    kept, decay = 0.0, 0.5 ** (1.0 / half_life)
    for t, value in enumerate(score):
        kept = max(float(value), kept * decay)
        out[t] = kept
    return out


@torch.no_grad()
def score_stream(
    detector: Detector, panel: FeaturePanel, entity: int, *, first: int, config: StreamConfig | None = None
) -> StreamScores:
    """Score every row from `first` on of an entity that the detector was trained on.

    `panel` has the detector's entities in its order, and comes from `remove_drift` where the detector was fitted so.
    """
    chosen = config or StreamConfig()
    graph = detector.fitted.graph
    graph.all_known = True
    states, events, shares = [], [], []
    for batch in Windows(panel, entity).batches(np.arange(first, len(panel.timestamps)), detector.config.batch):
        state, event, share, parts = graph.statistics(batch.recent, batch.seasonal, batch.entity_index)
        seen = parts.fresh.amax(1)
        states.append((state * seen).double().numpy())
        events.append((event * seen).double().numpy())
        shares.append((share * seen.unsqueeze(1)).numpy())
    graph.all_known = False
    middle, above = _above(np.concatenate(states), detector.fitted.states[entity], chosen.baseline_steps)
    _, sudden = _above(np.concatenate(events), detector.fitted.events[entity], chosen.event_steps)
    rare = float(graph.event_rare[entity])
    ratio = torch.from_numpy(sudden / follow_rare(sudden, start=rare, step=rare / chosen.rare_steps)).float()
    low, high = chosen.hold_steps
    half_life = float(np.clip(chosen.hold_seasons * panel.contract.window.season_steps, low, high))
    held = hold(above, half_life) + chosen.echo * hold(above, chosen.echo_hold * half_life)
    held /= 1.0 + chosen.echo
    row = torch.full((len(above),), entity)
    at_once, score = (graph.score(torch.from_numpy(x + middle).float(), ratio, row) for x in (above, held))
    alarm = (ratio >= graph.alarm_ratio) | (at_once >= graph.alarm_score)
    return StreamScores(
        score=score.double().numpy(),
        alarm=alarm.numpy(),
        contribution=(np.concatenate(shares) * score.numpy()[:, None]).astype(np.float32),
    )


def _above(statistic: Float64, known: Float64, steps: float) -> tuple[float, Float64]:
    """The calibration slice's median, and by how much the statistic exceeds the baseline that began there."""
    middle = float(np.median(known))
    step = (float(np.quantile(known, 0.9)) - middle) / steps
    return middle, np.maximum(follow_baseline(statistic, middle, step) - middle, 0.0)
