"""Limits per object, per namespace and per hour, and an end to what does not help."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from clusterheal.contracts import Verdict
from clusterheal.engine.guards.case import Answer, GuardCase
from clusterheal.engine.guards.history import actions
from clusterheal.engine.names import root_key
from clusterheal.engine.records import Record

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
    worn = worn_out(case)
    if worn is not None:
        return False, worn
    return True, f"{len(same)}/{len(near)}/{len(recent)} actions within the hour (object/namespace/all)"


def worn_out(case: GuardCase) -> str | None:
    """Why this playbook has been tried on this object often enough: without effect, or with one that never lasts.

    Repeated remediation hides the real issue; a person has to look for it.
    """
    recent = [r.outcome.verdict for r in _runs(case) if r.outcome is not None]
    futile = sum(v in (Verdict.NO_EFFECT, Verdict.HARMED) for v in recent)
    helped = sum(v is Verdict.HELPED for v in recent)
    if futile >= case.policy.ineffective_before_escalation:
        return f"{case.plan.playbook} did not help {futile} times within a day; a person has to look"
    if helped >= case.policy.repeats_before_escalation:
        return (
            f"{case.plan.playbook} helped {helped} times within a day and the trouble came back each time; a person "
            "has to look for its cause"
        )
    return None


def _runs(case: GuardCase) -> Iterator[Record]:
    """Incidents of this object in which this playbook was tried and judged within a day."""
    for record in case.world.records.values():
        if record.root != case.record.root or record.plan is None or record.outcome is None:
            continue
        recent = case.world.now - record.outcome.finished_at < DAY
        if recent and record.plan.playbook == case.plan.playbook:
            yield record
