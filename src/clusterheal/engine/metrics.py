"""What the engine tells Prometheus about itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class EngineMetrics:
    """Metrics of one engine, on a registry of its own so that tests and replicas in one process do not clash."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.signals = self._counter("signals", "Signals taken in.", "source", "outcome")
        self.queue_depth = self._gauge("queue_depth", "Open incidents that wait: for a decision, a guard or a person.")
        self.budget_left = self._gauge(
            "budget_left", "Actions that the strictest policy still allows; absent without a valid policy.", "budget"
        )
        self.incidents_opened = self._counter("incidents_opened", "Incidents opened.", "kind")
        self.incidents_ended = self._counter("incidents_ended", "Incidents that reached an end.", "state")
        self.incidents = self._gauge("incidents", "Incidents by state.", "state")
        self.guard_verdicts = self._counter("guard_verdicts", "Guard verdicts written.", "guard", "allowed")
        self.decisions = self._counter("decisions", "Diagnoses made.", "origin", "playbook")
        self.actions = self._counter("actions", "Actions carried out.", "action", "kind")
        self.outcomes = self._counter("outcomes", "Verified outcomes.", "action", "verdict")
        self.actions_failed = self._counter("actions_failed", "Actions that could not be carried out.", "action")
        self.evictions = self._counter("evictions", "Pods evicted.")
        self.rounds = self._counter("rounds", "Rounds that came to their end.")
        self.rounds_failed = self._counter("rounds_failed", "Rounds that ended in an error.", "error")
        self.leader = self._gauge("leader", "1 on the replica that leads.")
        self.paused = self._gauge("paused", "1 while all automation is paused.")
        self.models_usable = self._gauge("models_usable", "0 while decisions rest on rules alone.")
        self.autonomy_demoted = self._gauge(
            "autonomy_demoted", "1 while a harm keeps an action from running by itself.", "action", "kind"
        )
        self.live_entities = self._unknown("live_entities", "Entities with data in the newest window.")
        self.live_series = self._unknown("live_series", "Series with data in the newest window.")
        self.live_silent = self._unknown("live_silent_ratio", "Share of series without a sample in the newest steps.")
        self.live_implausible = self._unknown("live_implausible_ratio", "Share of samples outside their range.")
        self.live_data_time = self._unknown("live_data_timestamp_seconds", "Newest step that the models saw.")
        self.anomalies = self._unknown("anomalies", "Entities that the detector calls anomalous.")
        self.detector_in_band = self._unknown(
            "detector_in_band_ratio", "Share of values inside the detector's 80 % band."
        )
        self.ai_outcomes = self._gauge("ai_outcomes", "Judged actions that the AI path proposed, of those kept.")
        self.ai_coverage = self._unknown(
            "ai_coverage_ratio", "Share that was right of AI proposals whose conformal confidence reached the floor."
        )
        self.cache_age = self._gauge("cache_age_seconds", "Time since a resource was last heard of.", "resource")
        self.unreadable = self._gauge(
            "unreadable", "1 for what cannot be read: a forbidden kind, silences, alerts.", "source"
        )
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

    def _unknown(self, name: str, text: str) -> Gauge:
        """A gauge that is NaN until it is known: 0 would say that there is nothing."""
        gauge = self._gauge(name, text)
        gauge.set(float("nan"))
        return gauge
