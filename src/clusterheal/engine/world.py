"""Everything a decision may look at, gathered in one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from clusterheal.contracts import ObjectRef
from clusterheal.engine.policy import Policy, PolicySet
from clusterheal.engine.records import HOLDING, Record
from clusterheal.engine.signals.models import ModelVerdicts
from clusterheal.engine.signals.silences import Silences
from clusterheal.engine.views import Snapshot


@dataclass(frozen=True, kw_only=True)
class Config:
    """The engine's own limits and times; policies may only be stricter.

    `quiet`: how long trouble must be gone before it counts as gone. `verify_after`, `verify_timeout`: when an outcome
    may first, and must at last, be judged. `fresh`: how old a signal, a cache or a score may be to act on it.
    `ai_needs_outcomes`: by itself the AI path acts only where its verified outcomes reach `confidence_floor`, too.
    `pod`: the name of the engine's own pod, whose workload it leaves alone.
    """

    mode: str = "observe"
    confidence_floor: float = 0.8
    ai_needs_outcomes: bool = True
    quiet: timedelta = timedelta(minutes=2)
    verify_after: timedelta = timedelta(minutes=2)
    verify_timeout: timedelta = timedelta(minutes=15)
    plan_timeout: timedelta = timedelta(hours=1)
    approval_timeout: timedelta = timedelta(hours=4)
    triage_timeout: timedelta = timedelta(minutes=10)
    action_timeout: timedelta = timedelta(seconds=30)
    fresh: timedelta = timedelta(minutes=10)
    max_signal_age: timedelta = timedelta(hours=6)
    linger: timedelta = timedelta(minutes=30)
    pod: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Automation is paused until `until` (`None`: until somebody lifts it)."""

    until: datetime | None
    reason: str
    by: str


@dataclass(frozen=True, kw_only=True)
class Leadership:
    """This replica's lease: `epoch` is the number of its transitions, `valid_until` when it must stop acting."""

    holder: str
    epoch: int
    valid_until: datetime


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How much a target used over the last day, in bytes or cores; `peak` is the highest sample of any pod."""

    median: float
    p99: float
    peak: float


@dataclass(frozen=True, kw_only=True)
class World:
    """A consistent moment.

    `measurements`: newest value of each verification query, by incident name. `usage`: what a target used, by incident
    name, where the diagnosis needs it. `full_at`: when a volume is full if it goes on like this, by incident name.
    `silences`: `None` when no Alertmanager is configured.
    """

    now: datetime
    snapshot: Snapshot
    records: Mapping[str, Record] = field(default_factory=dict)
    policies: PolicySet = field(default_factory=PolicySet)
    models: ModelVerdicts = field(default_factory=ModelVerdicts)
    config: Config = field(default_factory=Config)
    pause: Pause | None = None
    silences: Silences | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)
    full_at: Mapping[str, datetime] = field(default_factory=dict)

    @property
    def open_records(self) -> list[Record]:
        return [r for r in self.records.values() if not r.ended]

    @property
    def holding(self) -> list[Record]:
        """Incidents whose action is under way."""
        return [r for r in self.records.values() if r.state in HOLDING]

    def labels_of(self, target: ObjectRef) -> Mapping[str, str]:
        found = self.snapshot.manifest(target)
        return {} if found is None else found["metadata"].get("labels") or {}

    def policy_for(self, action: str, target: ObjectRef) -> Policy:
        return self.policies.effective(action, target, self.labels_of(target))

    def with_record(self, record: Record) -> World:
        """The world after this record's next state is known: what the decisions after it must count."""
        return replace(self, records={**self.records, record.name: record})
