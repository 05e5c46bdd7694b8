"""Every decision, told three ways: an audit line, a metric, and a Kubernetes Event on the incident."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from clusterheal.clock import Clock
from clusterheal.contracts import IncidentState
from clusterheal.engine.codec import encode_status
from clusterheal.engine.metrics import EngineMetrics
from clusterheal.engine.pause import still_paused
from clusterheal.engine.records import Record
from clusterheal.engine.views import PodView
from clusterheal.engine.world import World

log = logging.getLogger(__name__)
audit = logging.getLogger("clusterheal.audit")

WARNING_STATES = frozenset({IncidentState.ESCALATED, IncidentState.ROLLED_BACK})
EventSink = Callable[[Record, str, str, str], Awaitable[None]]
"""`(incident, type, reason, message)`: writes a Kubernetes Event."""


class Reporter:
    """Called by the loop after a state is stored, so that it never tells of what did not happen."""

    def __init__(self, metrics: EngineMetrics, clock: Clock) -> None:
        self.metrics = metrics
        self._clock = clock
        self.pending_events: list[tuple[Record, str, str, str]] = []

    def step(self, before: Record, after: Record) -> None:
        """An incident's stored state changed."""
        audit.info(
            "incident",
            extra={
                "incident": after.name,
                "target": str(after.target),
                "from_state": before.state.value,
                "to_state": after.state.value,
                "status": encode_status(after),
                "signals": [o.signal.fingerprint for o in after.active],
            },
        )
        if after.diagnosis is not None and (before.diagnosis is None or after.plan_id != before.plan_id):
            self.metrics.decisions.labels(after.diagnosis.origin, after.diagnosis.playbook or "none").inc()
        if after.guards != before.guards:
            for verdict in after.guards:
                self.metrics.guard_verdicts.labels(verdict.guard, str(verdict.allowed).lower()).inc()
        if after.state is not before.state:
            self._moved(after)

    def _moved(self, after: Record) -> None:
        kind = "Warning" if after.state in WARNING_STATES else "Normal"
        self.pending_events.append((after, kind, after.state.value, after.message))
        stage = {IncidentState.PLANNED: "decide", IncidentState.VERIFYING: "act"}.get(after.state)
        if after.ended:
            stage = "end"
            self.metrics.incidents_ended.labels(after.state.value).inc()
            if after.outcome is not None and after.action is not None:
                self.metrics.outcomes.labels(after.action.action, after.outcome.verdict.value).inc()
        if stage is not None and after.observations:
            begun = min(o.signal.starts_at for o in after.observations)
            self.metrics.time_to.labels(stage).observe(max(0.0, (self._clock.now() - begun).total_seconds()))

    def applied(self, before: Record, after: Record, *, again: bool) -> None:
        """An action is known to be carried out; `again`: an earlier try had done it."""
        assert after.action is not None
        self.metrics.actions.labels(after.action.action, after.action.target.kind).inc()
        audit.info("action", extra={"incident": after.name, "action": after.action.id, "found_done": again})

    def evicted(self, record: Record, pod: PodView) -> None:
        self.metrics.evictions.inc()
        audit.info("eviction", extra={"incident": record.name, "pod": f"{pod.namespace}/{pod.name}"})

    def round_failed(self, exc: Exception) -> None:
        self.metrics.rounds_failed.labels(type(exc).__name__).inc()
        log.warning("round failed", extra={"error": str(exc)})

    def world(self, world: World) -> None:
        """Gauges of the moment."""
        states = Counter(r.state for r in world.records.values())
        for state in IncidentState:
            self.metrics.incidents.labels(state.value).set(states.get(state, 0))
        self.metrics.paused.set(1 if still_paused(world.pause, world.now) else 0)
        self.metrics.models_usable.set(1 if world.models.contract_sha256 and not world.models.problem else 0)
        for resource, seen in world.snapshot.synced_at.items():
            self.metrics.cache_age.labels(resource.plural).set((world.now - seen).total_seconds())

    def take_events(self) -> list[tuple[Record, str, str, str]]:
        """Events not yet written; forgotten here."""
        events, self.pending_events = self.pending_events[-200:], []
        return events
