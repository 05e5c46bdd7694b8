"""A rollout that does not finish within its progress deadline: back to the revision that still serves."""

from __future__ import annotations

from clusterheal.engine.diagnosis.case import Case, Finding, explained, report
from clusterheal.engine.diagnosis.revisions import last_good, revisions, undo_plan
from clusterheal.engine.signals.symptoms import Symptom

PRIORITY = 70


def diagnose(case: Case) -> Finding | None:
    """Undo when an older revision still has ready pods; otherwise explain what holds the rollout up."""
    if not case.of(Symptom.ROLLOUT_STUCK) or case.record.target.kind != "Deployment":
        return None
    waiting = sorted({c.waiting for p in case.pods for c in p.containers if c.waiting})
    pending = [p.name for p in case.pods if p.unschedulable is not None]
    why = f"its pods wait: {', '.join(waiting)}" if waiting else "its new pods do not become ready"
    if pending:
        why = f"{len(pending)} pods cannot be scheduled"
    newest = next(iter(revisions(case.world, case.record.target)), None)
    good = last_good(case.world, case.record.target)
    if newest is None or good is None or good.available == 0 or pending:
        return report(
            case,
            cause="rollout-stuck",
            explanation=f"The rollout of {case.record.target} does not finish: {why}. No older revision serves, so "
            "nothing is undone.",
            evidence={"pods": case.pods_summary()},
        )
    plan = undo_plan(
        case.record.target,
        newest,
        good,
        playbook="stuck-rollout",
        priority=PRIORITY,
        effect="the rollout completes on the earlier revision",
    )
    return Finding(
        diagnosis=explained(
            case,
            cause="rollout-stuck",
            explanation=f"The rollout of {case.record.target} to revision {newest.number} does not finish: {why}. "
            f"Revision {good.number} still has {good.available} pods ready and is restored.",
            playbook=plan.playbook,
            evidence={"bad_replica_set": newest.name, "pods": case.pods_summary()},
        ),
        plan=plan,
    )
