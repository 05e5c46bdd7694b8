"""Bodies of the REST API. Unknown fields are refused: a misspelt `dry_run` must not act."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from clusterheal.contracts import ObjectRef
from clusterheal.engine.views import KINDS

Severity = Literal["info", "warning", "critical"]
Text = Field("", max_length=500)


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Target(Body):
    """An object of the cluster. Pods are taken for the workload that owns them."""

    kind: str = Field(description="such as Deployment, StatefulSet, Pod, Node or PersistentVolumeClaim", max_length=63)
    namespace: str | None = Field(None, max_length=63)
    name: str = Field(min_length=1, max_length=253)

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"expected one of {', '.join(sorted(KINDS))}")
        return kind

    def ref(self) -> ObjectRef:
        return ObjectRef(
            api_version=KINDS[self.kind].api_version, kind=self.kind, namespace=self.namespace, name=self.name
        )


class AnomalyIn(Body):
    """Something that another program or a person noticed."""

    target: Target
    name: str = Field("ReportedAnomaly", min_length=1, max_length=100)
    severity: Severity = "warning"
    summary: str = Text
    symptom: str | None = Field(None, description="for example memory-leak, saturation, crash-loop", max_length=40)
    confidence: float | None = Field(None, ge=0, le=1)
    resolved: bool = Field(False, description="true: the trouble reported before under this name is over")


class Problem(BaseModel):
    """Why a request was refused or failed."""

    detail: str


class AnomalyOut(BaseModel):
    id: str | None = Field(description="the incident it belongs to; null when nothing was opened")
    outcome: Literal["stored", "repeat", "lingering", "unknown"]


class RemediateIn(Body):
    target: Target
    action: Literal[
        "restart", "undo", "scale", "patch-resources", "drain", "uncordon", "expand-volume", "roll-back-model", "sync"
    ]
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        max_length=10,
        description="scale: to_replicas; patch-resources: container, resource, to_limit; expand-volume: to_size; "
        "undo: to the last good revision unless replica_set says another; the rest is read from the target",
    )
    dry_run: bool = Field(True, description="true: say what would be done and which guards would forbid it")


class GuardOut(BaseModel):
    guard: str
    allowed: bool
    reason: str


class RemediateOut(BaseModel):
    dry_run: bool
    id: str | None = Field(description="the incident that carries the action out; null for a dry run")
    plan: dict[str, Any]
    allowed: bool
    guards: list[GuardOut]
    api_server: str = Field("", description="what the API server says to the change, for a dry run")


class DecisionIn(Body):
    plan_id: str | None = Field(None, description="the plan that was read; refused when it has changed", max_length=40)


class PauseIn(Body):
    minutes: float | None = Field(None, gt=0, le=60 * 24 * 30)
    until: datetime | None = None
    reason: str = Field(min_length=1, max_length=500)


class PauseOut(BaseModel):
    paused: bool
    until: datetime | None = None
    reason: str = ""
    by: str = ""


class IncidentList(BaseModel):
    items: list[dict[str, Any]]
    total: int = Field(description="how many match the filters")
    next_offset: int | None = None


class WorkflowOut(BaseModel):
    id: str
    state: str
    steps: list[dict[str, Any]]
    plan: dict[str, Any] | None = None
    guards: list[GuardOut] = []
    outcome: dict[str, Any] | None = None


class StatusOut(BaseModel):
    version: str
    identity: str
    leading: bool
    mode: str
    paused: PauseOut
    incidents: dict[str, int]
    models: dict[str, Any]
    policies: dict[str, Any]
    stale: list[str]
    unreadable: dict[str, str] = Field(description="forbidden kinds, silences or alerts, and why")
