"""An incident as it is stored: inputs (`spec`) that any replica may add to, and the leader's decisions (`status`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from clusterheal.contracts import (
    Diagnosis,
    GuardVerdict,
    IncidentState,
    ObjectRef,
    Outcome,
    Plan,
    Signal,
    SignalSource,
)
from clusterheal.engine.names import root_key

ENDS = frozenset(
    {
        IncidentState.RESOLVED,
        IncidentState.SELF_HEALED,
        IncidentState.ESCALATED,
        IncidentState.ROLLED_BACK,
        IncidentState.SUGGESTED,
        IncidentState.REJECTED,
    }
)
HOLDING = frozenset({IncidentState.ACTING, IncidentState.VERIFYING})
"""States in which an incident holds its target: nobody else of ours may touch it."""

MAX_TIMELINE = 50
REQUEST = "RemediationRequested"  # the signal of a person who asks for an action; it says nothing about trouble


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A signal and when this engine saw it. `flaps` counts how often it came back after being resolved."""

    signal: Signal
    first_seen: datetime
    last_seen: datetime
    resolved_at: datetime | None = None
    flaps: int = 0

    @property
    def active(self) -> bool:
        return self.resolved_at is None


@dataclass(frozen=True, kw_only=True)
class Approval:
    """A person's word on the plan with id `plan_id`."""

    decision: str
    by: str
    at: datetime
    plan_id: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """A person asked for this action by the API."""

    action: str
    parameters: Mapping[str, Any]
    by: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class ActionRecord:
    """One write to the cluster: intent first, then the write, then the confirmation.

    `not_after`: the write is never sent after this time, so that a successor knows when it can no longer come.
    `epoch`: the Lease's transitions when the intent was written. `before`: facts needed to judge and to roll back.
    """

    id: str
    action: str
    target: ObjectRef
    parameters: Mapping[str, Any]
    intent_at: datetime
    not_after: datetime
    holder: str
    epoch: int
    attempts: int = 1
    applied_at: datetime | None = None
    done_at: datetime | None = None
    result: str = ""
    before: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TimelineEntry:
    at: datetime
    state: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """One Incident custom resource. `resource_version` makes every write conditional.

    `kept` is metadata that others wrote (labels, annotations, finalizers, owners): a write takes it along.
    """

    name: str
    namespace: str
    target: ObjectRef
    opened_at: datetime
    observations: tuple[Observation, ...]
    resource_version: str | None = None
    uid: str | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    approval: Approval | None = None
    request: Request | None = None
    state: IncidentState = IncidentState.OPEN
    message: str = ""
    diagnosis: Diagnosis | None = None
    plan: Plan | None = None
    plan_id: str | None = None
    planned_at: datetime | None = None
    guards: tuple[GuardVerdict, ...] = ()
    deferred_by: str | None = None
    action: ActionRecord | None = None
    rollback: ActionRecord | None = None
    outcome: Outcome | None = None
    timeline: tuple[TimelineEntry, ...] = ()
    ended_at: datetime | None = None

    @property
    def root(self) -> str:
        return root_key(self.target)

    @property
    def ended(self) -> bool:
        return self.state in ENDS

    @property
    def active(self) -> tuple[Observation, ...]:
        """Observations of trouble that is still there."""
        return tuple(o for o in self.observations if o.active)

    @property
    def sequence(self) -> int:
        tail = self.name.rsplit("-", 1)[-1]
        return int(tail) if tail.isdigit() else 0

    def quiet_for(self, quiet: timedelta, now: datetime, *, acted: bool = False, proven: bool = False) -> bool:
        """Whether all trouble is gone and stayed gone. Polled sources wait themselves before they say so.

        Once an action was `acted`, the detector's alarm lingers: its window holds the time before for many steps, and
        the action itself is unusual. Then alerts, forecasts and the cluster's own facts decide where there are any, and
        else a metric of the plan that has `proven` the effect. An alarm that lasts becomes an incident of its own.
        """
        asked = [o for o in self.observations if o.signal.source is SignalSource.API and o.signal.name == REQUEST]
        seen = [o for o in self.observations if o not in asked]
        if not seen:
            return bool(asked)
        if acted:
            facts = [o for o in seen if o.signal.source is not SignalSource.DETECTOR]
            if not facts and proven:
                return True
            seen = facts or seen
        waits = {SignalSource.ALERT: quiet, SignalSource.API: quiet}
        return all(
            o.resolved_at is not None and now - o.resolved_at >= waits.get(o.signal.source, timedelta(0)) for o in seen
        )

    def moved(self, state: IncidentState, message: str, now: datetime, **changes: Any) -> Record:
        """This record in another state, with a line in its timeline; ends get their time."""
        entry = TimelineEntry(at=now, state=state.value, message=message)
        ended = now if state in ENDS and self.ended_at is None else self.ended_at
        timeline = (*self.timeline, entry)[-MAX_TIMELINE:]
        return replace(self, state=state, message=message, timeline=timeline, ended_at=ended, **changes)
