"""What Prometheus itself holds, polled: firing alerts that no webhook brings, and GPU errors.

On OpenShift an AlertmanagerConfig receives only its own namespace's alerts; the platform's alerts are read as
`ALERTS{alertstate="firing"}` from the Thanos Querier (port 9091).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from clusterheal.contracts import Signal, SignalSource
from clusterheal.engine.correlate import target_of_labels
from clusterheal.engine.signals.alertmanager import alert_fingerprint
from clusterheal.engine.signals.gpu import CHANGED_XIDS, CURRENT_XIDS, Sample, xid_signals
from clusterheal.engine.signals.symptoms import symptom_of_alert
from clusterheal.engine.views import Snapshot
from clusterheal.errors import ClusterhealError

FIRING = 'ALERTS{alertstate="firing"}'
SINCE = "ALERTS_FOR_STATE"
HEARTBEATS = frozenset({"Watchdog", "InfoInhibitor"})  # they fire to prove that alerting works, or to mute others
OWN_LABELS = frozenset({"__name__", "alertstate"})


class Queries(Protocol):
    """`clusterheal.metrics.client.PrometheusClient`."""

    async def query(self, promql: str) -> Sequence[Sample]: ...


@dataclass(frozen=True, kw_only=True)
class Polled:
    """`signals`: all that is wrong now. `problem`: why nothing can be said; then nothing counts as gone either."""

    signals: tuple[Signal, ...] = ()
    unmapped: int = 0
    problem: str | None = None


async def poll(queries: Queries, snapshot: Snapshot, active: frozenset[str]) -> Polled:
    """Everything that Prometheus shows now; `active` are the fingerprints of signals that are still open."""
    try:
        firing, since, xids, changed = await asyncio.gather(
            *(queries.query(q) for q in (FIRING, SINCE, CURRENT_XIDS, CHANGED_XIDS))
        )
    except ClusterhealError as exc:
        return Polled(problem=str(exc))
    alerts, unmapped = alert_signals(firing, since, snapshot)
    return Polled(signals=(*alerts, *xid_signals(xids, changed, snapshot, active)), unmapped=unmapped)


def alert_signals(firing: Sequence[Sample], since: Sequence[Sample], snapshot: Snapshot) -> tuple[list[Signal], int]:
    """One signal per firing alert, and how many name no object of this cluster.

    `ALERTS_FOR_STATE` has the second in which the alert's condition became true; without it the alert counts as new.
    """
    began: dict[str, float] = {}
    for sample in since:
        key = alert_fingerprint(_labels(sample))
        began[key] = min(began.get(key, sample.value), sample.value)  # replicas differ by an evaluation
    signals: dict[str, Signal] = {}
    unmapped = 0
    for sample in firing:
        labels = _labels(sample)
        if labels.get("alertname") in HEARTBEATS or labels.get("severity") == "none":
            continue
        target = target_of_labels(labels, snapshot)
        if target is None:
            unmapped += 1
            continue
        key = alert_fingerprint(labels)
        signals[key] = Signal(
            source=SignalSource.ALERT,
            name=labels["alertname"],
            fingerprint=key,
            target=target,
            starts_at=datetime.fromtimestamp(began[key], UTC) if key in began else snapshot.taken_at,
            severity=labels.get("severity", "warning"),
            summary=f"{labels['alertname']} fires",
            details={"symptom": symptom_of_alert(labels).value, "labels": labels, "polled": True},
        )
    return list(signals.values()), unmapped


def _labels(sample: Sample) -> dict[str, str]:
    return {k: v for k, v in sample.labels.items() if k not in OWN_LABELS}
