"""What somebody silenced in Alertmanager is being worked on, or is meant to be so: hands off."""

from __future__ import annotations

from collections.abc import Iterator

from clusterheal.contracts import ObjectRef
from clusterheal.engine.guards.case import Answer, GuardCase


def check(case: GuardCase) -> Answer:
    silences = case.world.silences
    if silences is None:
        return True, "no Alertmanager is configured to ask for silences"
    now = case.world.now
    if silences.read_at is None or now - silences.read_at > case.config.fresh:
        return False, f"silences are not known: {silences.problem or 'not read yet'}"
    if case.asked_for:
        return True, "a person asked for it"
    for labels in _labels(case):
        silence = next((s for s in silences.known if s.covers(labels, now)), None)
        if silence is not None:
            until = f"{silence.ends_at:%Y-%m-%d %H:%M} UTC"
            what = labels.get("alertname", str(case.target))
            return False, f"{what} is silenced by {silence.created_by} until {until}: {silence.comment}"
    return True, "nothing of it is silenced"


def _labels(case: GuardCase) -> Iterator[dict[str, str]]:
    """The labels of every active signal, with the object's own: a silence on a namespace covers all in it."""
    place = _place(case.target)
    for observation in case.record.active:
        signal = observation.signal
        own = signal.details.get("labels") or {}
        yield {"alertname": signal.name, "severity": signal.severity, **place, **own}


def _place(target: ObjectRef) -> dict[str, str]:
    labels = {target.kind.lower(): target.name}
    if target.namespace is not None:
        labels |= {"namespace": target.namespace, "workload": target.name}
    return labels
