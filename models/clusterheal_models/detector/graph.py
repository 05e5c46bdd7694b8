"""The detector as one torch module: what is trained, what the benchmark applies and what ONNX serves.

Shapes: B windows, T recent steps, L season lags, F features, E entities, P pieces. Scaled values are robust
z-scores squashed by `SOFT * asinh(z / SOFT)`: linear for ordinary values, never saturating for wild ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clusterheal_models.detector.config import PIECES

SOFT = 3.0
TINY = 1e-6
LN10 = 2.302585092994046
INPUT_NAMES = ("recent", "seasonal", "timestamp", "entity_index")
OUTPUT_NAMES = (
    "score",
    "tail_probability",
    "confidence",
    "alarm",
    "contribution",
    "expected_low",
    "expected_median",
    "expected_high",
)


class Parts(NamedTuple):
    """What the graph computes before calibration.

    `raw`: `(B, P, F)` non-negative deviation of each piece and metric, 0 where the metric has no fresh sample.
    `fresh`: `(B, F)` 1 where one of the newest steps has a sample.
    `predicted`: `(B, F)` forecast of the newest step from the steps before it, scaled.
    `loc`, `scale`: `(B, F)` the robust scaling that was used.
    """

    raw: Tensor
    fresh: Tensor
    predicted: Tensor
    loc: Tensor
    scale: Tensor


def squash(z: Tensor) -> Tensor:
    """`SOFT * asinh(z / SOFT)`, in operators that every ONNX exporter knows."""
    size = (z / SOFT).abs()
    return SOFT * torch.sign(z) * torch.log(size + torch.sqrt(size * size + 1.0))


def unsquash(y: Tensor) -> Tensor:
    """Inverse of `squash`."""
    e = torch.exp((y / SOFT).clamp(-80.0, 80.0))
    return 0.5 * SOFT * (e - 1.0 / e)


def tail_score(value: Tensor, knots: Tensor, levels: Tensor, tail: Tensor, shape: float) -> Tensor:
    """-log10 of the chance of a value at least this large under normal operation.

    `knots` `(..., K)` ascending values at which the chance is `10 ** -levels[k]`; between them the score is linear.
    Beyond the last knot a generalised Pareto tail with scale `tail` `(...)` and `shape` goes on, so scores never tie.
    """
    low, high = knots[..., :-1], knots[..., 1:]
    share = ((value.unsqueeze(-1) - low) / (high - low).clamp(min=TINY)).clamp(0.0, 1.0)
    inside = (share * (levels[1:] - levels[:-1])).sum(-1)
    excess = (value - knots[..., -1]).clamp(min=0.0)
    return inside + torch.log1p(shape * excess / tail.clamp(min=TINY)) / (shape * LN10)


class DetectorGraph(nn.Module):
    """Scaling, pieces, calibration, pooling and attribution.

    `tables` are tensors by name; row E (the last) of each per-entity table is for entities without history of
    their own. `entity_index` of -1, or beyond the table, means that row.
    """

    shape: float
    smoothing: int
    window: int
    pooled: int
    loc: Tensor
    scale: Tensor
    is_log: Tensor
    log_offset: Tensor
    weights: Tensor
    coefficients: Tensor
    centre: Tensor
    basis: Tensor
    levels: Tensor
    piece_knots: Tensor
    piece_tail: Tensor
    piece_weight: Tensor
    score_knots: Tensor
    score_tail: Tensor
    band: Tensor
    found_share: Tensor
    event_prior: Tensor
    threshold: Tensor

    def __init__(
        self, tables: Mapping[str, Tensor], *, smoothing: int, window: int, pooled: int, shape: float = 0.2
    ) -> None:
        super().__init__()
        for name, table in tables.items():
            self.register_buffer(name, table)
        self.smoothing = smoothing
        self.window = window
        self.pooled = pooled
        self.shape = shape

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

    def scaling(self, values: Tensor, mask: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale `(B, F)`: the entity's own from training, or for the fallback row the window's own."""
        loc, scale = self.loc[row], self.scale[row]
        n = mask.sum(1)
        own = (values * mask).sum(1) / n.clamp(min=1.0)
        spread = ((values - own.unsqueeze(1)).abs() * mask).sum(1) / n.clamp(min=1.0)
        near = mask * ((values - own.unsqueeze(1)).abs() <= 3.0 * spread.unsqueeze(1) + TINY)
        n_near = near.sum(1).clamp(min=1.0)
        own = (values * near).sum(1) / n_near
        spread = 1.25 * ((values - own.unsqueeze(1)).abs() * near).sum(1) / n_near
        unknown = (row == self.loc.shape[0] - 1).unsqueeze(1) & (n > 0)
        return torch.where(unknown, own, loc), torch.where(unknown, torch.maximum(spread, self.scale[-1]), scale)

    def parts(self, recent: Tensor, seasonal: Tensor, row: Tensor) -> Parts:
        """Every piece's deviation per metric; see `Parts`."""
        batch, steps, features = recent.shape
        both = self.transform(torch.cat([recent, seasonal.reshape(batch, -1, features)], dim=1))
        mask = (~torch.isnan(both)).to(both.dtype)
        values = torch.nan_to_num(both, nan=0.0, posinf=0.0, neginf=0.0)
        loc, scale = self.scaling(values, mask, row)
        z = squash((values - loc.unsqueeze(1)) / scale.unsqueeze(1)) * mask
        z_recent, m_recent = z[:, :steps], mask[:, :steps]
        weight = self.weights
        means = torch.einsum("btf,tk->bfk", z_recent, weight) / (
            torch.einsum("btf,tk->bfk", m_recent, weight).clamp(min=TINY)
        )
        now, before, usual = means[..., 0], means[..., 1], means[..., 2]
        fresh = (m_recent[:, -self.smoothing :].sum(1) > 0).to(z.dtype)
        had_before = (m_recent[:, : -self.smoothing].sum(1) > 0).to(z.dtype)
        filled = z_recent + (1.0 - m_recent) * usual.unsqueeze(1)
        predicted, residual = self.forecast(filled, m_recent)
        expected, has_season = self.season(z[:, steps:], mask[:, steps:], seasonal.shape[1], seasonal.shape[2])
        pieces = [
            now.abs(),
            (now - before).abs() * had_before,
            residual,
            (now - expected).abs() * has_season,
            self.reconstruct(filled, fresh),
        ]
        return Parts(torch.stack(pieces, 1) * fresh.unsqueeze(1), fresh, predicted, loc, scale)

    def forecast(self, filled: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One-step forecast of the newest step, and the recent mean absolute forecast error, both `(B, F)`."""
        lags = self.coefficients.shape[0]
        last = filled.shape[1]
        total = torch.zeros_like(filled[:, 0])
        weight = torch.zeros_like(total)
        predicted = total
        for back in range(self.smoothing):
            end = last - 1 - back
            guess = torch.einsum("btf,t->bf", filled[:, end - lags : end], self.coefficients)
            seen = mask[:, end]
            total = total + (filled[:, end] - guess).abs() * seen
            weight = weight + seen
            if back == 0:
                predicted = guess
        return predicted, total / weight.clamp(min=1.0)

    def season(self, z: Tensor, mask: Tensor, n_lags: int, n_steps: int) -> tuple[Tensor, Tensor]:
        """What the same time on earlier days suggests, and whether any of them is known, both `(B, F)`.

        The blocks begin one step after the same time of day; the middle of the three days is taken where all are known.
        """
        take = min(self.smoothing, n_steps)
        blocks = z.reshape(z.shape[0], n_lags, n_steps, z.shape[2])[:, :, :take]
        seen = mask.reshape(z.shape[0], n_lags, n_steps, z.shape[2])[:, :, :take]
        n = seen.sum(2)
        known = (n > 0).to(z.dtype)
        day = blocks.sum(2) / n.clamp(min=1.0)
        mean = (day * known).sum(1) / known.sum(1).clamp(min=1.0)
        high = (day * known - 1e6 * (1 - known)).amax(1)
        low = (day * known + 1e6 * (1 - known)).amin(1)
        trimmed = ((day * known).sum(1) - high - low) / (known.sum(1) - 2.0).clamp(min=1.0)
        expected = torch.where(known.sum(1) > 2.5, trimmed, mean)
        return expected, (known.sum(1) > 0).to(z.dtype)

    def reconstruct(self, filled: Tensor, fresh: Tensor) -> Tensor:
        """Root mean square error per metric `(B, F)` of the newest window rebuilt from a few components."""
        batch, _, features = filled.shape
        cut = filled[:, -self.window :] * fresh.unsqueeze(1)
        flat = cut.reshape(batch, self.window * features) - self.centre
        rebuilt = (flat @ self.basis) @ self.basis.T
        error = (flat - rebuilt).reshape(batch, self.window, features)
        return torch.sqrt(error.square().mean(1) + 1e-12)

    def evidence(self, raw: Tensor, row: Tensor) -> Tensor:
        """`(B, P, F)`: -log10 tail probability of each piece and metric on its own."""
        return tail_score(raw, self.piece_knots[row], self.levels, self.piece_tail[row], self.shape)

    def pool(self, evidence: Tensor) -> tuple[Tensor, Tensor]:
        """Entity statistic `(B,)`, the mean of the strongest metrics; and each metric's share `(B, F)`, adding to 1."""
        per_metric = (evidence * self.piece_weight.unsqueeze(-1)).sum(1)
        top = torch.topk(per_metric, min(self.pooled, per_metric.shape[1]), dim=1).values
        return top.mean(1), per_metric / per_metric.sum(1, keepdim=True).clamp(min=TINY)

    def statistic(self, recent: Tensor, seasonal: Tensor, entity_index: Tensor) -> tuple[Tensor, Tensor, Parts]:
        row = self.row(entity_index)
        parts = self.parts(recent, seasonal, row)
        pooled, share = self.pool(self.evidence(parts.raw, row) * parts.fresh.unsqueeze(1))
        return pooled, share, parts

    def forward(
        self, recent: Tensor, seasonal: Tensor, timestamp: Tensor, entity_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The served answer, in the order of `OUTPUT_NAMES`."""
        row = self.row(entity_index)
        pooled, share, parts = self.statistic(recent, seasonal, entity_index)
        score = tail_score(pooled, self.score_knots[row], self.levels, self.score_tail[row], self.shape)
        score = score + 0.0 * timestamp.to(score.dtype)  # keeps the input in the graph: the wire format has it
        tail = torch.pow(10.0, -score)
        found = self.found(score)
        odds = self.event_prior * found
        confidence = odds / (odds + (1.0 - self.event_prior) * tail).clamp(min=1e-30)
        band = [
            self.untransform(unsquash(parts.predicted + self.band[row, :, i]) * parts.scale + parts.loc)
            for i in range(3)
        ]
        return (
            score,
            tail,
            confidence,
            score >= self.threshold,
            share * score.unsqueeze(1),
            band[0],
            band[1],
            band[2],
        )

    def found(self, score: Tensor) -> Tensor:
        """Share of injected faults that score at least this, interpolated on whole scores."""
        grid = self.found_share
        position = score.clamp(0.0, float(grid.shape[0] - 1) - 1e-3)
        low = position.floor().to(torch.int64)
        part = position - low.to(score.dtype)
        return grid[low] * (1.0 - part) + grid[low + 1] * part


def empty_tables(n_entities: int, n_features: int) -> dict[str, Tensor]:
    """Neutral tables of the right shapes; fitting fills them in."""
    rows = n_entities + 1
    return {
        "loc": torch.zeros(rows, n_features),
        "scale": torch.ones(rows, n_features),
        "is_log": torch.zeros(n_features),
        "log_offset": torch.ones(n_features),
        "piece_weight": torch.full((len(PIECES),), 1.0 / len(PIECES)),
        "levels": torch.tensor([0.0, 0.5, 1.0, 2.0]),
        "piece_knots": torch.arange(4.0).repeat(rows, len(PIECES), n_features, 1),
        "piece_tail": torch.ones(rows, len(PIECES), n_features),
        "score_knots": torch.arange(4.0).repeat(rows, 1),
        "score_tail": torch.ones(rows),
        "band": torch.zeros(rows, n_features, 3),
        "found_share": torch.ones(9),
        "event_prior": torch.tensor(0.01),
        "threshold": torch.tensor(3.0),
    }
