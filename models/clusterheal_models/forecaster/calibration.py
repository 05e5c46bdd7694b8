"""Conformal widening: make the quantiles true on a slice of time that training did not see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clusterheal_models.forecaster.config import LEVELS
from clusterheal_models.forecaster.network import MIDDLE, N_LEVELS, ForecastNet
from clusterheal_models.forecaster.windows import Batch, WindowSource

MIN_WINDOWS = 30  # fewer say too little about an 80 % interval: the network's own width stays
LOWEST, HIGHEST = 0.5, 3.0
DOUBT = 20.0  # horizons that a slice must hold before its own coverage counts as much as the network's width
WINDOWS = 3000
MOST_WINDOWS = 40_000  # with many series, some of them stand for all
BATCH = 512

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`widening` `(H, Q)` per horizon step and level; coverage of the 80 % interval on the slice before and after."""

    widening: Float64
    windows: int
    coverage_before: float
    coverage_after: float


def calibrate(net: ForecastNet, source: WindowSource, low: int, high: int) -> Calibration:
    """Fit the widening on windows whose targets lie in steps `[low, high)` and set it on `net`.

    A slice of few horizons is one mood of the system, whatever the number of windows cut from it; so the factor is
    drawn towards one the fewer horizons there are.
    """
    quantiles, target = predict_grid(net, source, low, high)
    median = quantiles[..., MIDDLE]
    before = coverage(quantiles, target)
    count = int(np.isfinite(target).any(1).sum())
    widening = np.ones((target.shape[1], N_LEVELS))
    if count >= MIN_WINDOWS:
        smooth = max(1, target.shape[1] // 4)
        below = _factor(median - target, median - quantiles[..., 0], 1 - LEVELS[0], smooth)
        above = _factor(target - median, quantiles[..., -1] - median, LEVELS[-1], smooth)
        horizons = (high - low) / target.shape[1]
        trust = horizons / (horizons + DOUBT)
        widening[:, :MIDDLE] = 1 + trust * (below[:, None] - 1)
        widening[:, MIDDLE + 1 :] = 1 + trust * (above[:, None] - 1)
    widened = median[..., None] + (quantiles - median[..., None]) * widening
    net.widening.copy_(torch.from_numpy(widening))
    return Calibration(
        widening=widening, windows=count, coverage_before=before, coverage_after=coverage(widened, target)
    )


def predict_grid(net: ForecastNet, source: WindowSource, low: int, high: int) -> tuple[Float64, Float64]:
    """Un-widened ensemble quantiles `(n, H, Q)` and targets `(n, H)` of evenly spaced windows."""
    series, origin = source.grid(low, high, windows=WINDOWS, per_series=8, most=MOST_WINDOWS)
    quantiles: list[Tensor] = []
    target: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(series), BATCH):
            batch = source.batch(series[start : start + BATCH], origin[start : start + BATCH])
            quantiles.append(ensemble(net, batch).cpu())
            target.append(batch.target.cpu())
    return torch.cat(quantiles).double().numpy(), torch.cat(target).double().numpy()


def ensemble(net: ForecastNet, batch: Batch) -> Tensor:
    members = net.rows(batch.recent, batch.seasonal, batch.timestamp, batch.feature)
    return torch.stack(members).mean(0)


def coverage(quantiles: Float64, target: Float64) -> float:
    """Share of known targets inside the outermost quantiles; NaN when none is known."""
    known = np.isfinite(target) & np.isfinite(quantiles[..., 0])
    inside = (target >= quantiles[..., 0]) & (target <= quantiles[..., -1])
    return float(inside[known].mean()) if known.any() else float("nan")


def _factor(distance: Float64, gap: Float64, level: float, smooth: int) -> Float64:
    """Per horizon step the factor on `gap` that `level` of the distances stay below, smoothed over steps."""
    ratio = np.where(np.isfinite(distance) & (gap > 0), distance / np.where(gap > 0, gap, 1.0), np.nan)
    horizon = ratio.shape[1]
    out = np.ones(horizon)
    for step in range(horizon):
        near = ratio[:, max(0, step - smooth) : step + smooth + 1]
        near = near[np.isfinite(near)]
        if len(near):
            out[step] = np.clip(np.quantile(near, level), LOWEST, HIGHEST)
    return out
