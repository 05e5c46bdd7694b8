"""What the REST API does, without HTTP: signals in, incidents out, people's decisions, dry runs."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from clusterheal import __version__
from clusterheal.contracts import IncidentState, Signal, SignalSource
from clusterheal.engine.actions import Gone, Refused
from clusterheal.engine.actions.apply import rehearse
from clusterheal.engine.api_models import (
    AnomalyIn,
    AnomalyOut,
    GuardOut,
    PauseOut,
    RemediateIn,
    RemediateOut,
    StatusOut,
    WorkflowOut,
)
from clusterheal.engine.codec import encode, encode_ref
from clusterheal.engine.correlate import normalised
from clusterheal.engine.decide import new_action, plan_id
from clusterheal.engine.diagnosis import diagnose
from clusterheal.engine.engine import Engine
from clusterheal.engine.guards import GuardCase, evaluate
from clusterheal.engine.names import digest, incident_name, root_key
from clusterheal.engine.pause import lift_pause, still_paused, write_pause
from clusterheal.engine.records import REQUEST, Approval, Observation, Record, Request
from clusterheal.engine.signals.alertmanager import parse_webhook
from clusterheal.engine.signals.symptoms import Symptom
from clusterheal.engine.store import Taken
from clusterheal.engine.world import Leadership, Pause, World
from clusterheal.errors import InvalidInput
from clusterheal.kube.ports import ApiError, ApiRetryable, Manifest


class NotFound(InvalidInput):
    """There is no such object or incident."""


class Conflict(InvalidInput):
    """The incident is not in a state for that any more."""


class Service:
    """Any replica answers: what it writes are incidents, which the leader takes up."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._clock = engine.parts.clock

    async def alerts(self, payload: Any) -> list[Taken]:
        """Store a notification of Alertmanager's; when this returns it cannot be lost any more.

        Raises:
            InvalidInput: malformed. ApiError, RetryableError: not stored, send again.
        """
        parsed = parse_webhook(payload, self.engine.cache.snapshot())
        taken = await self.engine.store.take(parsed.signals)
        for entry in taken:
            self.engine.metrics.signals.labels("alert", entry.outcome).inc()
        for _ in parsed.unmapped:
            self.engine.metrics.signals.labels("alert", "unmapped").inc()
        self.engine.reconciler.poke()
        return taken

    async def report(self, body: AnomalyIn, by: str) -> AnomalyOut:
        """Take in an anomaly that somebody else noticed.

        Raises:
            NotFound: no such target. InvalidInput: an unknown symptom.
        """
        target = normalised(body.target.ref(), self.engine.cache.snapshot())
        if target is None:
            raise NotFound(f"{body.target.ref()} does not exist in this cluster")
        if body.symptom is not None and body.symptom not in set(Symptom):
            raise InvalidInput(f"symptom: expected one of {', '.join(Symptom)}, got {body.symptom!r}")
        signal = Signal(
            source=SignalSource.API,
            name=body.name,
            fingerprint=f"api-{digest(root_key(target), body.name, length=16)}",
            target=target,
            starts_at=self._clock.now(),
            resolved=body.resolved,
            severity=body.severity,
            confidence=body.confidence,
            summary=body.summary,
            details={"symptom": body.symptom or Symptom.OTHER.value, "by": by},
        )
        taken = (await self.engine.store.take([signal]))[0]
        self.engine.metrics.signals.labels("api", taken.outcome).inc()
        self.engine.reconciler.poke()
        return AnomalyOut.model_validate({"id": taken.incident, "outcome": taken.outcome})

    def incident(self, name: str) -> Manifest:
        """One incident as its custom resource.

        Raises:
            NotFound.
        """
        return encode(self._record(name))

    def _record(self, name: str) -> Record:
        record = self.engine.store.records().get(name)
        if record is None:
            raise NotFound(f"there is no incident {name!r}")
        return record

    def incidents(
        self, *, status: str | None, severity: str | None, namespace: str | None, kind: str | None
    ) -> list[Record]:
        """Matching incidents, newest first. `status` is a state, or `open` or `ended`.

        Raises:
            InvalidInput: no such state.
        """
        if status is not None and status.lower() not in _STATUSES:
            states = ", ".join(state.value for state in IncidentState)
            raise InvalidInput(f"status: expected open, ended or one of {states}, got {status!r}")
        found = sorted(self.engine.store.records().values(), key=lambda r: (r.opened_at, r.name), reverse=True)
        return [
            r
            for r in found
            if (status is None or _has_status(r, status))
            and (severity is None or any(o.signal.severity == severity for o in r.observations))
            and (namespace is None or r.target.namespace == namespace)
            and (kind is None or r.target.kind == kind)
        ]

    def workflow(self, name: str) -> WorkflowOut:
        """The steps of an incident's plan. Raises NotFound."""
        record = self._record(name)
        status = encode(record)["status"]
        return WorkflowOut(
            id=record.name,
            state=record.state.value,
            steps=status["timeline"],
            plan=status.get("plan"),
            guards=[GuardOut(**asdict(v)) for v in record.guards],
            outcome=status.get("outcome"),
        )

    async def resolve(self, name: str, decision: str, wanted_plan: str | None, by: str) -> Manifest:
        """Approve or reject the plan of an incident.

        Raises:
            NotFound; Conflict: there is no plan, another one by now, or the incident goes on already.
        """

        def change(record: Record) -> Record:
            if record.ended or record.plan_id is None or record.action is not None:
                raise Conflict(f"incident {name} is {record.state.value}; there is nothing to {decision}")
            if wanted_plan is not None and wanted_plan != record.plan_id:
                raise Conflict(f"the plan is now {record.plan_id}, not {wanted_plan}; read it again")
            approval = Approval(decision=decision, by=by, at=self._clock.now(), plan_id=record.plan_id)
            return replace(record, approval=approval)

        try:
            record = await self.engine.store.amend(name, change)
        except ApiError as exc:
            if exc.status == 404:
                raise NotFound(f"there is no incident {name!r}") from exc
            raise
        self.engine.reconciler.poke()
        return encode(record)

    async def remediate(self, body: RemediateIn, by: str) -> RemediateOut:
        """Plan what a person asks for; without `dry_run` open an incident that carries it out under all guards.

        Raises:
            NotFound; InvalidInput: the request makes no plan; Conflict: an incident of the object is open.
        """
        world = self.engine.reconciler.world()
        target = normalised(body.target.ref(), world.snapshot)
        if target is None:
            raise NotFound(f"{body.target.ref()} does not exist in this cluster")
        record = self._requested(target, body, by)
        finding = diagnose(record, world)
        if finding is None or finding.plan is None:
            raise InvalidInput(finding.diagnosis.explanation if finding else "no plan can be made of this")
        plan, identity = finding.plan, plan_id(record, finding.plan)
        record = replace(record, plan=plan, plan_id=identity, diagnosis=finding.diagnosis)
        case = GuardCase(plan=plan, diagnosis=finding.diagnosis, record=record, world=world, plan_id=identity)
        verdicts = evaluate(case)
        answer = RemediateOut(
            dry_run=body.dry_run,
            id=None,
            plan={"action": plan.action, "target": encode_ref(plan.target), "parameters": dict(plan.parameters)},
            allowed=all(v.allowed for v in verdicts),
            guards=[GuardOut(**asdict(v)) for v in verdicts],
        )
        if body.dry_run:
            return answer.model_copy(update={"api_server": await self._rehearsed(record)})
        blocking = next((r for r in self.engine.store.of_root(target) if not r.ended), None)
        if blocking is not None:
            raise Conflict(f"incident {blocking.name} of {target} is open; approve or reject its plan instead")
        opened = await self.engine.store.open(replace(record, plan=None, plan_id=None, diagnosis=None))
        self.engine.reconciler.poke()
        return answer.model_copy(update={"id": opened.name})

    def _requested(self, target: Any, body: RemediateIn, by: str) -> Record:
        now = self._clock.now()
        known = self.engine.store.of_root(target)
        signal = Signal(
            source=SignalSource.API,
            name=REQUEST,
            fingerprint=f"request-{digest(root_key(target), now.isoformat(), length=16)}",
            target=target,
            starts_at=now,
            severity="info",
            summary=f"{by} asks for {body.action}",
            details={"symptom": Symptom.OTHER.value},
        )
        return Record(
            name=incident_name(target, known[0].sequence + 1 if known else 1),
            namespace=self.engine.parts.namespace,
            target=target,
            opened_at=now,
            observations=(Observation(signal=signal, first_seen=now, last_seen=now),),
            request=Request(action=body.action, parameters=body.parameters, by=by, at=now),
        )

    async def _rehearsed(self, record: Record) -> str:
        """The API server's own word on the change, by its dry run."""
        assert record.plan is not None
        world = self.engine.reconciler.world()
        nobody = Leadership(holder="dry-run", epoch=0, valid_until=self._clock.now())
        intent = new_action(record, record.plan.action, record.plan.parameters, world, nobody)
        try:
            await rehearse(self.engine.parts.cluster, intent, record.name, clock=self._clock)
        except (Gone, Refused, ApiError, ApiRetryable) as exc:
            return f"refused: {exc}"
        return "accepted by the API server's dry run"

    async def pause(self, *, minutes: float | None, until: datetime | None, reason: str, by: str) -> PauseOut:
        """Stop all automation. Raises InvalidInput for an expiry in the past or none at all."""
        if (minutes is None) == (until is None):
            raise InvalidInput("give either minutes or until; a pause without an end is forgotten")
        end = until if until is not None else self._clock.now() + timedelta(minutes=minutes or 0)
        if end.tzinfo is None or end <= self._clock.now():
            raise InvalidInput(f"until: expected a time with a zone in the future, got {end.isoformat()}")
        await write_pause(
            self.engine.parts.cluster, self.engine.parts.namespace, Pause(until=end, reason=reason, by=by)
        )
        return PauseOut(paused=True, until=end, reason=reason, by=by)

    async def unpause(self) -> PauseOut:
        await lift_pause(self.engine.parts.cluster, self.engine.parts.namespace)
        return PauseOut(paused=False)

    def paused(self) -> PauseOut:
        world = self.engine.reconciler.world()
        pause = world.pause
        if pause is None or not still_paused(pause, world.now):
            return PauseOut(paused=False)
        return PauseOut(paused=True, until=pause.until, reason=pause.reason, by=pause.by)

    def status(self) -> StatusOut:
        """How this replica and its connections are."""
        world, engine = self.engine.reconciler.world(), self.engine
        counts: dict[str, int] = {}
        for record in world.records.values():
            counts[record.state.value] = counts.get(record.state.value, 0) + 1
        models = world.models
        limit = engine.parts.config.fresh
        stale = [r.plural for r, seen in world.snapshot.synced_at.items() if world.now - seen > limit]
        return StatusOut(
            version=__version__,
            identity=engine.parts.identity,
            leading=engine.elector.leading,
            mode=engine.parts.config.mode,
            paused=self.paused(),
            incidents=counts,
            models={
                "scored_at": models.scored_at.isoformat() if models.contract_sha256 and models.scored_at else None,
                "data_at": models.data_at.isoformat() if models.data_at else None,
                "contract_sha256": models.contract_sha256,
                "problem": models.problem,
                "detections": len(models.detections),
                "forecasts": len(models.forecasts),
                "alarms": sorted(e for e, d in models.detections.items() if d.alarm),
            },
            policies={
                "valid": [p.name for p in world.policies.policies],
                "invalid": dict(world.policies.problems),
            },
            unreadable=self._unreadable(world),
            stale=[*engine.cache.missing, *stale, *(r.plural for r in world.snapshot.unreadable)],
        )

    def _unreadable(self, world: World) -> dict[str, str]:
        found = {resource.plural: why for resource, why in world.snapshot.unreadable.items()}
        reader = self.engine.parts.silences
        if reader is not None and reader.last.problem is not None:
            found["silences"] = reader.last.problem
        if self.engine.observer.problem is not None:
            found["alerts"] = self.engine.observer.problem
        return found


_STATUSES = frozenset({"open", "ended", *(state.value.lower() for state in IncidentState)})


def _has_status(record: Record, status: str) -> bool:
    if status.lower() in ("open", "ended"):
        return record.ended == (status.lower() == "ended") if status != "Open" else record.state.value == "Open"
    return record.state.value.lower() == status.lower()


__all__ = ["Conflict", "NotFound", "Service"]
