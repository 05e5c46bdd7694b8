"""The detector as one torch module: what is trained, what the benchmark applies and what ONNX serves.

Shapes: B windows, T recent steps, L season lags, F features, E entities, P pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clusterheal.contracts import WindowSpec
from clusterheal_models.detector.config import (
    EVENT_BONUS,
    EVENT_FLOOR,
    EVENT_WEIGHTS,
    PIECES,
    SCALES,
    SHARE_WEIGHTS,
    STATE_WEIGHTS,
    DetectorConfig,
)
from clusterheal_models.detector.memory import Limit, Pace, Remembered, limited_alarm, remember
from clusterheal_models.detector.operators import TINY, masked, metric_error, middle, squash, unsquash
from clusterheal_models.detector.tails import tail_score

SEASON_SHARE = 1 / 4
INPUT_NAMES = ("recent", "seasonal", "timestamp", "entity_index", "memory")
OUTPUT_NAMES = (
    "score",
    "tail_probability",
    "confidence",
    "alarm",
    "contribution",
    "expected_low",
    "expected_median",
    "expected_high",
    "memory_after",
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Numbers that shape the graph.

    `seasons`: steps back from the newest to the same time on each earlier day that is compared with, and the seasonal
    block that holds it, or `None` where the recent steps do. `season_before`: steps of a block that lie before the step
    after the same time. `decay`, `decay_long`: what is left after a step of what is held of a state, and of its `echo`.
    `burst`, `bar_step`: see `DetectorConfig`.
    """

    fresh_steps: int
    window_steps: int
    short_steps: int
    long_steps: int
    pooled: int
    pooled_common: int
    reach: int
    seasons: tuple[tuple[int, int | None], ...]
    season_before: int
    decay: float
    decay_long: float
    echo: float
    burst: float
    bar_step: float

    @classmethod
    def of(cls, config: DetectorConfig, window: WindowSpec) -> Layout:
        """Lengths of the configuration, cut to what a request carries.

        All but the long window are cut to a quarter of a season, too: where a step is an hour, a single odd one would
        otherwise vanish among those of most of a day.
        """
        recent_steps = window.recent_steps
        half_life = config.half_life(window.season_steps)
        quarter = min(recent_steps, max(4, round(window.season_steps * SEASON_SHARE)))
        return cls(
            fresh_steps=min(config.fresh_steps, recent_steps - 1),
            window_steps=min(config.window_steps, quarter),
            short_steps=min(config.short_steps, quarter),
            long_steps=min(config.long_steps, recent_steps),
            pooled=config.pooled,
            pooled_common=config.pooled_common,
            reach=min(config.reach, recent_steps),
            seasons=_seasons(window, min(config.fresh_steps, recent_steps - 1)),
            season_before=window.seasonal_before,
            decay=0.5 ** (1.0 / half_life),
            decay_long=0.5 ** (1.0 / (config.echo_hold * half_life)),
            echo=config.echo,
            burst=config.burst,
            bar_step=config.bar_step,
        )


def _seasons(window: WindowSpec, fresh_steps: int) -> tuple[tuple[int, int | None], ...]:
    """The last two seasons where the recent steps reach that far, and the contract's lags that lie farther back."""
    near = [lag * window.season_steps for lag in (1, 2)]
    inside = [rows for rows in near if rows + fresh_steps <= window.recent_steps]
    blocks = [(lag * window.season_steps, k) for k, lag in enumerate(window.season_lags)]
    return (*((rows, None) for rows in inside), *((rows, k) for rows, k in blocks if rows not in inside))


class Parts(NamedTuple):
    """What the graph computes before calibration; scaled values are robust z-scores after `squash`.

    `raw`: `(B, P, F)` non-negative deviation of each piece and metric, 0 where the metric has no fresh sample.
    `fresh`: `(B, F)` 1 where one of the newest steps has a sample.
    `predicted`: `(B, F)` what the newest step is expected to be from the steps before it, scaled.
    `loc`, `scale`: `(B, F)` the robust scaling that was used.
    """

    raw: Tensor
    fresh: Tensor
    predicted: Tensor
    loc: Tensor
    scale: Tensor


class Statistics(NamedTuple):
    """An entity's `state` and `event` `(B,)`, the metrics' shares `(B, F)`, and what they came from."""

    state: Tensor
    event: Tensor
    share: Tensor
    parts: Parts


