"""What the two models say, as signals: thresholds judge forecasts, calibration judges detections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from clusterheal.contracts import (
    DETECTOR,
    FORECASTER,
    Detection,
    FeatureContract,
    Forecast,
    ObjectRef,
    Signal,
    SignalSource,
)
from clusterheal.engine.names import digest, tokens
from clusterheal.engine.signals.symptoms import Symptom, symptom_of_feature
from clusterheal.engine.signals.window_quality import WindowQuality
from clusterheal.engine.views import Snapshot, ref_of
from clusterheal.kube.inference_service import previous_of
from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import INFERENCE_SERVICES

Resolver = Callable[[str], ObjectRef | None]
BREACH_PROBABILITY = 0.5  # a breach is predicted once the median path crosses
TOP = 5


@dataclass(frozen=True, kw_only=True)
class ModelVerdicts:
    """The newest word of both models. `current`: newest sample of each (entity, feature), for verification.

    `problem`: why there are none (contract `mismatch`, server down); the engine then acts on rules alone.
    `quality`: how good the window was that they judged; `None`: no window was read.
    """

    scored_at: datetime | None = None
    data_at: datetime | None = None
    detections: Mapping[str, Detection] = field(default_factory=dict)
    forecasts: Mapping[str, Forecast] = field(default_factory=dict)
    current: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    contract_sha256: str | None = None
    problem: str | None = None
    mismatch: bool = False
    quality: WindowQuality | None = None


def contract_signal(verdicts: ModelVerdicts, snapshot: Snapshot, namespace: str) -> Signal | None:
    """Two models, or a model and its caller, disagree on the features: about the model that was rolled out last."""
    known = (snapshot.get(INFERENCE_SERVICES, namespace, name) for name in (DETECTOR, FORECASTER))
    ours = [obj for obj in known if obj is not None]
    if not verdicts.mismatch or not ours:
        return None
    target = ref_of(INFERENCE_SERVICES, max(ours, key=_changed_at))
    return Signal(
        source=SignalSource.KUBERNETES,
        name=Symptom.MODEL_CONTRACT.value,
        fingerprint=f"model-contract-{digest(str(target), length=16)}",
        target=target,
        starts_at=verdicts.scored_at or snapshot.taken_at,
        severity="critical",
        summary=(verdicts.problem or "")[:500],
        details={"symptom": Symptom.MODEL_CONTRACT.value},
    )


def _changed_at(service: Manifest) -> float:
    previous = previous_of(service)
    return 0.0 if previous is None else previous.since.timestamp()


def default_threshold(feature: str, unit: str) -> float | None:
    """Above this a feature is trouble in itself; `None` where only the detector can tell.

    Ratios of a limit or a capacity: 0.9 for what fills up (memory, disks: past it kernels and kubelets start to
    kill and evict), 0.85 for what queues (CPU: waiting times grow steeply with utilisation).
    """
    words = tokens(feature)
    if unit != "ratio":
        return None
    if words & {"memory", "filesystem", "disk", "volume", "inodes"} or feature in ("pvc_used",):
        return 0.9
    return 0.85 if words & {"cpu", "busy"} and "throttled" not in words and "gpu" not in words else None


def detection_signal(detection: Detection, resolve: Resolver) -> Signal | None:
    """A signal for a detection that passed the package's threshold; `None`: no alarm, or no such object."""
    if not detection.alarm or (target := resolve(detection.entity)) is None:
        return None
    top = sorted(detection.contributions.items(), key=lambda kv: -kv[1])[:TOP]
    leading = top[0][0] if top else ""
    symptom = symptom_of_feature(leading, SignalSource.DETECTOR)
    return Signal(
        source=SignalSource.DETECTOR,
        name="AnomalyDetected",
        fingerprint=f"detector-{digest(detection.entity, length=16)}",
        target=target,
        starts_at=detection.time,
        confidence=float(detection.confidence),
        summary=(
            f"{detection.entity} is anomalous: score {detection.score:.2f} (chance under normal operation "
            f"{detection.tail_probability:.1e}), led by {', '.join(name for name, _ in top[:3])}"
        ),
        details={
            "symptom": symptom.value,
            "entity": detection.entity,
            "score": float(detection.score),
            "contributions": {name: round(float(value), 4) for name, value in top},
            "expected": _expected(detection, [name for name, _ in top]),
            "model_version": detection.model_version,
            "contract_sha256": detection.contract_sha256,
        },
    )


