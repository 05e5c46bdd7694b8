"""The decisions of one round: a pure function from the world to the next state of every open incident.

Nothing here writes or waits. `act` in `reconcile` carries the steps out; replaying a stored world gives the same steps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

import orjson

from clusterheal.contracts import Diagnosis, IncidentState, Outcome, Plan, Verdict
from clusterheal.engine import verify
from clusterheal.engine.actions import ACTIONS
from clusterheal.engine.arbitration import Candidate, arbitrate
from clusterheal.engine.diagnosis import Finding, diagnose
from clusterheal.engine.diagnosis.common_cause import common_cause
from clusterheal.engine.guards import GuardCase, evaluate
from clusterheal.engine.guards.rate import worn_out
from clusterheal.engine.names import digest
from clusterheal.engine.records import HOLDING, ActionRecord, Record
from clusterheal.engine.world import Leadership, World

log = logging.getLogger(__name__)

PENDING = frozenset({IncidentState.OPEN, IncidentState.PLANNED, IncidentState.AWAITING_APPROVAL})
MAX_INTENTS = 5  # intents that came to nothing before people are told
REPORT_AFTER = timedelta(seconds=5)  # before a case without a cure is handed over: its other symptoms may say more


class Effect(StrEnum):
    """What has to be done to the cluster once the step is written."""

    ACT = "act"
    RELEASE = "release"


@dataclass(frozen=True, kw_only=True)
class Step:
    """An incident before and after; `effect` comes after `after` is stored, never before."""

    before: Record
    after: Record
    effect: Effect | None = None

    @property
    def intent(self) -> bool:
        """Whether this step announces a new write to the cluster."""
        new = self.before.action != self.after.action or self.before.rollback != self.after.rollback
        return self.effect is not None and new


def decide(world: World, leadership: Leadership) -> list[Step]:
    """The next step of every open incident, in a fixed order."""
    steps: dict[str, Step] = {}
    for record in sorted(world.open_records, key=lambda r: r.name):
        try:
            after, effect = _continue(record, world, leadership)
        except Exception as exc:  # one incident that cannot be read must not hold up all the others
            log.exception("no decision", extra={"incident": record.name})
            after, effect = _undecided(record, world, exc), None
        steps[record.name] = Step(before=record, after=after, effect=effect)
        # What ends in this round still holds its objects and its budget: its end is not stored yet.
        world = world.with_record(record if record.state in HOLDING else after)
    candidates = [
        (s.after, s.after.plan, s.after.diagnosis)
        for s in steps.values()
        if s.after.state in PENDING
        and s.after.plan is not None
        and s.after.diagnosis is not None
        and (s.after.active or s.after.request is not None)
    ]
    winners, losers = arbitrate(candidates, world.holding, world.snapshot)
    for name, reason in losers.items():
        after = replace(steps[name].after, deferred_by=reason, guards=(), message=f"waits for {reason}")
        steps[name] = replace(steps[name], after=_expired(after, world) or after)
    for candidate in winners:
        try:
            after, effect = _gate(candidate, world, leadership)
        except Exception as exc:
            log.exception("no decision", extra={"incident": candidate[0].name})
            after, effect = _undecided(candidate[0], world, exc), None
        steps[after.name] = replace(steps[after.name], after=after, effect=effect)
        world = world.with_record(after)
    return [s for s in steps.values() if s.effect is not None or _worth_writing(s.before, s.after)]


def _continue(record: Record, world: World, leadership: Leadership) -> tuple[Record, Effect | None]:
    if record.state in PENDING:
        return _triage(record, world), None
    if record.state is IncidentState.ACTING:
        return record, Effect.ACT
    return _judge(record, world, leadership)


def _undecided(record: Record, world: World, exc: Exception) -> Record:
    """Without a plan while it is open, so that nothing is done on an old one; what is under way stays held."""
    if record.state not in PENDING:
        return record
    record = replace(record, plan=None, plan_id=None)
    if world.now - record.opened_at < world.config.triage_timeout:
        return record
    message = f"no decision could be made: {exc!r}; the log has more, a person has to look"
    return record.moved(IncidentState.ESCALATED, message, world.now)


def _triage(record: Record, world: World) -> Record:
    """Self-healed, rejected, diagnosed, or handed over."""
    now = world.now
    if record.request is None and record.quiet_for(world.config.quiet, world.now):
        return record.moved(IncidentState.SELF_HEALED, "the trouble went away without action", now)
    approval = record.approval
    if approval is not None and approval.decision == "reject" and approval.plan_id == record.plan_id:
        return record.moved(IncidentState.REJECTED, f"plan {record.plan_id} was rejected by {approval.by}", now)
    if not record.active and record.request is None:
        return record
    cause = common_cause(record, world)
    if cause is not None and now - record.opened_at < world.config.plan_timeout:
        where = f"{cause.name}, whose node all of its troubled pods run on"
        return replace(record, plan=None, plan_id=None, deferred_by=where, message=f"explained by {where}")
    finding = diagnose(record, world)
    if finding is None:
        if now - record.opened_at < world.config.triage_timeout:
            return record
        names = ", ".join(sorted({o.signal.name for o in record.active}))
        return record.moved(
            IncidentState.ESCALATED, f"no rule and no model explains it ({names}); a person has to", now
        )
    if finding.plan is None:
        record = replace(record, diagnosis=finding.diagnosis, plan=None, plan_id=None)
        text = finding.diagnosis.explanation
        if finding.handed_over and now - record.opened_at >= REPORT_AFTER:
            return record.moved(IncidentState.SUGGESTED, text, now)
        if not finding.final:
            ripe = now - record.opened_at >= world.config.triage_timeout
            return record.moved(IncidentState.SUGGESTED, text, now) if ripe else record
        ripe = now - record.opened_at >= REPORT_AFTER
        return record.moved(IncidentState.ESCALATED, text, now) if ripe else record
    return _planned(record, finding, finding.plan, world)


def _planned(record: Record, finding: Finding, plan: Plan, world: World) -> Record:
    wanted = plan_id(record, plan)
    if record.plan_id == wanted and record.state is not IncidentState.OPEN:
        return replace(record, plan=plan, diagnosis=finding.diagnosis)
    message = f"{plan.action} on {plan.target} ({plan.playbook}): {finding.diagnosis.cause}"
    return record.moved(
        IncidentState.PLANNED,
        message,
        world.now,
        diagnosis=finding.diagnosis,
        plan=plan,
        plan_id=wanted,
        planned_at=record.planned_at or world.now,
    )


def plan_id(record: Record, plan: Plan) -> str:
    """The same plan has the same id; what only serves verification does not change it."""
    parameters = {k: v for k, v in plan.parameters.items() if k != "proof"}
    text = orjson.dumps(parameters, option=orjson.OPT_SORT_KEYS, default=str).decode()
    return digest(record.name, plan.playbook, plan.action, str(plan.target), text, length=12)


def _gate(candidate: Candidate, world: World, leadership: Leadership) -> tuple[Record, Effect | None]:
    """Ask every guard; all allow: write the intent."""
    record, plan, diagnosis = candidate
    case = GuardCase(plan=plan, diagnosis=diagnosis, record=record, world=world, plan_id=record.plan_id or "")
    verdicts = evaluate(case)
    denied = [v for v in verdicts if not v.allowed]
    record = replace(record, guards=verdicts, deferred_by=None)
    if not denied:
        return _intent(record, plan, world, leadership)
    reasons = "; ".join(f"{v.guard}: {v.reason}" for v in denied)
    only = {v.guard for v in denied}
    if "mode" in only and case.mode[0] == "suggest":
        return record.moved(
            IncidentState.SUGGESTED, f"suggested: {plan.action} on {plan.target}. {reasons}", world.now
        ), None
    if "rate" in only and worn_out(case) is not None:
        return record.moved(IncidentState.ESCALATED, reasons, world.now), None
    if (ended := _expired(record, world, reasons)) is not None:
        return ended, None
    if only == {"approval"}:
        if record.state is not IncidentState.AWAITING_APPROVAL:
            return record.moved(IncidentState.AWAITING_APPROVAL, reasons, world.now), None
        return replace(record, message=reasons), None
    if record.state is IncidentState.AWAITING_APPROVAL:
        return record.moved(IncidentState.PLANNED, f"waits: {reasons}", world.now), None
    return replace(record, message=f"waits: {reasons}"), None


def _expired(record: Record, world: World, reasons: str = "") -> Record | None:
    """Plans do not wait for ever."""
    waited = world.now - (record.planned_at or record.opened_at)
    low = record.diagnosis is not None and record.diagnosis.origin == "ai" and _denied(record, "confidence")
    if low and waited >= world.config.triage_timeout:
        return record.moved(IncidentState.SUGGESTED, f"a suggestion only: {reasons}", world.now)
    awaiting = record.state is IncidentState.AWAITING_APPROVAL
    limit = world.config.approval_timeout if awaiting else world.config.plan_timeout
    if waited < limit:
        return None
    if _denied(record, "mode"):
        return record.moved(IncidentState.SUGGESTED, f"not done in this mode: {reasons}", world.now)
    why = "nobody approved it" if awaiting else (reasons or record.message)
    return record.moved(IncidentState.ESCALATED, f"could not act within {limit}: {why}", world.now)


def _denied(record: Record, guard: str) -> bool:
    return any(v.guard == guard and not v.allowed for v in record.guards)


def _intent(record: Record, plan: Plan, world: World, leadership: Leadership) -> tuple[Record, Effect | None]:
    tried = sum(1 for t in record.timeline if t.state == IncidentState.ACTING.value)
    if tried >= MAX_INTENTS:
        return record.moved(
            IncidentState.ESCALATED, f"{tried} tries came to nothing: {record.message}", world.now
        ), None
    manifest = world.snapshot.manifest(plan.target)
    assert manifest is not None, "the target guard lets nothing pass without a target"
    action = new_action(record, plan.action, plan.parameters, world, leadership)
    action = replace(action, attempts=tried + 1, before=ACTIONS[plan.action].before(manifest, world.snapshot))
    acting = record.moved(IncidentState.ACTING, f"{plan.action} on {plan.target}", world.now, action=action)
    return acting, Effect.ACT


def new_action(
    record: Record, action: str, parameters: Mapping[str, Any], world: World, leadership: Leadership
) -> ActionRecord:
    """An intent; its id is unique to this try."""
    assert record.plan is not None
    return ActionRecord(
        id=digest(record.name, action, world.now.isoformat(), str(leadership.epoch), length=16),
        action=action,
        target=record.plan.target,
        parameters={k: v for k, v in parameters.items() if k != "proof"},
        intent_at=world.now,
        not_after=world.now + world.config.action_timeout,
        holder=leadership.holder,
        epoch=leadership.epoch,
    )


def _judge(record: Record, world: World, leadership: Leadership) -> tuple[Record, Effect | None]:
    """Verify; take back what has to be taken back before the incident may end."""
    action = record.action
    assert action is not None, "an incident is verified only after an action"
    outcome = record.outcome or verify.judge(record, action, world)
    if outcome is None:
        return record, None
    record = replace(record, outcome=outcome)
    if record.rollback is not None and record.rollback.done_at is None:
        return record, Effect.RELEASE
    back = _taken_back(action, outcome)
    if record.rollback is None and back is not None:
        name, parameters = back
        intent = new_action(record, name, parameters, world, leadership)
        record = record.moved(record.state, f"{outcome.explanation}; {name} follows", world.now, rollback=intent)
        return record, Effect.RELEASE
    return concluded(record, outcome, world), None


def _taken_back(action: ActionRecord, outcome: Outcome) -> tuple[str, dict[str, Any]] | None:
    """A harmful action is undone; a cordon never outlives its incident."""
    if outcome.verdict is not Verdict.HARMED and action.action != "drain":
        return None
    return ACTIONS[action.action].undo(action.parameters, action.before)


def concluded(record: Record, outcome: Outcome, world: World) -> Record:
    """The end that an outcome leads to."""
    rolled_back = record.rollback is not None and record.rollback.result == "applied"
    state = {
        Verdict.HELPED: IncidentState.RESOLVED,
        Verdict.SELF_HEALED: IncidentState.SELF_HEALED,
        Verdict.NO_EFFECT: IncidentState.ESCALATED,
        Verdict.HARMED: IncidentState.ROLLED_BACK if rolled_back else IncidentState.ESCALATED,
    }[outcome.verdict]
    return record.moved(state, f"{outcome.verdict.value}: {outcome.explanation}", world.now)


def _worth_writing(before: Record, after: Record) -> bool:
    """Whether the change matters; figures inside reasons move all the time."""
    return _essence(before) != _essence(after)


def _essence(record: Record) -> tuple[object, ...]:
    diagnosis: Diagnosis | None = record.diagnosis
    return (
        record.state,
        record.plan_id,
        diagnosis and (diagnosis.cause, diagnosis.origin, round(diagnosis.confidence, 1)),
        tuple((v.guard, v.allowed) for v in record.guards),
        record.deferred_by and record.deferred_by.split(",")[0],
        record.action,
        record.rollback,
        record.outcome and record.outcome.verdict,
    )
