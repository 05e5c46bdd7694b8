"""Incident custom resources to `Record` and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
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
    Verdict,
)
from clusterheal.engine.names import GROUP, ROOT_LABEL, digest, root_key
from clusterheal.engine.records import ActionRecord, Approval, Observation, Record, Request, TimelineEntry
from clusterheal.errors import InvalidInput
from clusterheal.kube.ports import Manifest

API_VERSION = f"{GROUP}/v1alpha1"
OTHERS = ("labels", "annotations", "finalizers", "ownerReferences")  # a replacement without them would remove them


def format_time(value: datetime) -> str:
    """RFC 3339, UTC, microseconds."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(value: str) -> datetime:
    """RFC 3339; nanoseconds (Alertmanager writes them) are cut to microseconds.

    Raises:
        InvalidInput: no time, or one without a zone.
    """
    text = value.strip()
    if "." in text:
        head, _, tail = text.partition(".")
        digits = len(tail) - len(tail.lstrip("0123456789"))
        text = f"{head}.{tail[: min(digits, 6)]}{tail[digits:]}"
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidInput(f"expected an RFC 3339 time such as 2026-01-31T12:00:00Z, got {value!r}") from exc
    if parsed.tzinfo is None:
        raise InvalidInput(f"expected a time with a zone such as 2026-01-31T12:00:00Z, got {value!r}")
    return parsed.astimezone(UTC)


def _opt_time(value: str | None) -> datetime | None:
    return None if value is None else parse_time(value)


def _drop_none(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in data.items() if v is not None}


def encode_ref(ref: ObjectRef) -> dict[str, Any]:
    return _drop_none(
        {
            "apiVersion": ref.api_version,
            "kind": ref.kind,
            "namespace": ref.namespace,
            "name": ref.name,
            "uid": ref.uid,
        }
    )


def decode_ref(data: Mapping[str, Any]) -> ObjectRef:
    return ObjectRef(
        api_version=data["apiVersion"],
        kind=data["kind"],
        namespace=data.get("namespace"),
        name=data["name"],
        uid=data.get("uid"),
    )


def encode_observation(obs: Observation) -> dict[str, Any]:
    signal = obs.signal
    return _drop_none(
        {
            "source": signal.source.value,
            "name": signal.name,
            "fingerprint": signal.fingerprint,
            "startsAt": format_time(signal.starts_at),
            "firstSeen": format_time(obs.first_seen),
            "lastSeen": format_time(obs.last_seen),
            "resolvedAt": None if obs.resolved_at is None else format_time(obs.resolved_at),
            "flaps": obs.flaps,
            "severity": signal.severity,
            "confidence": signal.confidence,
            "summary": signal.summary,
            "details": dict(signal.details),
        }
    )


def decode_observation(data: Mapping[str, Any], target: ObjectRef) -> Observation:
    signal = Signal(
        source=SignalSource(data["source"]),
        name=data["name"],
        fingerprint=data["fingerprint"],
        target=target,
        starts_at=parse_time(data["startsAt"]),
        severity=data.get("severity", "warning"),
        confidence=data.get("confidence"),
        summary=data.get("summary", ""),
        details=data.get("details") or {},
    )
    return Observation(
        signal=signal,
        first_seen=parse_time(data["firstSeen"]),
        last_seen=parse_time(data["lastSeen"]),
        resolved_at=_opt_time(data.get("resolvedAt")),
        flaps=int(data.get("flaps", 0)),
    )


def encode_spec(record: Record) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "target": encode_ref(record.target),
        "openedAt": format_time(record.opened_at),
        "signals": [encode_observation(o) for o in record.observations],
    }
    if record.approval is not None:
        approval = record.approval
        spec["approval"] = {
            "decision": approval.decision,
            "by": approval.by,
            "at": format_time(approval.at),
            "planId": approval.plan_id,
        }
    if record.request is not None:
        request = record.request
        spec["request"] = {
            "action": request.action,
            "parameters": dict(request.parameters),
            "by": request.by,
            "at": format_time(request.at),
        }
    return spec


def _encode_plan(plan: Plan, plan_id: str | None, planned_at: datetime | None) -> dict[str, Any]:
    return _drop_none(
        {
            "id": plan_id,
            "playbook": plan.playbook,
            "action": plan.action,
            "target": encode_ref(plan.target),
            "parameters": dict(plan.parameters),
            "priority": plan.priority,
            "expectedEffect": plan.expected_effect,
            "verifyPromql": plan.verify_promql,
            "rollback": plan.rollback,
            "plannedAt": None if planned_at is None else format_time(planned_at),
        }
    )


def _decode_plan(data: Mapping[str, Any]) -> Plan:
    return Plan(
        playbook=data["playbook"],
        action=data["action"],
        target=decode_ref(data["target"]),
        parameters=data.get("parameters") or {},
        priority=int(data.get("priority", 0)),
        expected_effect=data.get("expectedEffect", ""),
        verify_promql=data.get("verifyPromql"),
        rollback=data.get("rollback", ""),
    )


def _encode_action(action: ActionRecord) -> dict[str, Any]:
    return _drop_none(
        {
            "id": action.id,
            "action": action.action,
            "target": encode_ref(action.target),
            "parameters": dict(action.parameters),
            "intentAt": format_time(action.intent_at),
            "notAfter": format_time(action.not_after),
            "holder": action.holder,
            "epoch": action.epoch,
            "attempts": action.attempts,
            "appliedAt": None if action.applied_at is None else format_time(action.applied_at),
            "doneAt": None if action.done_at is None else format_time(action.done_at),
            "result": action.result,
            "before": dict(action.before),
        }
    )


