"""Containers that start and fail again. After a rollout: go back. Without one: people need the logs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from clusterheal.engine.diagnosis.case import Case, Finding, explained, report
from clusterheal.engine.diagnosis.revisions import Revision, last_good, revisions, undo_plan
from clusterheal.engine.signals.symptoms import Symptom

PRIORITY = 80
AFTER_ROLLOUT = timedelta(hours=1)  # a revision that ran well this long is not what broke


def diagnose(case: Case) -> Finding | None:
    """Undo when the failing pods belong to the newest revision and it is young; escalate otherwise."""
    seen = case.of(Symptom.CRASH_LOOP)
    if not seen:
        return None
    began = min(o.signal.starts_at for o in seen)
    evidence = _evidence(case)
    if case.record.target.kind == "Deployment":
        young = _young_revision(case, began)
        good = last_good(case.world, case.record.target) if young is not None else None
        if young is not None and good is not None:
            return _undo(case, young, good, evidence)
    exits = sorted({str(p["last_exit"]) for p in evidence["pods"] if p["last_exit"] is not None})
    return report(
        case,
        cause="crash-loop",
        explanation=(
            f"Containers of {case.record.target} fail again and again (exit codes: {', '.join(exits) or 'unknown'}) "
            "and no rollout preceded it, so there is no revision to return to: the cause is in the program, its "
            "configuration or something it depends on. The last lines of its log are attached."
        ),
        evidence={**evidence, "wants_logs": True},
    )


def _evidence(case: Case) -> dict[str, Any]:
    return {"pods": case.pods_summary()}


def _young_revision(case: Case, began: datetime) -> Revision | None:
    """The newest revision, when its pods are those that fail and it came shortly before the trouble."""
    newest = next(iter(revisions(case.world, case.record.target)), None)
    if newest is None or began - newest.created_at > AFTER_ROLLOUT:
        return None
    failing = [p for p in case.pods if any(c.waiting == "CrashLoopBackOff" or c.restarts for c in p.containers)]
    if failing and not any(p.owner_name == newest.name for p in failing):
        return None
    return newest


def _undo(case: Case, bad: Revision, good: Revision, evidence: dict[str, Any]) -> Finding:
    target = case.record.target
    plan = undo_plan(
        target,
        bad,
        good,
        playbook="crash-loop-after-rollout",
        priority=PRIORITY,
        effect="all replicas become available on the earlier revision",
    )
    explanation = (
        f"{target} went from revision {good.number} to {bad.number} at {bad.created_at:%Y-%m-%d %H:%M:%S} UTC and its "
        f"new pods crash. Revision {good.number} "
        + (f"still has {good.available} pods ready" if good.available else "is the newest one not known to be bad")
        + "; the rollout is undone."
    )
    return Finding(
        diagnosis=explained(
            case,
            cause="crash-loop-after-rollout",
            explanation=explanation,
            playbook=plan.playbook,
            evidence={**evidence, "bad_replica_set": bad.name, "good_replica_set": good.name},
        ),
        plan=plan,
    )
