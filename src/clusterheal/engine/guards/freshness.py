"""Nothing is done on old news: signals, caches and scores must be recent."""

from __future__ import annotations

from clusterheal.contracts import SignalSource
from clusterheal.engine.guards.case import Answer, GuardCase
from clusterheal.engine.views import KINDS
from clusterheal.kube.resources import PODS


def check(case: GuardCase) -> Answer:
    now, limit = case.world.now, case.config.fresh
    active = case.record.active
    if not active and not case.asked_for:
        return False, "every signal of this incident is resolved"
    if active and not case.asked_for:
        newest = max(o.last_seen for o in active)
        if now - newest > limit:
            return False, f"the newest signal is from {newest:%H:%M:%S} UTC, more than {limit} ago"
        begun = max(o.signal.starts_at for o in active)
        if now - begun > case.config.max_signal_age:
            return False, f"the trouble began at {begun:%Y-%m-%d %H:%M} UTC; too old to act on without a person"
        if min(o.signal.starts_at for o in active) - now > limit:
            return False, "the signals are from the future; check the clocks"
    resource = KINDS[case.target.kind]
    for needed in (resource, PODS):
        seen = case.snapshot.synced_at.get(needed)
        if seen is None or now - seen > limit:
            why = case.snapshot.unreadable.get(needed, "no answer from the API server")
            return False, f"the view of {needed.plural} is stale: {why}"
    scored = case.world.models.data_at
    if _rests_on_models(case) and (scored is None or now - scored > limit):
        return False, f"the newest scored sample is older than {limit}"
    return True, "signals and views are recent"


def _rests_on_models(case: GuardCase) -> bool:
    models = (SignalSource.DETECTOR, SignalSource.FORECASTER)
    return bool(case.record.active) and all(o.signal.source in models for o in case.record.active)
