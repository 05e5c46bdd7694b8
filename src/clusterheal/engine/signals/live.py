"""Live scoring: the newest window of every entity, shown to both models once a round."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from clusterheal.contracts import Detection, FeatureContract, Forecast, ModelInputs
from clusterheal.engine.signals.models import ModelVerdicts
from clusterheal.engine.signals.window_quality import WindowQuality, window_quality
from clusterheal.errors import ClusterhealError, ContractMismatch

log = logging.getLogger(__name__)


class Windows(Protocol):
    """`clusterheal.metrics.live.LiveWindow`."""

    contract: FeatureContract

    def inputs(self, end: datetime) -> Awaitable[ModelInputs]: ...


class Detector(Protocol):
    def detect(self, inputs: ModelInputs) -> Awaitable[list[Detection]]: ...


class Forecaster(Protocol):
    def forecast(self, inputs: ModelInputs) -> Awaitable[list[Forecast]]: ...


class Scorer(Protocol):
    """Whatever gives verdicts: live models, or a script in tests. `contract` has a meaning once `score` succeeded."""

    @property
    def contract(self) -> FeatureContract: ...

    def score(self, end: datetime) -> Awaitable[ModelVerdicts]: ...


class LiveScorer:
    """Scores with what is there: either model may be absent."""

    def __init__(self, windows: Windows, detector: Detector | None, forecaster: Forecaster | None) -> None:
        self._windows = windows
        self._detector = detector
        self._forecaster = forecaster

    @property
    def contract(self) -> FeatureContract:
        return self._windows.contract

    async def score(self, end: datetime) -> ModelVerdicts:
        """Verdicts on the window ending at `end`; what goes wrong is told in `problem`, not raised."""
        try:
            inputs = await self._windows.inputs(end)
            if not inputs.entity:
                nothing = WindowQuality(entities=0, series=0, silent=0.0, implausible=0.0)
                problem = "Prometheus has no series of the contract's features"
                return ModelVerdicts(scored_at=end, problem=problem, quality=nothing)
            detections, forecasts = await asyncio.gather(self._detect(inputs), self._forecast(inputs))
        except ContractMismatch as exc:
            return ModelVerdicts(scored_at=end, problem=f"feature contract: {exc}", mismatch=True)
        except ClusterhealError as exc:
            return ModelVerdicts(scored_at=end, problem=str(exc))
        said = {d.contract_sha256 for d in detections} | {f.contract_sha256 for f in forecasts}
        wrong = said - {self.contract.sha256}
        if wrong:
            return ModelVerdicts(
                scored_at=end, problem=f"verdicts for contract {sorted(wrong)[0][:12]}, not ours", mismatch=True
            )
        return ModelVerdicts(
            scored_at=end,
            data_at=datetime.fromtimestamp(int(inputs.timestamp[0]) / 1e9, UTC),
            detections={d.entity: d for d in detections},
            forecasts={f.entity: f for f in forecasts},
            current=newest(inputs, self.contract.feature_names),
            contract_sha256=self.contract.sha256,
            quality=window_quality(inputs, self.contract, detections),
        )

    async def _detect(self, inputs: ModelInputs) -> list[Detection]:
        return [] if self._detector is None else await self._detector.detect(inputs)

    async def _forecast(self, inputs: ModelInputs) -> list[Forecast]:
        return [] if self._forecaster is None else await self._forecaster.forecast(inputs)


def newest(inputs: ModelInputs, features: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """The newest sample per entity and feature, among the last three steps; missing ones are left out."""
    found: dict[str, Mapping[str, float]] = {}
    for row, entity in enumerate(inputs.entity):
        values: dict[str, float] = {}
        for column, feature in enumerate(features):
            recent = inputs.recent[row, -3:, column]
            known = recent[~np.isnan(recent)]
            if known.size:
                values[feature] = float(known[-1])
        found[entity] = values
    return found
