"""Calibrated tails from a held-back slice: empirical quantiles and a generalised Pareto tail beyond them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def knots(values: Float64, levels: Float64) -> Float64:
    """Quantiles of `values` `(n, ...)` at chances `10 ** -levels`, on a new last axis; NaN rows are left out.

    Strictly ascending from 0: deviations are non-negative, and 0 is no evidence.
    """
    quantiles = np.nanquantile(values, 1.0 - 10.0 ** -levels[1:], axis=0) if len(values) else np.zeros(())
    stacked = np.moveaxis(np.concatenate([np.zeros_like(quantiles[:1]), quantiles]), 0, -1)
    return np.asarray(np.maximum.accumulate(np.nan_to_num(stacked), axis=-1))


def tail_scale(values: Float64, last: Float64, floor: Float64 | float) -> Float64:
    """Mean excess over `last` of the values above it, robust to a few wild ones, at least `floor`.

    The excesses are capped at four times their median before averaging, since unlabelled trouble in the data would
    otherwise stretch the tail until nothing alarms.
    """
    excess = np.where(values > last, values - last, np.nan)
    with np.errstate(all="ignore"):
        few = np.isfinite(excess).sum(0) < 3
        middle = np.nanmedian(np.where(few, 0.0, excess), axis=0)
        mean = np.nanmean(np.where(few, 0.0, np.minimum(excess, 4.0 * middle)), axis=0)
    return np.asarray(np.maximum(np.where(few, 0.0, mean), floor))
