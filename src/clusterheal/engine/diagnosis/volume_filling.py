"""A volume that fills up: expand the claim where its class allows it, otherwise tell people until when."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from clusterheal.contracts import Plan, SignalSource
from clusterheal.engine.actions.volume import requested_size
from clusterheal.engine.diagnosis.case import Case, Finding, explained, report
from clusterheal.engine.quantities import quantity
from clusterheal.engine.signals.symptoms import Symptom
from clusterheal.kube.resources import STORAGE_CLASSES

PRIORITY = 55
GIB = 2.0**30


def diagnose(case: Case) -> Finding | None:
    """Expand within the policy; the explanation of why not always carries the forecast date."""
    seen = case.of(Symptom.VOLUME_FILLING)
    if not seen:
        return None
    target, claim = case.record.target, case.manifest
    full_at = _full_at(case)
    when = f" and is forecast to be full at {full_at}" if full_at else ""
    obstacle = "the alert does not name a claim of this cluster"
    size = requested_size(claim) if claim is not None else None
    if target.kind == "PersistentVolumeClaim" and claim is not None and size is not None:
        plan, obstacle = _plan(case, size, (claim.get("spec") or {}).get("storageClassName"))
        if plan is not None:
            diagnosis = explained(
                case,
                cause="volume-filling",
                explanation=f"{target} ({size}) fills up{when}. Its StorageClass allows expansion: it is expanded to "
                f"{plan.parameters['to_size']}. Volumes never shrink again.",
                playbook=plan.playbook,
                evidence={"size": size, "full_at": full_at},
            )
            return Finding(diagnosis=diagnosis, plan=plan)
    found = report(
        case,
        cause="volume-filling",
        explanation=f"{target} fills up{when}. It is not expanded: {obstacle}. Free some space or move the data.",
        evidence={"size": size, "full_at": full_at},
    )
    return replace(found, final=any(o.signal.source is not SignalSource.DETECTOR for o in seen))


def _full_at(case: Case) -> str | None:
    """From the forecaster, else from the volume's own rate."""
    for observation in case.of(Symptom.VOLUME_FILLING):
        if "crosses_at" in observation.signal.details:
            return str(observation.signal.details["crosses_at"])
    at: datetime | None = case.world.full_at.get(case.record.name)
    return None if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def _plan(case: Case, size: str, class_name: str | None) -> tuple[Plan | None, str]:
    """The plan, or why there is none."""
    storage_class = case.world.snapshot.get(STORAGE_CLASSES, None, class_name) if class_name else None
    if storage_class is None:
        return None, f"its StorageClass {class_name or '(none)'} is not known"
    if not storage_class.get("allowVolumeExpansion"):
        return None, f"StorageClass {class_name} does not allow expansion"
    policy = case.world.policy_for("expand-volume", case.record.target)
    if policy.volume_max is None:
        return None, "no policy says how large a volume may get (spec.volumes.maxSize)"
    wanted = min(quantity(size) * (1 + policy.volume_step), policy.volume_max)
    gibibytes = int(-(-wanted // GIB)) if -(-wanted // GIB) * GIB <= policy.volume_max else int(wanted // GIB)
    if gibibytes * GIB <= quantity(size):
        return None, f"it is as large as the policy allows ({policy.volume_max / GIB:g}Gi)"
    plan = Plan(
        playbook="volume-filling",
        action="expand-volume",
        target=case.record.target,
        parameters={"from_size": size, "to_size": f"{gibibytes}Gi"},
        priority=PRIORITY,
        expected_effect="the volume has the size asked for and its fill level falls",
        verify_promql=_fill_level(case),
        rollback="none: volumes never shrink; an expansion that does not finish is escalated",
    )
    return plan, ""


def _fill_level(case: Case) -> str:
    target = case.record.target
    selector = f'{{namespace="{target.namespace}",persistentvolumeclaim="{target.name}"}}'
    return f"max(kubelet_volume_stats_used_bytes{selector} / kubelet_volume_stats_capacity_bytes{selector})"
