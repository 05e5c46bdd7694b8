"""A container that is stopped at its CPU limit again and again: a higher limit within the policy."""

from __future__ import annotations

from dataclasses import replace

from clusterheal.contracts import SignalSource
from clusterheal.engine.diagnosis.case import Case, Finding, explained, report
from clusterheal.engine.diagnosis.raising import raised, spread
from clusterheal.engine.signals.symptoms import Symptom

PRIORITY = 45


def diagnose(case: Case) -> Finding | None:
    """Raise the limit where the policy leaves room; what only the detector hints at waits for an alert."""
    seen = case.of(Symptom.CPU_THROTTLING)
    if not seen:
        return None
    fact = any(o.signal.source is not SignalSource.DETECTOR for o in seen)
    found = raised(case, seen, "cpu", playbook="cpu-throttling", priority=PRIORITY) if fact else None
    name = "" if found is None else f"Container {found.container} of "
    at = "" if found is None else f" of {found.limit}"
    explanation = f"{name}{case.record.target} is stopped at its CPU limit{at} in many scheduling periods."
    evidence = {"pods": case.pods_summary(), **({} if found is None else found.evidence)}
    if found is None or found.plan is None:
        text = f"{explanation} Raise or remove the limit, or add replicas; a policy may let the engine do it "
        return replace(
            report(case, cause="cpu-throttling", explanation=f"{text}(spec.resources.maxCpu).", evidence=evidence),
            final=fact,
        )
    feature, _ = case.watched(seen, "workload_cpu_throttled", "throttled")
    plan = found.plan
    if feature is not None:
        plan = replace(plan, parameters={**plan.parameters, "proof": case.proof(feature, None)})
    diagnosis = explained(
        case,
        cause="cpu-throttling",
        explanation=f"{explanation}{spread(found.usage, 'cpu')} The limit is raised to {found.wanted}.",
        playbook=plan.playbook,
        evidence=evidence,
    )
    return Finding(diagnosis=diagnosis, plan=plan)
