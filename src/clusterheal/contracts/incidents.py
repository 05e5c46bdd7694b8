"""What the engine decided, why, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, kw_only=True, order=True)
class ObjectRef:
    """A Kubernetes object, or with `kind="Node"` and no namespace, a node."""

    api_version: str
    kind: str
    namespace: str | None
    name: str
    uid: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {where}{self.name}"


class SignalSource(StrEnum):
    ALERT = "alert"
    DETECTOR = "detector"
    FORECASTER = "forecaster"
    KUBERNETES = "kubernetes"
    API = "api"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One observation that something is wrong, or with `resolved`, that it no longer is.

    `fingerprint` is equal for repeats of the same observation. `starts_at` is when the trouble began at its source.
    """

    source: SignalSource
    name: str
    fingerprint: str
    target: ObjectRef
    starts_at: datetime
    resolved: bool = False
    severity: str = "warning"
    confidence: float | None = None
    summary: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class IncidentState(StrEnum):
    """Where an incident stands; the last six are ends."""

    OPEN = "Open"
    PLANNED = "Planned"
    AWAITING_APPROVAL = "AwaitingApproval"
    ACTING = "Acting"
    VERIFYING = "Verifying"
    RESOLVED = "Resolved"
    SELF_HEALED = "SelfHealed"
    ESCALATED = "Escalated"
    ROLLED_BACK = "RolledBack"
    SUGGESTED = "Suggested"
    REJECTED = "Rejected"


class Verdict(StrEnum):
    """What verification found."""

    HELPED = "helped"
    NO_EFFECT = "no_effect"
    HARMED = "harmed"
    SELF_HEALED = "self_healed"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Why, and how sure. `origin` is `rule` or `ai`; `confidence` is calibrated and 1.0 for a rule."""

    cause: str
    origin: str
    playbook: str | None
    confidence: float
    explanation: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One playbook on one target, its expected effect, and the metric that will prove it."""

    playbook: str
    action: str
    target: ObjectRef
    parameters: Mapping[str, Any]
    priority: int
    expected_effect: str
    verify_promql: str | None
    rollback: str


@dataclass(frozen=True, kw_only=True)
class GuardVerdict:
    """One guard's answer: allowed or not, and why."""

    guard: str
    allowed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a plan: the verdict, what was measured, what was forecast without it."""

    verdict: Verdict
    observed: float | None
    counterfactual: float | None
    explanation: str
    finished_at: datetime


@dataclass(frozen=True, kw_only=True)
class Incident:
    """Everything the engine knows and did about one root object."""

    name: str
    target: ObjectRef
    state: IncidentState
    opened_at: datetime
    signals: tuple[Signal, ...]
    diagnosis: Diagnosis | None = None
    plan: Plan | None = None
    guards: tuple[GuardVerdict, ...] = ()
    outcome: Outcome | None = None
