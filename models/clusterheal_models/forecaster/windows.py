"""Cutting training windows out of a panel on the training device, exactly as `model_inputs` cuts requests."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from clusterheal.contracts import FeaturePanel, WindowSpec
from clusterheal.errors import DataQualityError
from clusterheal_models.compute import fits

log = logging.getLogger(__name__)

MIN_SAMPLES = 16  # a series with fewer samples, or without any change, teaches nothing about change

LAG_WINDOWS = 2000
LEAST_PER_SERIES = 4
CHUNK_CELLS = 500_000  # of the panel at a time, while series are looked through


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

    def known(self) -> Tensor:
        """How many target samples there are, a scalar."""
        return torch.isfinite(self.target).sum()


class WindowSource:
    """All trainable series of a panel, cut into windows on one device.

    A series is one feature of one entity. Only series with at least `MIN_SAMPLES` samples before `train_end` and
    some change among them take part. `resident`: the series lie padded on the device; otherwise windows are cut from
    the panel's own array, which may be a file mapped into memory, and sent to the device batch by batch.
    `None` decides by the memory that is free.

    Raises:
        DataQualityError: no series takes part, or the history is too short for one window.
    """

    def __init__(
        self, panel: FeaturePanel, *, train_end: int, device: torch.device, resident: bool | None = None
    ) -> None:
        self.window: WindowSpec = panel.contract.window
        self.n_steps = len(panel.timestamps)
        self.step_ns = panel.contract.step_ns
        self.first_ns = int(panel.timestamps[0]) if self.n_steps else 0
        self.device = device
        self.padding = max(self.window.history_steps, self.window.recent_steps)
        self._panel = panel.values
        kept, change = self._trainable(train_end)
        n_features = len(panel.contract.features)
        self._kept = kept
        self.feature = kept % n_features
        self.weight = (1.0 / change).float()
        width = self.padding + self.n_steps + self.window.horizon_steps
        size = 4 * width * len(kept)
        self.resident = fits(size, device) if resident is None else resident
        self._values = self._padded(width) if self.resident else None
        log.info(
            "training data: %d series, %.1f MiB on %s: %s",
            len(kept),
            size / 2**20,
            device,
            "all of them lie there" if self.resident else "they do not fit, windows are streamed from the panel",
        )
        self._recent = torch.arange(-self.window.recent_steps + 1, 1, device=device)
        self._horizon = torch.arange(1, self.window.horizon_steps + 1, device=device)
        lags = torch.tensor(self.window.season_lags, device=device, dtype=torch.int64)
        start = 1 - lags * self.window.season_steps - self.window.seasonal_before
        offsets = start[:, None] + torch.arange(self.window.seasonal_steps, device=device)
        self._ahead = offsets > 0
        self._seasonal = offsets.clamp(max=0)

    def __len__(self) -> int:
        return len(self.feature)

    @property
    def n_samples(self) -> int:
        """Grid cells of the series that take part."""
        return len(self) * self.n_steps

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the panel's values and their times: a checkpoint belongs to these alone."""
        digest = hashlib.sha256(f"{self.first_ns} {self.step_ns} {self._panel.shape}".encode())
        for entity in self._panel:
            digest.update(np.ascontiguousarray(entity).data)
        return digest.hexdigest()

    def batch(self, series: Tensor, origin: Tensor) -> Batch:
        """Windows of `series` (`(N,)` row numbers of this source) with their newest sample at step `origin`."""
        at = origin[:, None]
        seasonal = self._cut(series, (at[:, None] + self._seasonal).flatten(1))
        return Batch(
            recent=self._cut(series, at + self._recent),
            seasonal=seasonal.reshape(-1, *self._ahead.shape).masked_fill(self._ahead, float("nan")),
            timestamp=self.first_ns + origin * self.step_ns,
            feature=self.feature[series],
            target=self._cut(series, at + self._horizon),
            weight=self.weight[series],
        )

    def draw(self, count: int, low: int, high: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Series and origins of `count` windows, uniform, with all target steps in `[low, high)`; both `(count,)`."""
        series = torch.randint(0, len(self), (count,), generator=generator, device=generator.device)
        last = max(low, high - self.window.horizon_steps)
        origin = torch.randint(low, last + 1, (count,), generator=generator, device=generator.device) - 1
        return series, origin

    def lag_share(self, low: int, high: int) -> Tensor:
        """Share of windows with targets in `[low, high)` that have samples at each season lag; `(n_lags,)`."""
        batch = self.batch(*self.grid(low, high, windows=LAG_WINDOWS))
        return torch.isfinite(batch.seasonal).any(-1).float().mean(0)

    def grid(
        self, low: int, high: int, *, windows: int, per_series: int = LEAST_PER_SERIES, most: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Series and origins of about `windows` evenly spaced windows, all targets in `[low, high)`.

        At least `per_series` of a series; with more series than `most` (four times `windows`) allows for, every so
        many series are left out.
        """
        n = len(self)
        chosen = torch.arange(n)
        if n * per_series > (most or 4 * windows):
            chosen = torch.linspace(0, n - 1, (most or 4 * windows) // per_series, dtype=torch.float64).round().long()
        last = max(low, high - self.window.horizon_steps)
        count = max(1, min(max(per_series, windows // n), last - low + 1))
        origins = torch.linspace(low, last, count, dtype=torch.float64).round().long() - 1
        series, origin = torch.meshgrid(chosen, origins, indexing="ij")
        return series.flatten().to(self.device), origin.flatten().to(self.device)

    def _cut(self, series: Tensor, step: Tensor) -> Tensor:
        """Samples `(N, k)` of `series` `(N,)` at panel steps `(N, k)`; NaN where the panel has no such step."""
        if self._values is not None:
            return self._values[series[:, None], step + self.padding]
        n_features = self._panel.shape[2]
        kept = self._kept[series].cpu().numpy()[:, None]
        at = step.cpu().numpy()
        inside = (at >= 0) & (at < self.n_steps)
        found = self._panel[kept // n_features, np.where(inside, at, 0), kept % n_features]
        return torch.from_numpy(np.where(inside, found, np.float32(np.nan))).to(self.device)

    def _trainable(self, train_end: int) -> tuple[Tensor, Tensor]:
        """Numbers (entity * n_features + feature) of the series that take part, and their typical change."""
        kept, changes = [], []
        for first, block in self._blocks():
            block = block[:, :train_end]
            change = typical_change(block, self.window.season_steps, self.window.horizon_steps)
            usable = torch.nonzero((torch.isfinite(block).sum(1) >= MIN_SAMPLES) & (change > 0)).flatten()
            kept.append(usable + first)
            changes.append(change[usable])
        if not sum(map(len, kept)):
            raise DataQualityError(
                f"none of {self._panel.shape[0] * self._panel.shape[2]} series has {MIN_SAMPLES} samples and any "
                "change before the end of training time; collect a longer history or check the queries"
            )
        return torch.cat(kept), torch.cat(changes)

    def _padded(self, width: int) -> Tensor:
        """The series that take part, `(n_series, width)`, with NaN before and after."""
        padded = torch.full((len(self), width), float("nan"), device=self.device)
        for first, block in self._blocks():
            rows = torch.nonzero((self._kept >= first) & (self._kept < first + len(block))).flatten()
            padded[rows, self.padding : self.padding + self.n_steps] = block[self._kept[rows] - first]
        return padded

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """The panel's series, `(n, n_steps)` on the device, some entities at a time, after the number of the first."""
        n_entities, n_steps, n_features = self._panel.shape
        each = max(1, CHUNK_CELLS // max(1, n_steps * n_features))
        for start in range(0, n_entities, each):
            part = torch.tensor(self._panel[start : start + each], device=self.device)
            yield start * n_features, part.transpose(1, 2).reshape(-1, n_steps)


def typical_change(values: Tensor, season: int, horizon: int) -> Tensor:
    """Mean absolute change over a season (over a horizon where there is less history), float64 per row; 0 if unknown.

    `values`: `(n_series, n_steps)`, NaN = no sample. This is the scale that MASE divides by.
    """
    result = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    for lag in (season, horizon, 1):
        if values.shape[1] <= lag:
            continue
        change = (values[:, lag:].double() - values[:, :-lag]).abs()
        known = torch.isfinite(change)
        count = known.sum(1)
        mean = torch.where(known, change, 0.0).sum(1) / count.clamp(min=1)
        result = torch.where((result == 0) & (count >= MIN_SAMPLES), mean, result)
    return result
