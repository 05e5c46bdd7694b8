"""Alertmanager's webhook, payload version 4, to signals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clusterheal.contracts import Signal, SignalSource
from clusterheal.engine.codec import parse_time
from clusterheal.engine.correlate import target_of_labels
from clusterheal.engine.names import digest
from clusterheal.engine.signals.symptoms import symptom_of_alert
from clusterheal.engine.views import Snapshot
from clusterheal.errors import InvalidInput

MAX_ALERTS = 1000
MAX_TEXT = 500
EXTERNAL_LABELS = frozenset({"prometheus", "prometheus_replica", "openshift_io_alert_source", "receive", "replica"})


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """Signals, and the labels of alerts that name no object of this cluster."""

    signals: tuple[Signal, ...]
    unmapped: tuple[Mapping[str, str], ...]


def parse_webhook(payload: Any, snapshot: Snapshot) -> Parsed:
    """Read one notification: a group of firing and resolved alerts.

    Raises:
        InvalidInput: not a version 4 payload; says which field was expected and what came.
    """
    if not isinstance(payload, dict):
        raise InvalidInput(f"expected an Alertmanager webhook object, got {type(payload).__name__}")
    if payload.get("version") != "4":
        raise InvalidInput(f"version: expected '4', got {payload.get('version')!r}; use Alertmanager >= 0.6")
    alerts = payload.get("alerts")
    if not isinstance(alerts, list) or len(alerts) > MAX_ALERTS:
        got = f"{len(alerts)} entries" if isinstance(alerts, list) else type(alerts).__name__
        raise InvalidInput(
            f"alerts: expected a list of at most {MAX_ALERTS}, got {got}; set max_alerts in the receiver"
        )
    signals, unmapped = [], []
    for index, alert in enumerate(alerts):
        signal = _signal(alert, index, snapshot)
        if signal is not None:
            signals.append(signal)
        else:
            unmapped.append(alert["labels"])
    return Parsed(signals=tuple(signals), unmapped=tuple(unmapped))


def _signal(alert: Any, index: int, snapshot: Snapshot) -> Signal | None:
    labels, annotations = _checked(alert, index)
    target = target_of_labels(labels, snapshot)
    if target is None:
        return None
    summary = annotations.get("summary") or annotations.get("message") or annotations.get("description") or ""
    return Signal(
        source=SignalSource.ALERT,
        name=labels["alertname"],
        fingerprint=alert_fingerprint(labels),
        target=target,
        starts_at=parse_time(alert["startsAt"]),
        resolved=alert["status"] == "resolved",
        severity=labels.get("severity", "warning"),
        summary=summary[:MAX_TEXT],
        details={"symptom": symptom_of_alert(labels).value, "labels": labels},
    )


def alert_fingerprint(labels: Mapping[str, str]) -> str:
    """Equal for one alert whichever way it comes: webhook and poll differ in what the servers add to its labels."""
    own = sorted((k, v) for k, v in labels.items() if k not in EXTERNAL_LABELS)
    return f"alert-{digest(*(f'{k}={v}' for k, v in own), length=16)}"


def _checked(alert: Any, index: int) -> tuple[dict[str, str], dict[str, str]]:
    if not isinstance(alert, dict):
        raise InvalidInput(f"alerts[{index}]: expected an object, got {type(alert).__name__}")
    if alert.get("status") not in ("firing", "resolved"):
        raise InvalidInput(f"alerts[{index}].status: expected firing or resolved, got {alert.get('status')!r}")
    if not isinstance(alert.get("startsAt"), str):
        raise InvalidInput(f"alerts[{index}].startsAt: expected an RFC 3339 time, got {alert.get('startsAt')!r}")
    checked = []
    for name in ("labels", "annotations"):
        value = alert.get(name) or {}
        if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
            raise InvalidInput(f"alerts[{index}].{name}: expected an object of strings, got {value!r:.200}")
        checked.append({k[:MAX_TEXT]: v[:MAX_TEXT] for k, v in value.items()})
    if not checked[0].get("alertname"):
        raise InvalidInput(f"alerts[{index}].labels: expected an alertname, got {sorted(checked[0])}")
    return checked[0], checked[1]
