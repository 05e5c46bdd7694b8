"""Somebody paused automation: everywhere, in a namespace, or on this object."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from clusterheal.engine.guards.case import Answer, GuardCase
from clusterheal.engine.names import PAUSE_LABEL
from clusterheal.kube.resources import NAMESPACES


def check(case: GuardCase) -> Answer:
    paused = case.world.pause
    if paused is not None and (paused.until is None or case.world.now < paused.until):
        until = "lifted" if paused.until is None else f"{paused.until:%Y-%m-%d %H:%M:%S} UTC"
        return False, f"all automation is paused by {paused.by} until {until}: {paused.reason}"
    places = [(str(case.target), case.world.labels_of(case.target))]
    for name in (case.target.namespace, case.record.namespace):  # on the engine's own it pauses everything
        namespace = None if name is None else case.snapshot.get(NAMESPACES, None, name)
        if namespace is not None:
            places.append((f"namespace {name}", namespace["metadata"].get("labels") or {}))
    for place, labels in places:
        if _paused(labels, case.world.now):
            return False, f"label {PAUSE_LABEL} on {place} is {labels[PAUSE_LABEL]!r}"
    return True, "not paused"


def _paused(labels: Mapping[str, str], now: datetime) -> bool:
    value = labels.get(PAUSE_LABEL)
    if value is None or value == "false":
        return False
    try:
        until = datetime.strptime(value, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return True  # "true", and anything that cannot be read as an expiry
    return now < until
