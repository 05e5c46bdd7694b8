"""Limits per object, per namespace and per hour, and an end to what does not help."""

from __future__ import annotations

from datetime import timedelta

from clusterheal.contracts import Verdict
from clusterheal.engine.guards.case import Answer, GuardCase
from clusterheal.engine.guards.history import actions
from clusterheal.engine.names import root_key

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def check(case: GuardCase) -> Answer:
    recent = [(r, a) for r, a, when in actions(case) if case.world.now - when < HOUR]
    same = [a for _, a in recent if root_key(a.target) == root_key(case.target)]
    near = [a for _, a in recent if a.target.namespace == case.target.namespace]
    policy = case.policy
    for what, count, limit in (
        (f"on {case.target}", len(same), policy.per_target_per_hour),
        (f"in namespace {case.target.namespace}", len(near), policy.per_namespace_per_hour),
        ("in all", len(recent), policy.per_hour),
    ):
        if count >= limit:
            return False, f"{count} actions {what} within the hour; the limit is {limit}"
    futile = ineffective_runs(case)
    if futile >= policy.ineffective_before_escalation:
        return False, f"{case.plan.playbook} did not help {futile} times within a day; a person has to look"
    return True, f"{len(same)}/{len(near)}/{len(recent)} actions within the hour (object/namespace/all)"


def ineffective_runs(case: GuardCase) -> int:
    """How often this playbook was tried on this object within a day without helping."""
    bad = (Verdict.NO_EFFECT, Verdict.HARMED)
    return sum(
        1
        for record in case.world.records.values()
        if record.root == case.record.root
        and record.plan is not None
        and record.plan.playbook == case.plan.playbook
        and record.outcome is not None
        and record.outcome.verdict in bad
        and case.world.now - record.outcome.finished_at < DAY
    )