class DetectorGraph(nn.Module):
    """Scaling, pieces, calibration, pooling and attribution.

    `tables` are tensors by name; row E (the last) of each per-entity table is for entities without history of
    their own. `entity_index` of -1, or beyond the table, means that row.
    """

    loc: Tensor
    scale: Tensor
    is_log: Tensor
    log_offset: Tensor
    coefficients: Tensor
    trust: Tensor
    centre: Tensor
    basis: Tensor
    short: Tensor
    long: Tensor
    piece_knots: Tensor
    piece_tail: Tensor
    common_knots: Tensor
    common_tail: Tensor
    pool_knots: Tensor
    pool_tail: Tensor
    score_knots: Tensor
    score_tail: Tensor
    state_middle: Tensor
    state_step: Tensor
    event_middle: Tensor
    event_step: Tensor
    event_rare: Tensor
    rare_step: Tensor
    band: Tensor
    found_share: Tensor
    event_prior: Tensor
    alarm_ratio: Tensor
    alarm_score: Tensor
    alarms_per_step: Tensor

    def __init__(self, tables: Mapping[str, Tensor], layout: Layout) -> None:
        super().__init__()
        for name, table in tables.items():
            self.register_buffer(name, table)
        self.layout = layout
        self.all_known = False
        """Set where every entity has a row of its own: skips the scaling by the window itself."""

    def row(self, entity_index: Tensor) -> Tensor:
        last = self.loc.shape[0] - 1
        known = (entity_index >= 0) & (entity_index < last)
        return torch.where(known, entity_index, torch.full_like(entity_index, last))

    def transform(self, x: Tensor) -> Tensor:
        """Logarithm for features whose range spans orders of magnitude; NaN stays NaN."""
        logged = torch.log(x.clamp(min=0.0) + self.log_offset)
        return torch.where(self.is_log > 0, logged, x)

    def untransform(self, y: Tensor) -> Tensor:
        return torch.where(self.is_log > 0, torch.exp(y.clamp(max=80.0)) - self.log_offset, y)

    def scaling(self, recent: Tensor, seasonal: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale `(B, F)`: the entity's own from training, or for the fallback row the window's own.

        The window's own are a mean and a mean absolute deviation over the samples within three deviations.
        """
        loc, scale = self.loc[row], self.scale[row]
        if self.all_known:
            return loc, scale
        earlier = seasonal.reshape(seasonal.shape[0], -1, seasonal.shape[3])
        values, mask = masked(self.transform(torch.cat([recent, earlier], dim=1)))
        n = mask.sum(1)
        own = values.sum(1) / n.clamp(min=1.0)
        spread = ((values - own.unsqueeze(1)).abs() * mask).sum(1) / n.clamp(min=1.0)
        near = mask * ((values - own.unsqueeze(1)).abs() <= 3.0 * spread.unsqueeze(1) + TINY)
        n_near = near.sum(1).clamp(min=1.0)
        own = (values * near).sum(1) / n_near
        spread = 1.25 * ((values - own.unsqueeze(1)).abs() * near).sum(1) / n_near
        unknown = (row == self.loc.shape[0] - 1).unsqueeze(1) & (n > 0)
        return torch.where(unknown, own, loc), torch.where(unknown, torch.maximum(spread, self.scale[-1]), scale)

    def parts(self, recent: Tensor, seasonal: Tensor, row: Tensor) -> Parts:
        """Every piece's deviation per metric; see `Parts`."""
        loc, scale = self.scaling(recent, seasonal, row)
        z, mask = self._scaled(recent[:, -self.layout.reach :], loc, scale)
        n = mask.sum(1, keepdim=True)
        filled = z + (1.0 - mask) * (z.sum(1, keepdim=True) / n.clamp(min=1.0))
        fresh = mask[:, -self.layout.fresh_steps :].amax(1)
        newest = torch.zeros_like(z[:, 0])
        for back in range(self.layout.fresh_steps, 0, -1):
            newest = torch.where(mask[:, -back] > 0, z[:, -back], newest)
        forecast, residual = self.forecast(filled, mask)
        # One forecast for all metrics is worse than the last value for those that hardly move: see `fit_trust`.
        predicted = filled[:, -2] + self.trust[row] * (forecast - filled[:, -2])
        usable = fresh.unsqueeze(1)
        pieces = {
            "level": newest.abs(),
            "seasonal": self.season(recent, seasonal, loc, scale, z, mask),
            "residual": residual,
            "reconstruction": self.reconstruct(filled[:, -self.layout.window_steps :] * usable),
            "codebook_short": self.nearest(filled[:, -self.layout.short_steps :] * usable, self.short),
            "codebook_long": self.nearest(filled[:, -self.layout.long_steps :] * usable, self.long),
        }
        return Parts(torch.stack([pieces[name] for name in PIECES], 1) * usable, fresh, predicted, loc, scale)

    def _scaled(self, x: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled values `(B, T, F)`, 0 where missing, and where they are not."""
        values, mask = masked(self.transform(x))
        return squash((values - loc.unsqueeze(1)) / scale.unsqueeze(1)) * mask, mask

    def forecast(self, filled: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One-step forecast of the newest step, and the mean absolute error over the newest steps, both `(B, F)`."""
        lags, last = self.coefficients.shape[0], filled.shape[1]
        total = torch.zeros_like(filled[:, 0])
        weight = torch.zeros_like(total)
        predicted = total
        for back in range(self.layout.fresh_steps):
            end = last - 1 - back
            guess = torch.einsum("btf,t->bf", filled[:, end - lags : end], self.coefficients)
            total = total + (filled[:, end] - guess).abs() * mask[:, end]
            weight = weight + mask[:, end]
            if back == 0:
                predicted = guess
        return predicted, total / weight.clamp(min=1.0)

    def season(self, recent: Tensor, seasonal: Tensor, loc: Tensor, scale: Tensor, z: Tensor, mask: Tensor) -> Tensor:
        """Mean absolute difference `(B, F)` of the newest steps to the middle of the same time on earlier days.

        A day that lies within the recent steps is taken there, farther ones from their blocks; where a block begins
        later than the same time, its first step stands for it. Days without a sample are left out.
        """
        fresh = self.layout.fresh_steps
        total = torch.zeros_like(z[:, 0])
        weight = torch.zeros_like(total)
        for back in range(fresh):
            days = []
            for rows, block in self.layout.seasons:
                if block is None:
                    days.append(recent[:, recent.shape[1] - 1 - rows - back])
                else:
                    days.append(seasonal[:, block, max(self.layout.season_before - 1 - back, 0)])
            if not days:
                return total
            expected, known = middle(*self._scaled(torch.stack(days, 1), loc, scale))
            usable = known * mask[:, -1 - back]
            total = total + (z[:, -1 - back] - expected).abs() * usable
            weight = weight + usable
        return total / weight.clamp(min=1.0)

    def reconstruct(self, cut: Tensor) -> Tensor:
        """Root mean square error per metric `(B, F)` of a window rebuilt from a few components."""
        flat = cut.reshape(cut.shape[0], -1) - self.centre
        rebuilt = (flat @ self.basis) @ self.basis.T
        return metric_error(flat - rebuilt, cut)

    def nearest(self, cut: Tensor, codebook: Tensor) -> Tensor:
        """Root mean square difference per metric `(B, F)` to the nearest of the codebook's windows."""
        flat = cut.reshape(cut.shape[0], -1)
        distance = codebook.square().sum(1) - 2.0 * flat @ codebook.T
        return metric_error(flat - codebook[distance.argmin(1)], cut)

    def evidence(self, parts: Parts, row: Tensor) -> Tensor:
        """`(B, S, P, F)`: -log10 tail probability of each piece and metric, by its own scale and the common one."""
        return self.evidence_of(parts.raw, row) * parts.fresh[:, None, None]

    def evidence_of(self, raw: Tensor, row: Tensor) -> Tensor:
        own = tail_score(raw, self.piece_knots[row], self.piece_tail[row])
        common = tail_score(raw, self.common_knots[row].unsqueeze(2), self.common_tail[row].unsqueeze(2))
        return torch.stack([own, common], 1)

    def pool(self, evidence: Tensor) -> Tensor:
        """`(B, S * P)`: the mean of each scale's and piece's strongest metrics."""
        sizes = zip(evidence.unbind(1), (self.layout.pooled, self.layout.pooled_common), strict=True)
        return torch.cat([torch.topk(e, min(k, e.shape[2]), dim=2).values.mean(2) for e, k in sizes], 1)

    def combine(self, pooled: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """How odd the entity's state is, and whether something happens: `(B,)` weighted means of -log10 chances."""
        scores = tail_score(pooled, self.pool_knots[row], self.pool_tail[row])
        state, event = (pooled.new_tensor(w).flatten() for w in (STATE_WEIGHTS, EVENT_WEIGHTS))
        return (scores * state).sum(1) / state.sum(), (scores * event).sum(1) / event.sum()

    def share(self, evidence: Tensor) -> Tensor:
        """Each metric's part `(B, F)` of the evidence, adding up to 1."""
        per_metric = (evidence[:, 0] * evidence.new_tensor(SHARE_WEIGHTS).unsqueeze(-1)).sum(1)
        return per_metric / per_metric.sum(1, keepdim=True).clamp(min=TINY)

    def statistics(self, recent: Tensor, seasonal: Tensor, entity_index: Tensor) -> Statistics:
        row = self.row(entity_index)
        parts = self.parts(recent, seasonal, row)
        evidence = self.evidence(parts, row)
        state, event = self.combine(self.pool(evidence), row)
        return Statistics(state, event, self.share(evidence), parts)

    def remember(self, state: Tensor, event: Tensor, seen: Tensor, memory: Tensor, row: Tensor) -> Remembered:
        """Both statistics over what is remembered of the entity; see `memory.remember`."""
        pace = Pace(
            state_middle=self.state_middle[row],
            state_step=self.state_step[row],
            event_middle=self.event_middle[row],
            event_step=self.event_step[row],
            event_rare=self.event_rare[row],
            rare_step=self.rare_step[row],
            decay=self.layout.decay,
            decay_long=self.layout.decay_long,
        )
        return remember(state, event, seen, memory, pace, self.layout.echo)

    def score(self, above: Tensor, ratio: Tensor, row: Tensor) -> Tensor:
        """-log10 tail probability `(B,)` of a state that is `above` its baseline, and more where an event is on."""
        state = above + self.state_middle[row]
        bonus = EVENT_BONUS * (ratio - EVENT_FLOOR).clamp(min=0.0)
        return tail_score(state, self.score_knots[row], self.score_tail[row]) + bonus

    def confidence(self, score: Tensor) -> Tensor:
        """Chance that a window of this score is in real trouble, by Bayes' rule; see the model card."""
        real = self.event_prior * self.found(score)
        false = (1.0 - self.event_prior) * torch.pow(10.0, -score)
        return real / (real + false).clamp(min=1e-30)

    def forward(
        self, recent: Tensor, seasonal: Tensor, timestamp: Tensor, entity_index: Tensor, memory: Tensor
    ) -> tuple[Tensor, ...]:
        """The served answer, in the order of `OUTPUT_NAMES`; `memory` `(B, len(MEMORY))`, NaN where there is none."""
        row = self.row(entity_index)
        state, event, share, parts = self.statistics(recent, seasonal, entity_index)
        some = (parts.fresh.sum(1) > 0).to(state.dtype)
        kept = self.remember(state, event, some, memory, row)
        now = self.score(kept.above, kept.ratio, row) * some
        score = self.score(kept.held, kept.ratio, row) * some
        alarm, after = limited_alarm(self.loudness(kept.ratio, now), kept, self.limit())
        score = score + 0.0 * timestamp.to(score.dtype)  # keeps the input in the graph: the wire format has it
        band = [
            self.untransform(unsquash(parts.predicted + self.band[row, :, i]) * parts.scale + parts.loc)
            for i in range(3)
        ]
        return (
            score,
            torch.pow(10.0, -score),
            self.confidence(now),
            alarm,
            share * score.unsqueeze(1),
            band[0],
            band[1],
            band[2],
            after,
        )

    def loudness(self, ratio: Tensor, now: Tensor) -> Tensor:
        """How odd an event or a state is, 1 at the threshold; what is only held of an earlier state does not count."""
        return torch.maximum(ratio / self.alarm_ratio, now / self.alarm_score)

    def limit(self) -> Limit:
        return Limit(per_step=self.alarms_per_step, burst=self.layout.burst, bar_step=self.layout.bar_step)

    def found(self, score: Tensor) -> Tensor:
        """Share of injected faults that score at least this, interpolated on whole scores."""
        grid = self.found_share
        position = score.clamp(0.0, float(grid.shape[0] - 1) - 1e-3)
        low = position.floor().to(torch.int64)
        part = position - low.to(score.dtype)
        return grid[low] * (1.0 - part) + grid[low + 1] * part


def empty_tables(n_entities: int, n_features: int) -> dict[str, Tensor]:
    """Neutral tables of the right shapes; fitting fills them in."""
    rows, pieces = n_entities + 1, len(PIECES)
    knots = torch.arange(4.0)
    return {
        "loc": torch.zeros(rows, n_features),
        "scale": torch.ones(rows, n_features),
        "is_log": torch.zeros(n_features),
        "log_offset": torch.ones(n_features),
        "piece_knots": knots.repeat(rows, pieces, n_features, 1),
        "piece_tail": torch.ones(rows, pieces, n_features),
        "common_knots": knots.repeat(rows, pieces, 1),
        "common_tail": torch.ones(rows, pieces),
        "pool_knots": knots.repeat(rows, len(SCALES) * pieces, 1),
        "pool_tail": torch.ones(rows, len(SCALES) * pieces),
        "score_knots": knots.repeat(rows, 1),
        "score_tail": torch.ones(rows),
        "trust": torch.ones(rows, n_features),
        "state_middle": torch.zeros(rows),
        "state_step": torch.zeros(rows),
        "event_middle": torch.zeros(rows),
        "event_step": torch.zeros(rows),
        "event_rare": torch.ones(rows),
        "rare_step": torch.zeros(rows),
        "band": torch.zeros(rows, n_features, 3),
        "found_share": torch.ones(9),
        "event_prior": torch.tensor(0.05),
        "alarm_ratio": torch.tensor(2.0),
        "alarm_score": torch.tensor(5.0),
        "alarms_per_step": torch.tensor(0.0),
    }
