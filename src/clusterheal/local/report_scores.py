"""What the served models say about one entity over an incident, asked once more over HTTP, for the report's plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from clusterheal.contracts import (
    Detection,
    FeatureContract,
    FeaturePanel,
    Forecast,
    ModelInputs,
    entity_key,
    model_inputs,
)
from clusterheal.errors import PermanentError
from clusterheal.inference.client import InferenceClient
from clusterheal.metrics.client import PrometheusClient
from clusterheal.settings import PrometheusSettings

TOP_FEATURES = 3
MAX_TIMES = 24
MIN_SPACING_SECONDS = 5


@dataclass(kw_only=True)
class Scores:
    """One entity over time. `times` ISO 8601; per feature of `features` the observed values and the expected band.

    `forecast`: per feature, from `forecast_origin` on: times and the 10, 50 and 90 % paths.
    """

    entity: str
    times: list[str]
    score: list[float]
    alarm: list[bool]
    confidence: list[float]
    features: list[str]
    units: dict[str, str]
    observed: dict[str, list[float | None]] = field(default_factory=dict)
    low: dict[str, list[float]] = field(default_factory=dict)
    median: dict[str, list[float]] = field(default_factory=dict)
    high: dict[str, list[float]] = field(default_factory=dict)
    forecast_origin: str = ""
    forecast: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


async def score_entity(
    prometheus: PrometheusSettings,
    detector: InferenceClient,
    forecaster: InferenceClient,
    contract: FeatureContract,
    entity: str,
    *,
    start: datetime,
    end: datetime,
    forecast_at: datetime,
    first: str | None = None,
) -> Scores:
    """Score `entity` at even times of `[start, end]`, and forecast it from `forecast_at`.

    `first` is a feature to show above the detector's leading ones.

    Raises:
        PermanentError: the entity has no samples then.
        RetryableError, ContractMismatch: as the clients.
    """
    step = round(contract.step.total_seconds())
    spacing = even_spacing((end - start).total_seconds() / MAX_TIMES, step)
    async with PrometheusClient(prometheus) as client:
        series = await _Series.fetch(client, contract, entity, start, end, spacing)
    count = int((end - start).total_seconds() // spacing)
    inputs = _joined([series.inputs(end - timedelta(seconds=spacing * back)) for back in range(count, -1, -1)])
    detections = await detector.detect(inputs)
    forecasts = await forecaster.forecast(series.inputs(forecast_at))
    if not detections or not forecasts:
        raise PermanentError(f"the models say nothing about {entity} between {start} and {end}")
    return _scores(entity, contract, detections, forecasts[0], first=first)


def even_spacing(wanted_seconds: float, step_seconds: int) -> int:
    """The smallest divisor of the step that is at least `wanted_seconds` and `MIN_SPACING_SECONDS`, else the step."""
    least = max(MIN_SPACING_SECONDS, wanted_seconds)
    return next((s for s in range(1, step_seconds) if s >= least and step_seconds % s == 0), step_seconds)


class _Series:
    """Feature values of one entity every `spacing` seconds back from `end`; only what the models look at is fetched.

    `values`: float32 `(n_rows, n_features)`, oldest first, NaN = no sample; the last row is at `end`.
    """

    def __init__(self, contract: FeatureContract, entity: str, spacing: int, start: datetime, end: datetime) -> None:
        self._contract = contract
        self._entity = entity
        self._spacing = spacing
        self._end = end
        self._stride = round(contract.step.total_seconds()) // spacing
        rows = self._row_back(start) + contract.window.history_steps * self._stride + 1
        self._values = np.full((rows, len(contract.features)), np.nan, np.float32)

    @classmethod
    async def fetch(
        cls,
        client: PrometheusClient,
        contract: FeatureContract,
        entity: str,
        start: datetime,
        end: datetime,
        spacing: int,
    ) -> _Series:
        self = cls(contract, entity, spacing, start, end)
        kind = next(k for k in contract.entity_kinds if entity.startswith(f"{k.name}/"))
        for first, last in _stretches(contract, start, end):
            newest = self._row_back(last)
            for number, feature in enumerate(contract.features):
                if feature.entity_kind != kind.name:
                    continue
                frame = await client.query_range(
                    feature.promql, start=self._time(self._row_back(first)), end=self._time(newest), step=self._step
                )
                own = [i for i, labels in enumerate(frame.labels) if entity_key(kind, labels) == entity]
                if own:
                    stop = len(self._values) - newest
                    column = frame.values[-stop:, own[0]]
                    self._values[stop - len(column) : stop, number] = column
        return self

    @property
    def _step(self) -> timedelta:
        return timedelta(seconds=self._spacing)

    def _row_back(self, time: datetime) -> int:
        """How many rows before the last one `time` is, rounded towards the past."""
        return max(0, int(np.ceil((self._end - time).total_seconds() / self._spacing)))

    def _time(self, back: int) -> datetime:
        return self._end - back * self._step

    def inputs(self, origin: datetime) -> ModelInputs:
        """The request whose newest step is at `origin`, or at the row before it."""
        back = self._row_back(origin)
        length = self._contract.window.history_steps
        last = len(self._values) - 1 - back
        values = self._values[last - (length - 1) * self._stride : last + 1 : self._stride]
        newest = np.int64(round(self._time(back).timestamp())) * 10**9
        return model_inputs(
            FeaturePanel(
                values=np.ascontiguousarray(values[None]),
                timestamps=newest - np.arange(length - 1, -1, -1, dtype=np.int64) * self._contract.step_ns,
                entities=(self._entity,),
                contract=self._contract,
            )
        )


def _stretches(contract: FeatureContract, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    window, step = contract.window, contract.step
    stretches = [(start - window.recent_steps * step, end)]
    for lag in window.season_lags:
        shift = (lag * window.season_steps + window.seasonal_before) * step
        stretches.append((start - shift, end - shift + (window.seasonal_steps + 1) * step))
    return [(first, min(last, end)) for first, last in stretches]


def _joined(parts: Sequence[ModelInputs]) -> ModelInputs:
    return ModelInputs(
        recent=np.concatenate([p.recent for p in parts]),
        seasonal=np.concatenate([p.seasonal for p in parts]),
        timestamp=np.concatenate([p.timestamp for p in parts]),
        entity=tuple(e for p in parts for e in p.entity),
    )


def _scores(
    entity: str,
    contract: FeatureContract,
    detections: Sequence[Detection],
    forecast: Forecast,
    *,
    first: str | None,
) -> Scores:
    peak = max(detections, key=lambda d: d.score)
    ranked = sorted(peak.contributions, key=lambda name: (name != first, -peak.contributions[name]))
    features = ranked[:TOP_FEATURES]
    scores = Scores(
        entity=entity,
        times=[d.time.isoformat() for d in detections],
        score=[float(d.score) for d in detections],
        alarm=[bool(d.alarm) for d in detections],
        confidence=[float(d.confidence) for d in detections],
        features=features,
        units={f.name: f.unit for f in contract.features if f.name in features},
    )
    for name in features:
        bands = [d.expected[name] for d in detections]
        scores.observed[name] = [None if b.observed is None else float(b.observed) for b in bands]
        scores.low[name] = [float(b.low) for b in bands]
        scores.median[name] = [float(b.median) for b in bands]
        scores.high[name] = [float(b.high) for b in bands]
    _add_forecast(scores, forecast)
    return scores


def _add_forecast(scores: Scores, forecast: Forecast) -> None:
    levels = np.asarray(forecast.levels)
    steps = np.arange(1, forecast.quantiles.shape[0] + 1)
    times = [(forecast.origin + int(h) * forecast.step).astimezone(UTC).isoformat() for h in steps]
    scores.forecast_origin = forecast.origin.astimezone(UTC).isoformat()
    for name in scores.features:
        paths = forecast.quantiles[:, forecast.feature_names.index(name), :]
        chosen = {label: int(np.abs(levels - level).argmin()) for label, level in _SHOWN.items()}
        scores.forecast[name] = {
            "times": times,
            **{label: [float(v) for v in paths[:, i]] for label, i in chosen.items()},
        }


_SHOWN = {"low": 0.1, "median": 0.5, "high": 0.9}

__all__ = ["Scores", "score_entity"]
