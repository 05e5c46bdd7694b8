"""What follows from a forecast's quantiles: chance of passing a threshold, time to exhaustion, what would have been.

Pure functions of a `Forecast`; a feature without a forecast gives NaN or `None`, never an invented number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import Band, Forecast
from clusterheal.errors import InvalidInput

TINY = 1e-12

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Exhaustion:
    """When a limit is reached, counted from the forecast's origin.

    `earliest`, `median`, `latest`: of the outermost and the middle quantile path; `None` when that path never gets
    there. `extrapolated`: the median lies beyond the horizon and rests on the trend of the path alone.
    """

    earliest: timedelta | None
    median: timedelta | None
    latest: timedelta | None
    extrapolated: bool


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Observations after an action against what had been forecast without it.

    `difference`: mean of observed minus expected median, in the feature's unit. `rank`: mean forecast probability of a
    value at most as large as the observed one; 0.5 is as expected, near 0 or 1 is beyond what chance explains.
    `outside`: share of observations outside the outermost quantiles. `steps`: how many could be compared.
    """

    difference: float
    rank: float
    outside: float
    steps: int


def cumulative(forecast: Forecast, feature: str, value: float | Sequence[float] | Float64) -> Float64:
    """Forecast probability of a value at most `value` at each step, `(horizon_steps,)`; NaN without a forecast.

    Linear between quantiles; beyond the outermost ones an exponential tail goes on with the density next to it.
    """
    paths = _paths(forecast, feature)
    levels = np.asarray(forecast.levels, np.float64)
    at = np.broadcast_to(np.asarray(value, np.float64), paths.shape[:1])
    return np.array([_cdf(row, levels, x) for row, x in zip(paths, at, strict=True)])


def exceedance(forecast: Forecast, feature: str, threshold: float, *, above: bool = True) -> Float64:
    """Probability of lying above (or below) `threshold`, in the feature's unit, at each step; `(horizon_steps,)`."""
    _require_number("threshold", threshold)
    below = cumulative(forecast, feature, threshold)
    return 1.0 - below if above else below


def crossing_probability(forecast: Forecast, feature: str, threshold: float, *, above: bool = True) -> float:
    """Probability of passing `threshold` within the horizon; NaN without a forecast.

    The largest probability of any step: exact when the whole path moves with its quantile, otherwise a lower bound,
    since the steps' joint distribution is not forecast.
    """
    per_step = exceedance(forecast, feature, threshold, above=above)
    known = per_step[np.isfinite(per_step)]
    return float(known.max()) if len(known) else float("nan")


def time_to_exhaustion(
    forecast: Forecast,
    feature: str,
    limit: float,
    *,
    above: bool = True,
    furthest: timedelta = timedelta(days=7),
    observed: float | None = None,
) -> Exhaustion:
    """When `feature` reaches `limit`: from below (`above`, disk used) or from above (certificate days left).

    Within the horizon from the quantile paths; beyond it along the straight line through each path's second half, up
    to `furthest`. `observed`: the value at the origin; when it is at the limit already, all times are zero, whatever
    the forecast says about coming back.

    Raises:
        InvalidInput: the forecast has no such feature, or the limit is no number.
    """
    paths = _paths(forecast, feature)
    _require_number("limit", limit)
    if observed is not None and np.isfinite(observed) and (observed >= limit if above else observed <= limit):
        zero = timedelta(0)
        return Exhaustion(earliest=zero, median=zero, latest=zero, extrapolated=False)
    sign = 1.0 if above else -1.0
    ordered = paths if above else paths[:, ::-1]
    middle = int(np.argmin(np.abs(np.asarray(forecast.levels) - 0.5)))
    middle = middle if above else paths.shape[1] - 1 - middle
    steps = [_reach(sign * ordered[:, i], sign * limit) for i in (paths.shape[1] - 1, middle, 0)]
    times = [None if s is None or s * forecast.step > furthest else s * forecast.step for s in steps]
    median = times[1]
    return Exhaustion(
        earliest=times[0],
        median=median,
        latest=times[2],
        extrapolated=median is not None and median > len(paths) * forecast.step,
    )