def _expected(detection: Detection, features: Iterable[str]) -> dict[str, Any]:
    bands = {}
    for name in features:
        band = detection.expected.get(name)
        if band is not None:
            values = {"low": band.low, "median": band.median, "high": band.high, "observed": band.observed}
            bands[name] = {k: None if v is None else round(float(v), 6) for k, v in values.items()}
    return bands


def forecast_signals(
    forecast: Forecast, contract: FeatureContract, resolve: Resolver, thresholds: Mapping[str, float]
) -> list[Signal]:
    """One signal per feature whose median path crosses its threshold within the horizon."""
    target = resolve(forecast.entity)
    if target is None:
        return []
    units = {f.name: f.unit for f in contract.features}
    signals = []
    for index, feature in enumerate(forecast.feature_names):
        threshold = thresholds.get(feature, default_threshold(feature, units.get(feature, "")))
        if threshold is None:
            continue
        breach = _first_breach(forecast, index, threshold)
        if breach is not None:
            signals.append(_breach_signal(forecast, feature, threshold, breach, target))
    return signals


def _first_breach(forecast: Forecast, index: int, threshold: float) -> tuple[int, float] | None:
    """`(step, probability)` of the first step at which a breach is more likely than not."""
    paths = forecast.quantiles[:, index, :]
    if not np.isfinite(paths).all():
        return None
    levels = np.asarray(forecast.levels)
    for step, row in enumerate(paths):
        probability = 1.0 - float(np.interp(threshold, row, levels, left=levels[0], right=levels[-1]))
        if probability >= BREACH_PROBABILITY:
            return step, probability
    return None


def _breach_signal(
    forecast: Forecast, feature: str, threshold: float, breach: tuple[int, float], target: ObjectRef
) -> Signal:
    step, probability = breach
    crosses_at = forecast.origin + (step + 1) * forecast.step
    symptom = symptom_of_feature(feature, SignalSource.FORECASTER)
    return Signal(
        source=SignalSource.FORECASTER,
        name="PredictedBreach",
        fingerprint=f"forecast-{digest(forecast.entity, feature, length=16)}",
        target=target,
        starts_at=forecast.origin,
        confidence=probability,
        summary=(
            f"{feature} of {forecast.entity} is forecast to pass {threshold:g} at {crosses_at:%Y-%m-%d %H:%M} UTC "
            f"(probability {probability:.0%})"
        ),
        details={
            "symptom": symptom.value,
            "entity": forecast.entity,
            "feature": feature,
            "threshold": threshold,
            "crosses_at": crosses_at.isoformat(),
            "model_version": forecast.model_version,
            "contract_sha256": forecast.contract_sha256,
        },
    )


@dataclass(frozen=True, kw_only=True)
class Path:
    """A forecast of one feature, kept as what would have happened had nothing been done. 10/50/90 % where given."""

    origin: datetime
    step: timedelta
    low: tuple[float, ...]
    median: tuple[float, ...]
    high: tuple[float, ...]

    def at(self, when: datetime) -> tuple[float, float, float] | None:
        """`(low, median, high)` at a time; past the horizon its last step; `None` for an empty path."""
        if not self.median:
            return None
        index = round((when - self.origin) / self.step) - 1
        index = min(max(index, 0), len(self.median) - 1)
        return self.low[index], self.median[index], self.high[index]

    def to_dict(self) -> dict[str, Any]:
        return {
            "origin": self.origin.isoformat(),
            "step_seconds": self.step.total_seconds(),
            "low": list(self.low),
            "median": list(self.median),
            "high": list(self.high),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Path:
        return cls(
            origin=datetime.fromisoformat(data["origin"]),
            step=timedelta(seconds=data["step_seconds"]),
            low=tuple(data["low"]),
            median=tuple(data["median"]),
            high=tuple(data["high"]),
        )


def path_of(forecast: Forecast, feature: str) -> Path | None:
    """The 10 %, 50 % and 90 % paths of one feature; `None` when it is not forecast or not finite."""
    if feature not in forecast.feature_names:
        return None
    values = forecast.quantiles[:, forecast.feature_names.index(feature), :]
    if not np.isfinite(values).all():
        return None
    low, median, high = (
        tuple(round(float(np.interp(q, forecast.levels, row)), 6) for row in values) for q in (0.1, 0.5, 0.9)
    )
    return Path(origin=forecast.origin, step=forecast.step, low=low, median=median, high=high)
