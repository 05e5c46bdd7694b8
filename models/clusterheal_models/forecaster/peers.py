"""The naive peers: last value and seasonal naive, with the spread of their own past errors as quantiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import FeaturePanel, TimeSplit
from clusterheal_models.forecaster.config import LEVELS

PAST_ORIGINS = 64

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class NaiveForecaster:
    """Repeats the newest sample (`lag` 0) or the last season (`lag` steps).

    `errors`: `(n_entities, H, F, Q)` quantiles of past errors per series and horizon step.
    """

    name: str
    lag: int
    errors: Float64

    @classmethod
    def fit(cls, panel: FeaturePanel, split: TimeSplit, lag: int) -> NaiveForecaster:
        """Errors at evenly spaced origins before the end of the calibration slice."""
        horizon = panel.contract.window.horizon_steps
        end = int(np.searchsorted(panel.timestamps, split.calibration_end_ns))
        low = min(max(lag, 1), max(end - horizon, 1))
        starts = np.unique(np.linspace(low, max(end - horizon, low), PAST_ORIGINS).round().astype(int))
        residuals = []
        for start in starts:
            target = panel.values[:, start : start + horizon].astype(np.float64)
            if target.shape[1] == horizon:
                residuals.append(target - point_forecast(panel, start - 1, lag, horizon))
        stacked = np.stack(residuals) if residuals else np.zeros((1, len(panel.entities), horizon, 1))
        errors = nan_quantiles(stacked, np.asarray(LEVELS))
        return cls(name="persistence" if lag == 0 else "seasonal_naive", lag=lag, errors=errors)

    def predict(self, panel: FeaturePanel, origin: int) -> Float64:
        """`(n_entities, H, F, Q)` with the newest sample at row `origin`; NaN where nothing is known."""
        point = point_forecast(panel, origin, self.lag, self.errors.shape[1])
        return point[..., None] + self.errors


def point_forecast(panel: FeaturePanel, origin: int, lag: int, horizon: int) -> Float64:
    """`(n_entities, H, F)`: the newest sample at or before `origin`, or the sample whole lags earlier.

    Where the earlier season has no sample, the newest one stands in.
    """
    past = panel.values[:, max(0, origin + 1 - panel.contract.window.recent_steps) : origin + 1].astype(np.float64)
    steps = np.arange(past.shape[1])[None, :, None]
    at = np.where(np.isfinite(past), steps, -1).max(1)
    newest = np.take_along_axis(past, np.maximum(at, 0)[:, None, :], axis=1)
    newest = np.where(at[:, None, :] >= 0, newest, np.nan).repeat(horizon, axis=1)
    if lag == 0:
        return newest
    ahead = np.arange(1, horizon + 1)
    rows = origin + ahead - lag * ((ahead + lag - 1) // lag)
    earlier = np.where((rows >= 0)[None, :, None], panel.values[:, np.maximum(rows, 0)].astype(np.float64), np.nan)
    return np.where(np.isfinite(earlier), earlier, newest)


def nan_quantiles(values: Float64, levels: Float64) -> Float64:
    """Quantiles over axis 0, moved to the end; NaN where nothing is known. Nearest rank, so it is fast and monotone."""
    ordered = np.sort(values, axis=0)
    count = np.isfinite(values).sum(0)
    rank = np.rint(levels * np.maximum(count - 1, 0)[..., None]).astype(int)
    picked = np.take_along_axis(ordered, np.moveaxis(rank, -1, 0), axis=0)
    return np.moveaxis(picked, 0, -1)
