"""What the models say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from clusterheal.contracts.frames import Float32


@dataclass(frozen=True, kw_only=True)
class Band:
    """What the model expected of one feature at one time, in the feature's unit; 80 % of values fall inside."""

    low: float
    median: float
    high: float
    observed: float | None


@dataclass(frozen=True, kw_only=True)
class Detection:
    """The anomaly detector's word on one entity at one time.

    `score`: -log10 of `tail_probability`, the calibrated chance of a window at least this odd under normal operation.
    `alarm`: the score passed the package's own threshold.
    `confidence`: calibrated probability in [0, 1] that the alarm is real.
    `contributions`: per feature; they add up to `score`.
    """

    entity: str
    time: datetime
    score: float
    tail_probability: float
    alarm: bool
    confidence: float
    contributions: Mapping[str, float]
    expected: Mapping[str, Band]
    model_version: str
    contract_sha256: str


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The forecaster's quantile paths for one entity.

    `quantiles`: float32 `(horizon_steps, n_features, n_levels)` in the features' units, non-decreasing over levels.
    `levels`: the quantile levels, ascending, in (0, 1).
    `origin`: time of the newest sample used; step `h` (0-based) is `origin + (h + 1) * step`.
    """

    entity: str
    origin: datetime
    step: timedelta
    levels: tuple[float, ...]
    feature_names: tuple[str, ...]
    quantiles: Float32
    model_version: str
    contract_sha256: str
