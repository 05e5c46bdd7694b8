"""A person asked for an action by the API: their word is the diagnosis, the guards still hold."""

from __future__ import annotations

from typing import Any

from clusterheal.contracts import Plan
from clusterheal.engine.diagnosis.case import Case, Finding, explained, report
from clusterheal.engine.diagnosis.revisions import last_good, revisions
from clusterheal.engine.views import replicas_wanted

PRIORITY = 95


def diagnose(case: Case) -> Finding | None:
    """A plan for the request; `None` when nobody asked."""
    request = case.record.request
    if request is None:
        return None
    parameters: dict[str, Any] = dict(request.parameters)
    target = case.record.target
    if request.action == "undo" and "replica_set" not in parameters:
        good, newest = last_good(case.world, target), next(iter(revisions(case.world, target)), None)
        if good is None or newest is None:
            text = f"{target} has no earlier revision to return to"
            return report(case, cause=f"requested by {request.by}", explanation=text)
        parameters = {"to_revision": good.number, "replica_set": good.name, "from_revision": newest.number}
    if request.action == "scale":
        have = replicas_wanted(case.manifest or {})
        parameters.setdefault("from_replicas", have)
        parameters.setdefault("to_replicas", have + 1)
    if request.action == "drain":
        parameters.setdefault("ttl_seconds", case.world.policy_for("drain", target).drain_ttl.total_seconds())
    plan = Plan(
        playbook="requested",
        action=request.action,
        target=target,
        parameters=parameters,
        priority=PRIORITY,
        expected_effect="what the person who asked expects",
        verify_promql=None,
        rollback="as for the action",
    )
    diagnosis = explained(
        case,
        cause=f"requested by {request.by}",
        explanation=f"{request.by} asked for {request.action} on {target}.",
        playbook=plan.playbook,
    )
    return Finding(diagnosis=diagnosis, plan=plan)
