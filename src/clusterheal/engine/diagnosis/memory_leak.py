"""Memory that rises towards its limit: restart the pods one after the other before the kernel kills them."""

from __future__ import annotations

from clusterheal.contracts import Plan
from clusterheal.engine.diagnosis.case import Case, Finding, explained
from clusterheal.engine.records import Observation
from clusterheal.engine.signals.symptoms import Symptom

PRIORITY = 60
RESTARTABLE = ("Deployment", "StatefulSet", "DaemonSet")


def diagnose(case: Case) -> Finding | None:
    """An alert or a forecast that names memory of a workload, or a detection that memory leads."""
    seen = case.of(Symptom.MEMORY_LEAK)
    if not seen or case.record.target.kind not in RESTARTABLE or not _sure(seen, case.world.config.confidence_floor):
        return None
    feature, threshold = case.watched(seen, "workload_memory_of_limit", "memory")
    crossing = next((o.signal.details["crosses_at"] for o in seen if "crosses_at" in o.signal.details), None)
    ahead = f", forecast to reach {threshold:g} at {crossing}" if crossing and threshold is not None else ""
    leaking = case.of(Symptom.OOM_KILLED)
    explanation = (
        f"Memory of {case.record.target} rises and its load does not explain it{ahead}. A rolling restart gives the "
        "memory back one pod at a time, before the kernel kills a pod in the middle of its work. It is a temporary "
        "cure: the leak itself needs a fix in the program."
    )
    plan = Plan(
        playbook="predicted-memory-leak",
        action="restart",
        target=case.record.target,
        parameters={} if feature is None else {"proof": case.proof(feature, threshold)},
        priority=PRIORITY,
        expected_effect=f"{feature or 'memory'} falls back to its level after a start",
        verify_promql=None,
        rollback="none: a restart cannot be undone; a rollout that does not complete is escalated",
    )
    diagnosis = explained(
        case,
        cause="memory-leak",
        explanation=explanation,
        playbook=plan.playbook,
        evidence={"feature": feature, "crosses_at": crossing, "oom_killed": bool(leaking), "pods": case.pods_summary()},
    )
    return Finding(diagnosis=diagnosis, plan=plan)


def _sure(seen: list[Observation], floor: float) -> bool:
    """A rule needs a fact: an alert, a forecast crossing, or a detection above the confidence floor."""
    return any(o.signal.confidence is None or "crosses_at" in o.signal.details for o in seen) or any(
        (o.signal.confidence or 0.0) >= floor for o in seen
    )
