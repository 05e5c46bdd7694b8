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
    Float32,
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
MAX_TIMES = 60


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
) -> Scores:
    """Score `entity` at even times of `[start, end]`, and forecast it from `forecast_at`.

    Raises:
        PermanentError: the entity has no samples then.
        RetryableError, ContractMismatch: as the clients.
    """
    spacing = max(1, round((end - start).total_seconds() / MAX_TIMES))
    async with PrometheusClient(prometheus) as client:
        series = await _Series.fetch(client, contract, entity, start, end, spacing)
    times = [start + timedelta(seconds=spacing * i) for i in range(int((end - start).total_seconds() / spacing) + 1)]
    inputs = _joined([series.inputs(time) for time in times])
    detections = await detector.detect(inputs)
    forecasts = await forecaster.forecast(series.inputs(series.nearest(forecast_at)))
    if not detections or not forecasts:
        raise PermanentError(f"the models say nothing about {entity} between {start} and {end}")
    return _scores(entity, contract, detections, forecasts[0])


class _Series:
    """Feature values of one entity every `spacing` seconds, over the stretches that the models look at."""

    def __init__(self, contract: FeatureContract, entity: str, spacing: int, end: datetime) -> None:
        self._contract = contract
        self._entity = entity
        self._spacing = spacing
        self._end = end
        self._values: dict[int, Float32] = {}

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
        self = cls(contract, entity, spacing, end)
        for first, last in _stretches(contract, start, end):
            for number, feature in enumerate(contract.features):
                kind = next(k for k in contract.entity_kinds if k.name == feature.entity_kind)
                if not entity.startswith(f"{kind.name}/"):
                    continue
                frame = await client.query_range(
                    feature.promql, start=self._on_grid(first), end=last, step=timedelta(seconds=spacing)
                )
                own = [i for i, labels in enumerate(frame.labels) if entity_key(kind, labels) == entity]
                for at, value in zip(frame.timestamps // 10**9, frame.values[:, own[:1]], strict=True):
                    row = self._values.setdefault(int(at), np.full(len(contract.features), np.nan, np.float32))
                    if len(value):
                        row[number] = value[0]
        return self

    def _on_grid(self, time: datetime) -> datetime:
        """The next time that is a whole number of spacings before the end."""
        steps = int((self._end - time).total_seconds() // self._spacing)
        return self._end - timedelta(seconds=steps * self._spacing)

    def nearest(self, time: datetime) -> datetime:
        """The time on our grid at or just after `time`."""
        return min(self._on_grid(time), self._end)

    def inputs(self, origin: datetime) -> ModelInputs:
        """The request whose newest step is at `origin`; each step takes the nearest value at or before it."""
        window = self._contract.window
        length = window.history_steps
        values = np.full((1, length, len(self._contract.features)), np.nan, np.float32)
        last = round(origin.timestamp())
        step = round(self._contract.step.total_seconds())
        for back in range(length):
            for late in range(self._spacing):
                found = self._values.get(last - back * step - late)
                if found is not None:
                    values[0, length - 1 - back] = found
                    break
        timestamps = np.int64(last) * 10**9 - np.arange(length - 1, -1, -1, dtype=np.int64) * self._contract.step_ns
        panel = FeaturePanel(values=values, timestamps=timestamps, entities=(self._entity,), contract=self._contract)
        return model_inputs(panel)


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


def _scores(entity: str, contract: FeatureContract, detections: Sequence[Detection], forecast: Forecast) -> Scores:
    peak = max(detections, key=lambda d: d.score)
    ranked = sorted(peak.contributions, key=lambda name: -peak.contributions[name])
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
