"""What the engine tells Prometheus about itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class EngineMetrics:
    """Metrics of one engine, on a registry of its own so that tests and replicas in one process do not clash."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.signals = self._counter("signals", "Signals taken in.", "source", "outcome")
        self.incidents_opened = self._counter("incidents_opened", "Incidents opened.", "kind")
        self.incidents_ended = self._counter("incidents_ended", "Incidents that reached an end.", "state")
        self.incidents = self._gauge("incidents", "Incidents by state.", "state")
        self.guard_verdicts = self._counter("guard_verdicts", "Guard verdicts written.", "guard", "allowed")
        self.decisions = self._counter("decisions", "Diagnoses made.", "origin", "playbook")
        self.actions = self._counter("actions", "Actions carried out.", "action", "kind")
        self.outcomes = self._counter("outcomes", "Verified outcomes.", "action", "verdict")
        self.evictions = self._counter("evictions", "Pods evicted.")
        self.rounds_failed = self._counter("rounds_failed", "Rounds that ended in an error.", "error")
        self.leader = self._gauge("leader", "1 on the replica that leads.")
        self.paused = self._gauge("paused", "1 while all automation is paused.")
        self.models_usable = self._gauge("models_usable", "0 while decisions rest on rules alone.")
        self.cache_age = self._gauge("cache_age_seconds", "Time since a resource was last heard of.", "resource")
        self.time_to = Histogram(
            "clusterheal_time_to_seconds",
            "From the start of the trouble to each stage.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"clusterheal_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"clusterheal_{name}", text, labels, registry=self.registry)
