"""A node that is not ready or under pressure: keep new pods away and move the others by eviction."""

from __future__ import annotations

from datetime import timedelta

from clusterheal.contracts import Plan
from clusterheal.engine.diagnosis.case import Case, Finding, explained
from clusterheal.engine.records import Observation
from clusterheal.engine.signals.symptoms import Symptom, symptom

PRIORITY = 90
SETTLE = timedelta(minutes=3)  # the node controller waits as long before it evicts; shorter blips mend themselves
NODE_SYMPTOMS = (Symptom.NODE_NOT_READY, Symptom.NODE_PRESSURE, Symptom.NODE_DISK)


def diagnose(case: Case) -> Finding | None:
    """Cordon and drain once the trouble has lasted; the cordon carries its owner and a time to live."""
    seen = [o for o in case.of(*NODE_SYMPTOMS) if _is_trouble(o)]
    if not seen or case.record.target.kind != "Node":
        return None
    lasted = case.world.now - min(o.signal.starts_at for o in seen)
    if lasted < SETTLE and not any(o.signal.source.value == "alert" for o in seen):
        return None
    policy = case.world.policy_for("drain", case.record.target)
    what = sorted({str(o.signal.details["symptom"]) for o in seen})
    plan = Plan(
        playbook="node-trouble",
        action="drain",
        target=case.record.target,
        parameters={"ttl_seconds": policy.drain_ttl.total_seconds(), "symptoms": what},
        priority=PRIORITY,
        expected_effect="its pods run elsewhere; the node takes no new ones until it has recovered",
        verify_promql=None,
        rollback="uncordon",
    )
    return Finding(
        diagnosis=explained(
            case,
            cause=what[0],
            explanation=f"{case.record.target} has been in trouble ({', '.join(what)}) for "
            f"{lasted.total_seconds():.0f} s. "
            "It is cordoned and its pods are evicted within their disruption budgets; it is uncordoned after recovery, "
            f"and the cordon lapses after {policy.drain_ttl}.",
            playbook=plan.playbook,
            evidence={"pods_on_node": len(case.pods)},
        ),
        plan=plan,
    )


def _is_trouble(observation: Observation) -> bool:
    """A disk that fills up is a warning; it is trouble once the kubelet calls it pressure and evicts."""
    filling = symptom(observation.signal) is Symptom.NODE_DISK
    return not filling or observation.signal.details.get("condition") == "DiskPressure"
