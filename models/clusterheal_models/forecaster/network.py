"""The forecaster as one torch module: raw windows with NaN in, quantiles in the features' units out.

Shapes: `...` leading axes (training: N series; served: batch x features), R recent steps, L season lags,
S seasonal steps, H horizon steps, Q levels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clusterheal.contracts import WindowSpec
from clusterheal_models.forecaster.config import LEVELS, Anchor, ForecasterConfig, MemberConfig
from clusterheal_models.forecaster.naive import NEWEST, masked_mean, naive_paths, path_count

DAY_NS = 86_400_000_000_000
EPOCH_WEEKDAY_NS = 3 * DAY_NS  # 1970-01-01 was a Thursday; weeks start on Monday
N_LEVELS = len(LEVELS)
MIDDLE = N_LEVELS // 2
MASK_BLOCKS = 8
FEW_SAMPLES = 16
CLIP = 20.0
CLIP_SOFT = 8.0
HUGE = 3e38


@dataclass(frozen=True, kw_only=True)
class FeatureTables:
    """What training learned about each feature of the contract; every tensor `(n_features,)`.

    `log_unit`: unit of the asinh transform of a `log` feature, 0 for a linear one.
    `prior_scale`: typical deviation within a window, used where a window has hardly any samples, in transformed units.
    `floor_scale`: smallest scale, so that a constant window divides by something.
    `low`, `high`: plausible range, infinite where unbounded.
    """

    log_unit: Tensor
    prior_scale: Tensor
    floor_scale: Tensor
    low: Tensor
    high: Tensor


class Member(nn.Module):
    """Weighted naive paths, a linear map and a residual network add up to the median; non-negative gaps make the rest.

    The weights of the paths, and of none of them, add up to one; they follow from the window and go evenly from one
    set at the first step of the horizon to another at the last.
    """

    def __init__(self, config: MemberConfig, n_inputs: int, n_paths: int, horizon: int, dropout: float) -> None:
        super().__init__()
        self.anchor: Anchor = config.anchor
        self.soft = config.soft
        self.horizon = horizon
        self.linear = nn.Linear(n_inputs, horizon)
        self.first = nn.Linear(n_inputs, config.hidden)
        self.layers = nn.ModuleList(nn.Linear(config.hidden, config.hidden) for _ in range(config.depth))
        self.dropout = nn.Dropout(dropout)
        self.median = nn.Linear(config.hidden, horizon)
        self.weights = nn.Linear(config.hidden, 2 * (n_paths + 1))
        self.gaps = nn.Linear(config.hidden, horizon * (N_LEVELS - 1))
        for layer in (self.linear, self.median, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.gaps.weight, std=0.01)
        nn.init.constant_(self.gaps.bias, -1.5)

    def forward(self, x: Tensor, paths: Tensor) -> Tensor:
        """`(..., n_inputs)` and paths `(..., K, H)` to quantiles `(..., H, Q)`, normalised, non-decreasing over Q."""
        hidden = self.dropout(nn.functional.gelu(self.first(x)))
        for layer in self.layers:
            hidden = hidden + self.dropout(nn.functional.gelu(layer(hidden)))
        first, last = split_axis(self.weights(hidden), 2, -1).unsqueeze(-1).unbind(-3)
        share = torch.linspace(0.0, 1.0, self.horizon, device=x.device)
        weights = torch.softmax(first * (1.0 - share) + last * share, dim=-2)
        naive = (weights[..., 1:, :] * paths).sum(-2)
        median = (naive + self.linear(x) + self.median(hidden)).unsqueeze(-1)
        gaps = split_axis(nn.functional.softplus(self.gaps(hidden)), self.horizon, N_LEVELS - 1)
        below = gaps[..., :MIDDLE].cumsum(-1).flip(-1)  # a cumulative sum cannot cross, whatever the rounding
        above = gaps[..., MIDDLE:].cumsum(-1)
        return torch.cat([median - below, median, median + above], dim=-1)


class ForecastNet(nn.Module):
    """Transform, normalise, ensemble, undo, widen.

    `widening` `(H, Q)` multiplies the distance of each quantile from the median; calibration sets it.
    `usable_lag` `(L,)` is 0 for a lag that the training history was too short to show: what was never seen in
    training is hidden when serving, too.
    """

    log_unit: Tensor
    prior_scale: Tensor
    floor_scale: Tensor
    low: Tensor
    high: Tensor
    widening: Tensor
    usable_lag: Tensor
    levels: Tensor

    def __init__(
        self, config: ForecasterConfig, window: WindowSpec, step_ns: int, tables: FeatureTables, *, weekly: bool
    ) -> None:
        super().__init__()
        self.window = window
        self.season_ns = window.season_steps * step_ns
        self.weekly = weekly
        self.horizon = window.horizon_steps
        self.recent_steps = window.recent_steps
        self.any_log = bool((tables.log_unit > 0).any())
        for name in ("log_unit", "prior_scale", "floor_scale", "low", "high"):
            self.register_buffer(name, getattr(tables, name).float())
        self.register_buffer("widening", torch.ones(window.horizon_steps, N_LEVELS))
        self.register_buffer("usable_lag", torch.ones(len(window.season_lags)))
        self.register_buffer("levels", torch.tensor(LEVELS))
        n_features = len(tables.log_unit)
        self.embedding = nn.Embedding(n_features, config.embedding) if config.embedding else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=0.1)
        n_lags = len(window.season_lags)
        n_inputs = window.recent_steps + n_lags * window.seasonal_steps + config.embedding
        n_inputs += MASK_BLOCKS + n_lags + 2 + (6 if weekly else 4) + 1
        self.members = nn.ModuleList(
            Member(m, n_inputs, path_count(window), window.horizon_steps, config.dropout) for m in config.members
        )

    def forward(self, recent: Tensor, seasonal: Tensor, timestamp: Tensor) -> tuple[Tensor, Tensor]:
        """The served graph. `recent` `(B, R, F)`, `seasonal` `(B, L, S, F)`, `timestamp` `(B,)` in nanoseconds.

        Returns `quantiles` `(B, H, F, Q)`, NaN where a feature has no sample at all in the window, and `levels` `(Q,)`.
        """
        feature = torch.arange(recent.shape[2], device=recent.device).expand(recent.shape[0], -1)
        quantiles = self.rows(
            recent.transpose(1, 2), seasonal.permute(0, 3, 1, 2), timestamp.unsqueeze(1).expand_as(feature), feature
        )
        mean = torch.stack(quantiles).mean(0)
        return self.finish(mean, feature).transpose(1, 2), self.levels + 0.0

    def finish(self, quantiles: Tensor, feature: Tensor) -> Tensor:
        """Widen around the median, then keep to the plausible range. `(..., H, Q)`."""
        median = quantiles[..., MIDDLE : MIDDLE + 1]
        widened = median + (quantiles - median) * self.widening
        low, high = self.low[feature][..., None, None], self.high[feature][..., None, None]
        return torch.minimum(torch.maximum(widened, low), high)

    def rows(self, recent: Tensor, seasonal: Tensor, timestamp: Tensor, feature: Tensor) -> list[Tensor]:
        """Quantiles `(..., H, Q)` of each member, in the features' units, not yet widened.

        `recent` `(..., R)`, `seasonal` `(..., L, S)`, `timestamp` and `feature` `(...)`.
        """
        hidden = (self.usable_lag == 0)[:, None]
        seasonal = torch.where(hidden, torch.full_like(seasonal, float("nan")), seasonal)
        unit = self.log_unit[feature].unsqueeze(-1)
        values = self.transform(torch.cat([recent, seasonal.flatten(-2)], dim=-1), unit)
        present = torch.isfinite(values)
        filled = torch.where(present, values, torch.zeros_like(values))
        empty = ~present.any(-1)
        context = self.context(present, seasonal.shape[-2], timestamp, feature)
        locations = self.locations(filled, present)
        out: list[Tensor] = []
        for member in self.members:
            assert isinstance(member, Member)
            loc = locations[member.anchor]
            scale = self.scale(loc, filled, present, feature)
            z = (filled - loc.unsqueeze(-1)) / scale.unsqueeze(-1)
            z = asinh(z) if member.soft else z.clamp(-CLIP, CLIP)
            z = torch.where(present, z, torch.zeros_like(z))
            spread = torch.log(scale / (loc.abs() + scale)).unsqueeze(-1)
            last = newest(z, present, self.recent_steps)
            paths = naive_paths(z, present, last[..., 0], self.window)
            q = member(torch.cat([z, last, spread, context], dim=-1), paths)
            q = sinh(q.clamp(-CLIP_SOFT, CLIP_SOFT)) if member.soft else q
            q = loc[..., None, None] + scale[..., None, None] * q
            q = self.inverse(q, unit.unsqueeze(-1))
            out.append(torch.where(empty[..., None, None], torch.full_like(q, float("nan")), q))
        return out

    def transform(self, x: Tensor, unit: Tensor) -> Tensor:
        """asinh of `log` features: linear near zero, logarithmic far away, and it takes negative values, too."""
        if not self.any_log:
            return x
        return torch.where(unit > 0, asinh(x / torch.where(unit > 0, unit, torch.ones_like(unit))), x)

    def inverse(self, x: Tensor, unit: Tensor) -> Tensor:
        if not self.any_log:
            return x
        return torch.where(unit > 0, sinh(x.clamp(-80.0, 80.0)) * unit, x)

    def locations(self, filled: Tensor, present: Tensor) -> dict[Anchor, Tensor]:
        """Where the zero of each anchor lies `(...)`; without recent samples, all fall back to the whole window."""
        wanted = {member.anchor for member in self.members if isinstance(member, Member)}
        wide = masked_median(filled, present)
        found: dict[Anchor, Tensor] = {"wide_median": wide}
        recent, known = filled[..., : self.recent_steps], present[..., : self.recent_steps]
        if "median" in wanted:
            found["median"] = torch.where(known.any(-1), masked_median(recent, known), wide)
        if "newest" in wanted:
            last, there = recent[..., -NEWEST:], known[..., -NEWEST:]
            mean, any_there = masked_mean(last, there)
            found["newest"] = torch.where(any_there, mean, wide)
        return found

    def scale(self, loc: Tensor, filled: Tensor, present: Tensor, feature: Tensor) -> Tensor:
        """Mean absolute deviation from `loc` `(...)`; the feature's typical one while samples are few."""
        count = present.sum(-1)
        deviation = ((filled - loc.unsqueeze(-1)).abs() * present).sum(-1) / count.clamp(min=1)
        doubt = (1.0 - (count - 1) / (FEW_SAMPLES - 1)).clamp(min=0.0)
        return deviation + doubt * self.prior_scale[feature] + self.floor_scale[feature]

    def context(self, present: Tensor, n_lags: int, timestamp: Tensor, feature: Tensor) -> Tensor:
        """What is known beside the values: where samples are missing, clock time, the feature's embedding."""
        known = present.to(self.widening.dtype)
        recent = known[..., : self.recent_steps]
        edges = [i * self.recent_steps // MASK_BLOCKS for i in range(MASK_BLOCKS + 1)]
        parts = [recent[..., a : max(b, a + 1)].mean(-1) for a, b in itertools.pairwise(edges)]
        if n_lags:
            blocks = split_axis(known[..., self.recent_steps :], n_lags, -1)
            parts += [blocks[..., lag, :].mean(-1) for lag in range(n_lags)]
        phase = clock_phase(timestamp, self.season_ns)
        parts += [torch.sin(phase), torch.cos(phase), torch.sin(2 * phase), torch.cos(2 * phase)]
        if self.weekly:
            week = clock_phase(timestamp + EPOCH_WEEKDAY_NS, 7 * self.season_ns)
            parts += [torch.sin(week), torch.cos(week)]
        stacked = torch.stack(parts, dim=-1)
        if self.embedding is None:
            return stacked
        return torch.cat([stacked, self.embedding(feature)], dim=-1)


def split_axis(x: Tensor, first: int, second: int) -> Tensor:
    """The last axis as two."""
    return x.reshape(*x.shape[:-1], first, second)


def asinh(x: Tensor) -> Tensor:
    """Inverse hyperbolic sine, exact near zero; written out because the ONNX exporter does not know it."""
    size = x.abs().clamp(max=1e18)
    return torch.sign(x) * torch.log1p(size + size * size / (1.0 + torch.sqrt(size * size + 1.0)))


def sinh(x: Tensor) -> Tensor:
    return 0.5 * (torch.exp(x) - torch.exp(-x))


def clock_phase(timestamp: Tensor, period_ns: int) -> Tensor:
    """Angle of the clock time within a period, exact for 64-bit nanoseconds."""
    return torch.remainder(timestamp, period_ns).to(torch.float32) * (2 * math.pi / period_ns)


def newest(z: Tensor, present: Tensor, recent_steps: int) -> Tensor:
    """`(..., 2)`: the newest sample of the recent steps (0 where there is none) and its age as a share of them."""
    known = present[..., :recent_steps]
    position = torch.arange(1, recent_steps + 1, device=z.device)
    at = (known * position).amax(-1)
    value = (z[..., :recent_steps] * (known & (position == at.unsqueeze(-1)))).sum(-1)
    return torch.stack([value, 1.0 - at.to(z.dtype) / recent_steps], dim=-1)


def masked_median(filled: Tensor, present: Tensor) -> Tensor:
    """Lower median over the last axis of what is present; 0 where nothing is."""
    empty = ~present.any(-1)
    if not torch.onnx.is_in_onnx_export():
        median = torch.nanmedian(torch.where(present, filled, torch.full_like(filled, float("nan"))), dim=-1).values
        return torch.where(empty, torch.zeros_like(median), median)
    ordered, _ = torch.sort(torch.where(present, filled, torch.full_like(filled, HUGE)), dim=-1)
    at = (present.sum(-1, keepdim=True) - 1).clamp(min=0) // 2
    return torch.where(empty, torch.zeros_like(filled[..., 0]), torch.gather(ordered, -1, at).squeeze(-1))


def pinball(quantiles: Tensor, target: Tensor, levels: Sequence[float] = LEVELS) -> Tensor:
    """Twice the quantile loss, averaged over levels (the discrete CRPS). `(..., Q)` and `(...)` to `(...)`."""
    tau = torch.tensor(levels, device=quantiles.device, dtype=quantiles.dtype)
    error = target.unsqueeze(-1) - quantiles
    return 2 * (tau * error + torch.relu(-error)).mean(-1)
