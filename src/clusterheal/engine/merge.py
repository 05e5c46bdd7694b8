"""How observations accumulate in an incident: pure, so that order, repeats and replays can be tested.

An episode of a signal is its `starts_at`. A repeat changes nothing, a resolve ends the episode it belongs to, a later
episode re-opens, and whatever is older than what is known is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from clusterheal.contracts import Signal, SignalSource
from clusterheal.engine.records import Observation, Record

REFRESH = timedelta(minutes=1)  # how stale `last_seen` may get in the stored incident before a repeat is written
MAX_OBSERVATIONS = 100
CONFIDENCE_STEP = 0.05


def merge_signal(observations: Sequence[Observation], signal: Signal, now: datetime) -> tuple[Observation, ...] | None:
    """The observations with this signal taken in; `None` when nothing worth writing changed."""
    for index, known in enumerate(observations):
        if known.signal.fingerprint == signal.fingerprint:
            changed = _merge_known(known, signal, now)
            return None if changed is None else (*observations[:index], changed, *observations[index + 1 :])
    if signal.resolved or len(observations) >= MAX_OBSERVATIONS:
        return None
    return (*observations, Observation(signal=signal, first_seen=now, last_seen=now))


def _merge_known(known: Observation, signal: Signal, now: datetime) -> Observation | None:
    episodic = signal.source is SignalSource.ALERT
    if signal.resolved:
        belongs = not episodic or signal.starts_at >= known.signal.starts_at
        return replace(known, resolved_at=now) if known.active and belongs else None
    if not known.active:
        assert known.resolved_at is not None
        # A polled alert was seen to be gone, so a notification of what fired before that comes late.
        late = known.signal.details.get("polled") and not signal.details.get("polled")
        over = known.resolved_at if late else known.signal.starts_at
        if episodic and signal.starts_at <= over:
            return None  # a late repeat of the episode that has been resolved
        return replace(known, signal=signal, last_seen=now, resolved_at=None, flaps=known.flaps + 1)
    old = known.signal
    same = (
        signal.severity == old.severity
        and abs((signal.confidence or 0.0) - (old.confidence or 0.0)) < CONFIDENCE_STEP
        and signal.name == old.name
    )
    if same and now - known.last_seen < REFRESH:
        return None
    if old.details.get("polled"):  # what the poll showed once, its silence can end, though a webhook repeats it
        signal = replace(signal, details={**signal.details, "polled": True})
    return replace(known, signal=replace(signal, starts_at=max(old.starts_at, signal.starts_at) if episodic else
                   min(old.starts_at, signal.starts_at)), last_seen=now)  # fmt: skip


def is_old_news(ended: Record, signal: Signal, now: datetime, linger: timedelta) -> bool:
    """Whether a firing signal only repeats an episode that this ended incident already dealt with.

    Alerts on counters keep firing after the cure, and after a break Alertmanager replays what it has. Past `linger`
    the same trouble is a new incident; limits on repeated actions then decide.
    """
    if ended.ended_at is None:
        return False
    known = next((o for o in ended.observations if o.signal.fingerprint == signal.fingerprint), None)
    if known is None:
        return (
            signal.source is SignalSource.ALERT and signal.starts_at < ended.opened_at and now - ended.ended_at < linger
        )
    if now - ended.ended_at >= linger and known.active:
        return False
    if signal.source is SignalSource.ALERT:
        return signal.starts_at <= known.signal.starts_at
    return known.active
