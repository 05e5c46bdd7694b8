"""Cutting training windows out of a panel on the training device, exactly as `model_inputs` cuts requests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clusterheal.contracts import FeaturePanel, WindowSpec
from clusterheal.errors import DataQualityError

MIN_SAMPLES = 16  # a series with fewer samples, or without any change, teaches nothing about change

LAG_WINDOWS = 2000


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows of N series; shapes as in `ModelInputs` without the feature axis.

    `recent` `(N, recent_steps)`, `seasonal` `(N, n_lags, seasonal_steps)`, `timestamp` int64 `(N,)` of the newest
    sample, `feature` int64 `(N,)` index into the contract, `target` `(N, horizon_steps)` NaN = no sample,
    `weight` `(N,)` one over the series' typical seasonal change, so that every series counts alike.
    """

    recent: Tensor
    seasonal: Tensor
    timestamp: Tensor
    feature: Tensor
    target: Tensor
    weight: Tensor


class WindowSource:
    """All trainable series of a panel, padded, on one device.

    A series is one feature of one entity. Only series with at least `MIN_SAMPLES` samples before `train_end` and
    some change among them take part.

    Raises:
        DataQualityError: no series takes part, or the history is too short for one window.
    """

    def __init__(self, panel: FeaturePanel, *, train_end: int, device: torch.device) -> None:
        self.window: WindowSpec = panel.contract.window
        self.n_steps = len(panel.timestamps)
        self.step_ns = panel.contract.step_ns
        self.first_ns = int(panel.timestamps[0]) if self.n_steps else 0
        flat = panel.values.transpose(0, 2, 1).reshape(-1, self.n_steps)
        feature = np.tile(np.arange(len(panel.contract.features)), len(panel.entities))
        change = typical_change(flat[:, :train_end], self.window.season_steps, self.window.horizon_steps)
        kept = np.flatnonzero((np.isfinite(flat[:, :train_end]).sum(1) >= MIN_SAMPLES) & (change > 0))
        if not len(kept):
            raise DataQualityError(
                f"none of {len(flat)} series has {MIN_SAMPLES} samples and any change before the end of training time; "
                "collect a longer history or check the queries"
            )
        self.padding = max(self.window.history_steps, self.window.recent_steps)
        padded = np.full((len(kept), self.padding + self.n_steps + self.window.horizon_steps), np.nan, np.float32)
        padded[:, self.padding : self.padding + self.n_steps] = flat[kept]
        self.values = torch.from_numpy(padded).to(device)
        self.feature = torch.from_numpy(feature[kept]).to(device)
        self.weight = torch.from_numpy((1.0 / change[kept]).astype(np.float32)).to(device)
        self.device = device
        self._recent = torch.arange(-self.window.recent_steps + 1, 1, device=device)
        self._horizon = torch.arange(1, self.window.horizon_steps + 1, device=device)
        lags = torch.tensor(self.window.season_lags, device=device, dtype=torch.int64)
        start = 1 - lags * self.window.season_steps - self.window.seasonal_before
        offsets = start[:, None] + torch.arange(self.window.seasonal_steps, device=device)
        self._ahead = offsets > 0
        self._seasonal = offsets.clamp(max=0)

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, series: Tensor, origin: Tensor) -> Batch:
        """Windows of `series` (`(N,)` row numbers of this source) with their newest sample at step `origin`."""
        at = origin + self.padding
        row = series[:, None]
        seasonal = self.values[row[:, :, None], at[:, None, None] + self._seasonal]
        return Batch(
            recent=self.values[row, at[:, None] + self._recent],
            seasonal=seasonal.masked_fill(self._ahead, float("nan")),
            timestamp=self.first_ns + origin * self.step_ns,
            feature=self.feature[series],
            target=self.values[row, at[:, None] + self._horizon],
            weight=self.weight[series],
        )

    def sample(self, count: int, low: int, high: int, generator: torch.Generator) -> Batch:
        """`count` windows, series and origins uniform, with all target steps in `[low, high)`."""
        series = torch.randint(0, len(self), (count,), generator=generator)
        last = max(low, high - self.window.horizon_steps)
        origin = torch.randint(low, last + 1, (count,), generator=generator) - 1
        return self.batch(series.to(self.device), origin.to(self.device))

    def lag_share(self, low: int, high: int) -> Tensor:
        """Share of windows with targets in `[low, high)` that have samples at each season lag; `(n_lags,)`."""
        batch = self.batch(*self.grid(low, high, per_series=max(4, LAG_WINDOWS // len(self))))
        return torch.isfinite(batch.seasonal).any(-1).float().mean(0)

    def grid(self, low: int, high: int, *, per_series: int) -> tuple[Tensor, Tensor]:
        """Series and origins of about `per_series` evenly spaced windows each, all targets in `[low, high)`."""
        last = max(low, high - self.window.horizon_steps)
        count = max(1, min(per_series, last - low + 1))
        origins = torch.linspace(low, last, count, dtype=torch.float64).round().long() - 1
        series, origin = torch.meshgrid(torch.arange(len(self)), origins, indexing="ij")
        return series.flatten().to(self.device), origin.flatten().to(self.device)


def typical_change(values: npt.NDArray[np.float32], season: int, horizon: int) -> npt.NDArray[np.float64]:
    """Mean absolute change over a season (over a horizon where there is less history), per row; 0 where unknown.

    `values`: `(n_series, n_steps)`, NaN = no sample. This is the scale that MASE divides by.
    """
    result = np.zeros(len(values))
    for lag in (season, horizon, 1):
        if values.shape[1] <= lag:
            continue
        change = np.abs(values[:, lag:].astype(np.float64) - values[:, :-lag])
        known = np.isfinite(change)
        count = known.sum(1)
        mean = np.where(known, change, 0.0).sum(1) / np.maximum(count, 1)
        result = np.where((result == 0) & (count >= MIN_SAMPLES), mean, result)
    return result
