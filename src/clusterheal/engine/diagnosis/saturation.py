"""More load than the replicas carry: add one, within bounds. An HPA that owns the number is never fought."""

from __future__ import annotations

from typing import Any

from clusterheal.contracts import Plan
from clusterheal.engine.diagnosis.case import Case, Finding, explained
from clusterheal.engine.signals.symptoms import Symptom
from clusterheal.engine.views import replicas_wanted

PRIORITY = 50


def diagnose(case: Case) -> Finding | None:
    """Scale out a Deployment or StatefulSet that an alert or a forecast calls saturated."""
    seen = case.of(Symptom.SATURATION)
    target, manifest = case.record.target, case.manifest
    if not seen or manifest is None or target.kind not in ("Deployment", "StatefulSet"):
        return None
    policy = case.world.policy_for("scale", target)
    have = replicas_wanted(manifest)
    wanted = min(have + policy.scale_step, policy.scale_max_replicas)
    feature, threshold = case.watched(seen, "workload_cpu_throttled", "cpu")
    parameters: dict[str, Any] = {
        "from_replicas": have,
        "to_replicas": max(wanted, have),
        "max_replicas": policy.scale_max_replicas,
    }
    if feature is not None:
        parameters["proof"] = case.proof(feature, threshold)
    plan = Plan(
        playbook="saturation",
        action="scale",
        target=target,
        parameters=parameters,
        priority=PRIORITY,
        expected_effect="load per replica falls below the threshold",
        verify_promql=None,
        rollback=f"scale back to {have}",
    )
    return Finding(
        diagnosis=explained(
            case,
            cause="saturation",
            explanation=f"{target} carries more load than its {have} replicas can; {wanted - have} more "
            f"(at most {policy.scale_max_replicas} by policy) share it.",
            playbook=plan.playbook,
            evidence={"feature": feature, "threshold": threshold, "pods": case.pods_summary()},
        ),
        plan=plan,
    )
