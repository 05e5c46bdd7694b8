"""Containers that the kernel killed for memory: a higher limit, from what was used and within the policy."""

from __future__ import annotations

from clusterheal.contracts import SignalSource
from clusterheal.engine.diagnosis.case import Case, Finding, explained, report
from clusterheal.engine.diagnosis.raising import raised, spread
from clusterheal.engine.signals.symptoms import Symptom

PRIORITY = 65


def diagnose(case: Case) -> Finding | None:
    """Raise the limit where the policy leaves room; otherwise explain what would have held."""
    seen = case.of(Symptom.OOM_KILLED)
    if not seen or any(o.signal.source is not SignalSource.DETECTOR for o in case.of(Symptom.MEMORY_LEAK)):
        return None  # a leak is treated as a leak
    found = raised(case, seen, "memory", playbook="oom-killed", priority=PRIORITY)
    container = found.container if found is not None else seen[0].signal.details.get("container", "?")
    limit = found.limit if found is not None else seen[0].signal.details.get("memory_limit") or "unknown size"
    explanation = f"The kernel killed container {container} of {case.record.target} at its memory limit of {limit}."
    evidence = {"pods": case.pods_summary(), **({} if found is None else found.evidence)}
    if found is not None:
        explanation += spread(found.usage, "memory")
    if found is None or found.plan is None:
        hold = f" A limit of {found.wanted} would have held what was observed." if found is not None else ""
        return report(
            case,
            cause="oom-killed",
            explanation=f"{explanation}{hold} No policy lets the engine raise it that far "
            "(spec.resources.maxMemory): raise resources.limits.memory where the object is defined, or find what grew.",
            evidence=evidence,
        )
    diagnosis = explained(
        case,
        cause="oom-killed",
        explanation=f"{explanation} The limit is raised to {found.wanted}.",
        playbook=found.plan.playbook,
        evidence=evidence,
    )
    return Finding(diagnosis=diagnosis, plan=found.plan)
