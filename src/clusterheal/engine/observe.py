"""What the leader polls each round: the Kubernetes API's own view, the models, and the alerts that Prometheus holds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from clusterheal.clock import Clock
from clusterheal.contracts import Signal, SignalSource
from clusterheal.engine.correlate import target_of_entity
from clusterheal.engine.metrics import EngineMetrics
from clusterheal.engine.signals.kubernetes import scan
from clusterheal.engine.signals.live import Scorer
from clusterheal.engine.signals.models import ModelVerdicts, contract_signal, detection_signal, forecast_signals
from clusterheal.engine.signals.prometheus import Queries, poll
from clusterheal.engine.store import IncidentStore
from clusterheal.engine.world import World

log = logging.getLogger(__name__)

POLLED = frozenset({SignalSource.KUBERNETES, SignalSource.DETECTOR, SignalSource.FORECASTER})


class PollingObserver:
    """Turns polls into signals; what a poll does not show any more is resolved once it stayed away for `quiet`."""

    def __init__(
        self,
        store: IncidentStore,
        clock: Clock,
        metrics: EngineMetrics,
        *,
        scorer: Scorer | None = None,
        thresholds: Mapping[str, float] | None = None,
        alarm_rounds: int = 1,
        prometheus: Queries | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self.scorer = scorer
        self._thresholds = thresholds or {}
        self._alarm_rounds = alarm_rounds
        self._prometheus = prometheus
        self.problem: str | None = None  # why alerts cannot be polled
        self._alarms: dict[str, int] = {}
        self._missing_since: dict[str, datetime] = {}
        self._unmapped: set[str] = set()

    async def observe(self, world: World) -> ModelVerdicts:
        """One poll of every source.

        Raises:
            ApiError, ApiRetryable: the signals could not be stored; the next round sees them again.
        """
        verdicts = await self._score()
        seen = scan(world.snapshot)
        mismatch = contract_signal(verdicts, world.snapshot, self._store.namespace)
        if mismatch is not None:
            seen.append(mismatch)
        polled = {SignalSource.KUBERNETES}
        if verdicts.contract_sha256 is not None and verdicts.problem is None:
            seen += self._of_models(verdicts, world)
            polled |= {SignalSource.DETECTOR, SignalSource.FORECASTER}
        if self._prometheus is not None:
            found = await self._of_prometheus(self._prometheus, world)
            if found is not None:
                seen += found
                polled.add(SignalSource.ALERT)
        gone = self._gone(world, {s.fingerprint for s in seen}, polled)
        for taken in await self._store.take([*seen, *gone]):
            if taken.outcome != "repeat":
                self._metrics.signals.labels(taken.signal.source.value, taken.outcome).inc()
        return verdicts

    async def _of_prometheus(self, queries: Queries, world: World) -> list[Signal] | None:
        """Firing alerts and GPU errors; `None` when Prometheus does not answer: then nothing counts as gone."""
        active = frozenset(o.signal.fingerprint for r in world.records.values() for o in r.active)
        found = await poll(queries, world.snapshot, active)
        self._metrics.unreadable.labels("alerts").set(0 if found.problem is None else 1)
        if found.problem != self.problem:
            self.problem = found.problem
            if found.problem is not None:
                log.warning("alerts cannot be polled", extra={"error": found.problem})
        return list(found.signals) if found.problem is None else None

    async def _score(self) -> ModelVerdicts:
        if self.scorer is None:
            return ModelVerdicts(problem="no models are connected")
        return await self.scorer.score(self._clock.now())

    def _of_models(self, verdicts: ModelVerdicts, world: World) -> list[Signal]:
        assert self.scorer is not None
        snapshot = world.snapshot
        signals: list[Signal | None] = []
        for detection in verdicts.detections.values():
            count = self._alarms.get(detection.entity, 0) + 1 if detection.alarm else 0
            self._alarms[detection.entity] = count
            if count >= self._alarm_rounds:
                signals.append(detection_signal(detection, lambda e: target_of_entity(e, snapshot)))
                self._note_unmapped(detection.entity, signals[-1])
        for forecast in verdicts.forecasts.values():
            signals += forecast_signals(
                forecast, self.scorer.contract, lambda e: target_of_entity(e, snapshot), self._thresholds
            )
        return [s for s in signals if s is not None]

    def _note_unmapped(self, entity: str, signal: Signal | None) -> None:
        if signal is None and entity not in self._unmapped:
            self._unmapped.add(entity)
            self._metrics.signals.labels(SignalSource.DETECTOR.value, "unmapped").inc()
            log.warning("a detection names no object of this cluster", extra={"entity": entity})

    def _gone(self, world: World, seen: set[str], polled: Iterable[SignalSource]) -> list[Signal]:
        """Resolves for active observations of polled sources that are not seen any more."""
        resolved: list[Signal] = []
        active = {
            o.signal.fingerprint: o.signal
            for record in world.records.values()
            for o in record.active
            if o.signal.source in POLLED or o.signal.details.get("polled")
        }
        for fingerprint in list(self._missing_since):
            if fingerprint in seen or fingerprint not in active:
                del self._missing_since[fingerprint]
        for fingerprint, signal in active.items():
            if fingerprint in seen or signal.source not in polled:
                continue
            since = self._missing_since.setdefault(fingerprint, world.now)
            if world.now - since >= world.config.quiet:
                resolved.append(replace(signal, resolved=True))
        return resolved
