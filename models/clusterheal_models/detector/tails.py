"""Calibrated tails: empirical quantiles, and a generalised Pareto tail beyond them.

Numpy fits them, torch applies them inside the graph.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Float64 = npt.NDArray[np.float64]

LEVELS = (0.0, 0.5, 1.0, 2.0)
"""-log10 of the chances at which quantiles are taken: all, a third, a tenth, a hundredth."""

SHAPE = 0.1
"""Shape of the Pareto tail: heavier than exponential, so that rare normal peaks are not taken for certain trouble."""

LEAST_KNOT = 0.1
LEAST_GAP = 0.02
LEAST_TAIL = 0.1
LN10 = 2.302585092994046


def tail_score(value: Tensor, knots: Tensor, tail: Tensor) -> Tensor:
    """-log10 of the chance of a value at least this large under normal operation.

    `knots` `(..., K)` ascending values at which the chance is `10 ** -LEVELS[k]`; between them the score is linear.
    Beyond the last knot a generalised Pareto tail of scale `tail` `(...)` goes on without bound, so scores never tie.
    """
    score = torch.log1p(SHAPE * (value - knots[..., -1]).clamp(min=0.0) / tail) / (SHAPE * LN10)
    for k in range(len(LEVELS) - 1):
        low, high = knots[..., k], knots[..., k + 1]
        score = score + ((value - low) / (high - low)).clamp(0.0, 1.0) * (LEVELS[k + 1] - LEVELS[k])
    return score


def fit_tail(values: Float64, *, calibrated: bool = False) -> tuple[Float64, Float64]:
    """Knots `(..., K)` and tail scale `(...)` of samples `(n, ...)`; NaN samples are left out.

    Deviations are non-negative and 0 is no evidence, so the first knot is 0. Knots keep a least distance and a tail a
    least scale: what hardly ever moved in training would otherwise make certain trouble of a rounding error. Excesses
    are capped at four times their median before they are averaged, since unlabelled trouble in the data would stretch
    the tail until nothing alarms.

    `calibrated` says that the samples are -log10 probabilities already, if of dependent pieces: then no knot lies
    below its level and the tail is no shorter than theirs, 1 / ln 10. A short calm slice cannot claim more.
    """
    count = len(LEVELS)
    steps = np.arange(count, dtype=np.float64)
    quantiles = [_quantile(values, 1.0 - 10.0**-level) for level in LEVELS[1:]]
    knots = np.stack([np.zeros(values.shape[1:]), *quantiles], axis=-1)
    knots = np.maximum.accumulate(np.maximum(np.nan_to_num(knots), LEAST_KNOT * steps) + LEAST_GAP * steps, axis=-1)
    if calibrated:
        knots = np.maximum(knots, np.asarray(LEVELS))
    floor = np.maximum(0.25 * (knots[..., -1] - knots[..., -2]), 1.0 / LN10 if calibrated else LEAST_TAIL)
    excess = values - knots[..., -1]
    excess = np.where(excess > 0, excess, np.nan)
    few = np.isfinite(excess).sum(0) < 3
    excess = np.where(few, 0.0, excess)
    middle = _quantile(excess, 0.5)
    capped = np.minimum(excess, 4.0 * middle)
    seen = np.isfinite(capped)
    mean = np.where(seen, capped, 0.0).sum(0) / np.maximum(seen.sum(0), 1)
    return knots, np.asarray(np.maximum(mean, floor))


def fit_typical_tail(blocks: list[Float64]) -> tuple[Float64, Float64]:
    """Medians of `fit_tail` over blocks of time, each at least a season long.

    Trouble that nobody labelled fills a few blocks and leaves the median alone; what is wild every day stays wild.
    Blocks without a sample of something are left out for it.
    """
    fits = [fit_tail(block) for block in blocks]
    seen = np.stack([np.isfinite(block).any(0) for block in blocks])
    seen |= ~seen.any(0)
    knots = np.where(seen[..., None], np.stack([k for k, _ in fits]), np.nan)
    tails = np.where(seen, np.stack([t for _, t in fits]), np.nan)
    return np.nanmedian(knots, axis=0), np.nanmedian(tails, axis=0)


def _quantile(values: Float64, q: float) -> Float64:
    """Over axis 0 without NaN; 0 where there is nothing."""
    full = np.isfinite(values)
    if full.all() and len(values):
        return np.asarray(np.quantile(values, q, axis=0))
    out = np.zeros(values.shape[1:])
    for index in np.ndindex(out.shape):
        column = values[(slice(None), *index)]
        column = column[np.isfinite(column)]
        if column.size:
            out[index] = np.quantile(column, q)
    return out
