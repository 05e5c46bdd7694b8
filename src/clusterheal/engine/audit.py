"""Every decision, told three ways: an audit line, a metric, and a Kubernetes Event on the incident."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import Gauge

from clusterheal.clock import Clock
from clusterheal.contracts import IncidentState, SignalSource, Verdict
from clusterheal.engine.actions import ACTIONS
from clusterheal.engine.autonomy import harms_of
from clusterheal.engine.calibration import measured_coverage, proposals
from clusterheal.engine.codec import encode_observation, encode_status
from clusterheal.engine.decide import PENDING
from clusterheal.engine.guards import GUARDS
from clusterheal.engine.guards.history import actions_of
from clusterheal.engine.guards.rate import HOUR
from clusterheal.engine.metrics import EngineMetrics
from clusterheal.engine.pause import still_paused
from clusterheal.engine.records import Record
from clusterheal.engine.signals.models import ModelVerdicts
from clusterheal.engine.views import KINDS, PodView
from clusterheal.engine.world import World

log = logging.getLogger(__name__)
audit = logging.getLogger("clusterheal.audit")

STAGES = ("detect", "decide", "act", "verify", "end")
WARNING_STATES = frozenset({IncidentState.ESCALATED, IncidentState.ROLLED_BACK})
EventSink = Callable[[Record, str, str, str], Awaitable[None]]
"""`(incident, type, reason, message)`: writes a Kubernetes Event."""


class Reporter:
    """Called by the loop after a state is stored, so that it never tells of what did not happen."""

    def __init__(self, metrics: EngineMetrics, clock: Clock) -> None:
        self.metrics = metrics
        self._clock = clock
        self.pending_events: list[tuple[Record, str, str, str]] = []
        self._seen: set[str] | None = None
        self._shown: dict[Gauge, dict[str, Gauge]] = {}
        self._judged_by = _models_of(ModelVerdicts())
        _start_at_zero(metrics)

    def step(self, before: Record, after: Record) -> None:
        """An incident's stored state changed: one audit line with all that the decision rests on."""
        if audit.isEnabledFor(logging.INFO):
            audit.info("incident", extra=self._told(before, after))
        if after.diagnosis is not None and (before.diagnosis is None or after.plan_id != before.plan_id):
            self.metrics.decisions.labels(after.diagnosis.origin, after.diagnosis.playbook or "none").inc()
        if after.plan is not None and before.plan is None:
            self._took("decide", after, self._clock.now())
        if after.guards != before.guards:
            for verdict in after.guards:
                self.metrics.guard_verdicts.labels(verdict.guard, str(verdict.allowed).lower()).inc()
        if after.state is not before.state:
            self._moved(after)

    def _told(self, before: Record, after: Record) -> dict[str, Any]:
        return {
            "incident": after.name,
            "target": str(after.target),
            "from_state": before.state.value,
            "to_state": after.state.value,
            "status": encode_status(after),
            "signals": [encode_observation(o) for o in after.active],
            "models": self._judged_by,
        }

    def _moved(self, after: Record) -> None:
        kind = "Warning" if after.state in WARNING_STATES else "Normal"
        self.pending_events.append((after, kind, after.state.value, after.message))
        now = self._clock.now()
        if after.state is IncidentState.VERIFYING:
            self._took("act", after, now)
        if not after.ended:
            return
        self._took("end", after, now)
        self.metrics.incidents_ended.labels(after.state.value).inc()
        if after.outcome is not None and after.action is not None:
            self._took("verify", after, now)
            self.metrics.outcomes.labels(after.action.action, after.outcome.verdict.value).inc()

    def _took(self, stage: str, record: Record, until: datetime) -> None:
        if record.observations:
            begun = min(o.signal.starts_at for o in record.observations)
            self.metrics.time_to.labels(stage).observe(max(0.0, (until - begun).total_seconds()))

    def applied(self, before: Record, after: Record, *, again: bool) -> None:
        """An action is known to be carried out; `again`: an earlier try had done it."""
        assert after.action is not None
        self.metrics.actions.labels(after.action.action, after.action.target.kind).inc()
        audit.info("action", extra={"incident": after.name, "action": after.action.id, "found_done": again})

    def evicted(self, record: Record, pod: PodView) -> None:
        self.metrics.evictions.inc()
        audit.info("eviction", extra={"incident": record.name, "pod": f"{pod.namespace}/{pod.name}"})

    def refused(self, record: Record) -> None:
        """An action could not be carried out, and will not be tried again."""
        assert record.action is not None
        self.metrics.actions_failed.labels(record.action.action).inc()

    def round_done(self) -> None:
        self.metrics.rounds.inc()

    def round_failed(self, exc: Exception) -> None:
        self.metrics.rounds_failed.labels(type(exc).__name__).inc()
        log.warning("round failed", extra={"error": str(exc)})

    def world(self, world: World) -> None:
        """Gauges of the moment, and the models that decisions rest on from now on."""
        self._judged_by = _models_of(world.models)
        states = Counter(r.state for r in world.records.values())
        self._show(self.metrics.incidents, {state.value: states.get(state, 0) for state in IncidentState})
        self.metrics.paused.set(1 if still_paused(world.pause, world.now) else 0)
        self.metrics.models_usable.set(1 if world.models.contract_sha256 and not world.models.problem else 0)
        ages = {r.plural: (world.now - seen).total_seconds() for r, seen in world.snapshot.synced_at.items()}
        self._show(self.metrics.cache_age, ages)
        self._unreadable(world)
        self.metrics.queue_depth.set(sum(r.state in PENDING for r in world.records.values()))
        self._opened(world)
        self._budgets(world)
        self._demoted(world)
        self._models(world.models)
        judged = proposals(world.records.values())
        self.metrics.ai_outcomes.set(len(judged))
        coverage = measured_coverage(judged, world.config.confidence_floor)
        self.metrics.ai_coverage.set(float("nan") if coverage is None else coverage)

    def _unreadable(self, world: World) -> None:
        snapshot = world.snapshot
        shown = {r.plural: float(r in snapshot.unreadable) for r in (*snapshot.objects, *snapshot.unreadable)}
        if world.silences is not None:
            shown["silences"] = float(world.silences.problem is not None)
        self._show(self.metrics.unreadable, shown)

    def _show(self, gauge: Gauge, values: Mapping[str, float]) -> None:
        """Set a gauge of one label to these values and no others; finding a series anew costs more than setting it."""
        shown = self._shown.setdefault(gauge, {})
        for label in shown.keys() - values.keys():
            gauge.remove(label)
            del shown[label]
        for label, value in values.items():
            if label not in shown:
                shown[label] = gauge.labels(label)
            shown[label].set(value)

    def _opened(self, world: World) -> None:
        """Count incidents not seen before; those that were there when this replica began to lead are not new."""
        if self._seen is not None:
            for name in sorted(world.records.keys() - self._seen):
                record = world.records[name]
                self.metrics.incidents_opened.labels(record.target.kind).inc()
                self._took("detect", record, record.opened_at)
        self._seen = set(world.records)

    def _budgets(self, world: World) -> None:
        policies = world.policies.policies
        if not policies:
            self._show(self.metrics.budget_left, {})
            return
        recent = sum(world.now - when < HOUR for _, _, when in actions_of(world.records.values()))
        left = {
            "concurrent": min(p.concurrent for p in policies) - len(world.holding),
            "hour": min(p.per_hour for p in policies) - recent,
        }
        self._show(self.metrics.budget_left, {budget: max(0, count) for budget, count in left.items()})

    def _demoted(self, world: World) -> None:
        self.metrics.autonomy_demoted.clear()
        records = list(world.records.values())
        for record in records:
            if record.plan is None or record.outcome is None or record.outcome.verdict is not Verdict.HARMED:
                continue
            action, target = record.plan.action, record.plan.target
            if harms_of(world.policy_for(action, target), action, target.kind, records):
                self.metrics.autonomy_demoted.labels(action, target.kind).set(1)

    def _models(self, models: ModelVerdicts) -> None:
        """What the models saw, and how well they knew it; the last word stays while a round brings none."""
        quality = models.quality
        if quality is None:
            return
        self.metrics.live_entities.set(quality.entities)
        self.metrics.live_series.set(quality.series)
        self.metrics.live_silent.set(quality.silent)
        self.metrics.live_implausible.set(quality.implausible)
        if models.data_at is not None:
            self.metrics.live_data_time.set(models.data_at.timestamp())
            self.metrics.anomalies.set(sum(d.alarm for d in models.detections.values()))
        if quality.in_band is not None:
            self.metrics.detector_in_band.set(quality.in_band)

    def take_events(self) -> list[tuple[Record, str, str, str]]:
        """Events not yet written; forgotten here."""
        events, self.pending_events = self.pending_events[-200:], []
        return events


def _models_of(verdicts: ModelVerdicts) -> dict[str, str | list[str] | None]:
    """For the audit log: what judged, under which contract; `problem` says why nothing did."""
    versions = {d.model_version for d in verdicts.detections.values()}
    versions |= {f.model_version for f in verdicts.forecasts.values()}
    return {
        "versions": sorted(versions),
        "contract_sha256": verdicts.contract_sha256,
        "problem": verdicts.problem,
    }


def _start_at_zero(metrics: EngineMetrics) -> None:
    """Series exist before their first event: `increase` does not see a counter that appears with the value 1."""
    for state in IncidentState:
        metrics.incidents_ended.labels(state.value)
    for name, _ in GUARDS:
        metrics.guard_verdicts.labels(name, "false")
        metrics.guard_verdicts.labels(name, "true")
    for kind in KINDS:
        metrics.incidents_opened.labels(kind)
    for action in ACTIONS:
        metrics.actions_failed.labels(action)
        for verdict in Verdict:
            metrics.outcomes.labels(action, verdict.value)
    metrics.signals.labels(SignalSource.ALERT.value, "unmapped")
    for stage in STAGES:
        metrics.time_to.labels(stage)