def expected_at(forecast: Forecast, feature: str, when: datetime, observed: float | None = None) -> Band | None:
    """What was expected at a time had nothing been done; `None` without a forecast or outside the horizon.

    The band is the widest that the levels allow (80 % for 0.1 to 0.9); between steps it is interpolated.
    """
    paths = _paths(forecast, feature)
    position = (when - forecast.origin) / forecast.step - 1.0
    if not -1.0 < position <= len(paths) - 1 or not np.isfinite(paths).all():
        return None
    row = _row_at(paths, position)
    median = float(np.interp(0.5, forecast.levels, row))
    return Band(low=float(row[0]), median=median, high=float(row[-1]), observed=observed)


def effect(
    forecast: Forecast, feature: str, times: Sequence[datetime], observed: Sequence[float | None]
) -> Effect | None:
    """Compare observations with a forecast made before an action; `None` when nothing can be compared.

    Raises:
        InvalidInput: not one observation per time.
    """
    if len(times) != len(observed):
        raise InvalidInput(f"expected one observation per time, got {len(observed)} for {len(times)} times")
    paths = _paths(forecast, feature)
    levels = np.asarray(forecast.levels, np.float64)
    differences: list[float] = []
    ranks: list[float] = []
    outside = 0
    for when, value in zip(times, observed, strict=True):
        band = None if value is None or not np.isfinite(value) else expected_at(forecast, feature, when)
        if band is None or value is None:
            continue
        row = _row_at(paths, (when - forecast.origin) / forecast.step - 1.0)
        differences.append(value - band.median)
        ranks.append(_cdf(row, levels, value))
        outside += not band.low <= value <= band.high
    if not differences:
        return None
    return Effect(
        difference=float(np.mean(differences)),
        rank=float(np.mean(ranks)),
        outside=outside / len(differences),
        steps=len(differences),
    )


def _paths(forecast: Forecast, feature: str) -> Float64:
    """`(horizon_steps, n_levels)` of one feature.

    Raises:
        InvalidInput: the forecast has no such feature.
    """
    if feature not in forecast.feature_names:
        raise InvalidInput(f"no forecast of {feature!r}; expected one of {', '.join(forecast.feature_names)}")
    return forecast.quantiles[:, forecast.feature_names.index(feature), :].astype(np.float64)


def _require_number(name: str, value: float) -> None:
    if not np.isfinite(value):
        raise InvalidInput(f"{name}: expected a number in the feature's unit, got {value}")


def _row_at(paths: Float64, position: float) -> Float64:
    """Quantiles at a fractional step; before the first step those of the first."""
    clipped = min(max(position, 0.0), len(paths) - 1.0)
    low = int(clipped)
    high = min(low + 1, len(paths) - 1)
    share = clipped - low
    return np.asarray((1 - share) * paths[low] + share * paths[high])


def _cdf(row: Float64, levels: Float64, x: float) -> float:
    if not np.isfinite(row).all():
        return float("nan")
    if x < row[0]:
        width = (row[1] - row[0]) * levels[0] / (levels[1] - levels[0])
        return float(levels[0] * np.exp(-(row[0] - x) / max(width, TINY)))
    if x > row[-1]:
        rest = 1.0 - levels[-1]
        width = (row[-1] - row[-2]) * rest / (levels[-1] - levels[-2])
        return float(1.0 - rest * np.exp(-(x - row[-1]) / max(width, TINY)))
    if row[0] == row[-1]:
        return 0.5  # a forecast without width, met exactly
    return float(np.interp(x, row, levels))


def _reach(path: Float64, limit: float) -> float | None:
    """Steps after the origin at which a path first is at `limit` or above; extrapolated along its second half."""
    if not np.isfinite(path).all():
        return None
    hit = np.flatnonzero(path >= limit)
    if len(hit):
        step = int(hit[0])
        if step == 0:
            return 1.0
        before, after = path[step - 1], path[step]
        return step + float((limit - before) / max(after - before, TINY))
    half = path[len(path) // 2 :]
    if len(half) < 2:
        return None
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0])
    if slope <= TINY * max(1.0, abs(limit)):
        return None
    return len(path) + float((limit - path[-1]) / slope)


__all__ = [
    "Effect",
    "Exhaustion",
    "crossing_probability",
    "cumulative",
    "effect",
    "exceedance",
    "expected_at",
    "time_to_exhaustion",
]