def _decode_action(data: Mapping[str, Any] | None) -> ActionRecord | None:
    if not data:
        return None
    return ActionRecord(
        id=data["id"],
        action=data["action"],
        target=decode_ref(data["target"]),
        parameters=data.get("parameters") or {},
        intent_at=parse_time(data["intentAt"]),
        not_after=parse_time(data["notAfter"]),
        holder=data["holder"],
        epoch=int(data["epoch"]),
        attempts=int(data.get("attempts", 1)),
        applied_at=_opt_time(data.get("appliedAt")),
        done_at=_opt_time(data.get("doneAt")),
        result=data.get("result", ""),
        before=data.get("before") or {},
    )


def encode_status(record: Record) -> dict[str, Any]:
    """The leader's part. Summary fields at the top level feed the printer columns."""
    status: dict[str, Any] = {"state": record.state.value, "message": record.message}
    if record.diagnosis is not None:
        status["diagnosis"] = _drop_none(vars(record.diagnosis))
        status["diagnosis"]["evidence"] = dict(record.diagnosis.evidence)
    if record.plan is not None:
        status["plan"] = _encode_plan(record.plan, record.plan_id, record.planned_at)
    if record.guards:
        status["guards"] = [dict(vars(g)) for g in record.guards]
    if record.deferred_by is not None:
        status["deferredBy"] = record.deferred_by
    for key, action in (("action", record.action), ("rollback", record.rollback)):
        if action is not None:
            status[key] = _encode_action(action)
    if record.outcome is not None:
        outcome = record.outcome
        status["outcome"] = _drop_none(
            {
                "verdict": outcome.verdict.value,
                "observed": outcome.observed,
                "counterfactual": outcome.counterfactual,
                "explanation": outcome.explanation,
                "finishedAt": format_time(outcome.finished_at),
            }
        )
    status["timeline"] = [{"at": format_time(t.at), "state": t.state, "message": t.message} for t in record.timeline]
    if record.ended_at is not None:
        status["endedAt"] = format_time(record.ended_at)
    return status


def encode(record: Record) -> Manifest:
    """The whole custom resource."""
    metadata: dict[str, Any] = {
        **record.kept,
        "name": record.name,
        "namespace": record.namespace,
        "labels": {**record.kept.get("labels", {}), ROOT_LABEL: digest(root_key(record.target))},
    }
    if record.resource_version is not None:
        metadata["resourceVersion"] = record.resource_version
    return {
        "apiVersion": API_VERSION,
        "kind": "Incident",
        "metadata": metadata,
        "spec": encode_spec(record),
        "status": encode_status(record),
    }


def _decode_outcome(data: Mapping[str, Any] | None) -> Outcome | None:
    if not data:
        return None
    return Outcome(
        verdict=Verdict(data["verdict"]),
        observed=data.get("observed"),
        counterfactual=data.get("counterfactual"),
        explanation=data.get("explanation", ""),
        finished_at=parse_time(data["finishedAt"]),
    )


def _decode_diagnosis(data: Mapping[str, Any] | None) -> Diagnosis | None:
    if not data:
        return None
    return Diagnosis(
        cause=data["cause"],
        origin=data["origin"],
        playbook=data.get("playbook"),
        confidence=float(data["confidence"]),
        explanation=data["explanation"],
        evidence=data.get("evidence") or {},
    )


def decode(obj: Manifest) -> Record:
    """Read a custom resource.

    Raises:
        InvalidInput: a field that is missing or of the wrong form, naming the incident.
    """
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    try:
        target = decode_ref(spec["target"])
        approval, request, plan = spec.get("approval"), spec.get("request"), status.get("plan")
        return Record(
            name=metadata["name"],
            namespace=metadata.get("namespace", ""),
            resource_version=metadata.get("resourceVersion"),
            uid=metadata.get("uid"),
            kept=_kept(metadata),
            target=target,
            opened_at=parse_time(spec["openedAt"]),
            observations=tuple(decode_observation(s, target) for s in spec.get("signals") or []),
            approval=None if not approval else _decode_approval(approval),
            request=None if not request else _decode_request(request),
            state=IncidentState(status.get("state", IncidentState.OPEN.value)),
            message=status.get("message", ""),
            diagnosis=_decode_diagnosis(status.get("diagnosis")),
            plan=None if not plan else _decode_plan(plan),
            plan_id=plan.get("id") if plan else None,
            planned_at=_opt_time(plan.get("plannedAt")) if plan else None,
            guards=tuple(GuardVerdict(**g) for g in status.get("guards") or []),
            deferred_by=status.get("deferredBy"),
            action=_decode_action(status.get("action")),
            rollback=_decode_action(status.get("rollback")),
            outcome=_decode_outcome(status.get("outcome")),
            timeline=tuple(
                TimelineEntry(at=parse_time(t["at"]), state=t["state"], message=t["message"])
                for t in status.get("timeline") or []
            ),
            ended_at=_opt_time(status.get("endedAt")),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidInput(
            f"Incident {metadata.get('name')!r} cannot be read: {exc!r}; expected {API_VERSION}"
        ) from exc


def _kept(metadata: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: metadata[key] for key in OTHERS if metadata.get(key)}
    if labels := {k: v for k, v in found.pop("labels", {}).items() if k != ROOT_LABEL}:
        found["labels"] = labels
    return found


def _decode_approval(data: Mapping[str, Any]) -> Approval:
    return Approval(
        decision=data["decision"],
        by=data.get("by", ""),
        at=parse_time(data["at"]),
        plan_id=data.get("planId", ""),
    )


def _decode_request(data: Mapping[str, Any]) -> Request:
    return Request(
        action=data["action"],
        parameters=data.get("parameters") or {},
        by=data.get("by", ""),
        at=parse_time(data["at"]),
    )
