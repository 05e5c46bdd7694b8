"""A GPU that reported an XID: the application's fault is explained, broken hardware is emptied and handed to people."""

from __future__ import annotations

from clusterheal.contracts import Plan
from clusterheal.engine.diagnosis.case import Case, Finding, explained, report
from clusterheal.engine.records import Observation
from clusterheal.engine.signals.gpu import XidClass, xid_class
from clusterheal.engine.signals.symptoms import Symptom

PRIORITY = 88


def diagnose(case: Case) -> Finding | None:
    """Drain the node of a hardware fault; a program's own fault takes no node away from the others."""
    seen = case.of(Symptom.GPU_FAULT)
    if not seen:
        return None
    known = [(o, xid) for o in seen if (xid := _xid(o)) is not None]
    hardware = [(o, xid) for o, xid in known if xid_class(xid) is XidClass.HARDWARE]
    if hardware and case.record.target.kind == "Node":
        return _drain(case, *hardware[0])
    xids = ", ".join(str(xid) for xid in sorted({xid for _, xid in known}))
    evidence = {"xids": xids, "pods": case.pods_summary()}
    if known and all(xid_class(xid) is XidClass.APPLICATION for _, xid in known):
        text = (
            f"{case.record.target} met GPU error XID {xids}. NVIDIA's catalogue puts it down to the application: "
            "restart it where it did not end by itself, and look at its kernels and memory accesses. If different "
            "programs meet it on the same GPU, suspect the hardware."
        )
        return report(case, cause="gpu-application-fault", explanation=text, evidence=evidence)
    which = f"XID {xids}" if known else "without an XID number"
    text = (
        f"{case.record.target} reports a GPU error {which}. What it is cannot be told from that: see the node's kernel "
        "log (NVRM: Xid) and NVIDIA's XID catalogue."
    )
    return report(case, cause="gpu-fault", explanation=text, evidence=evidence)


def _xid(observation: Observation) -> int | None:
    """From our own poll, else from the label that an alert's author or the exporter gave."""
    details = observation.signal.details
    labels = details.get("labels") or {}
    text = str(details.get("xid") or labels.get("xid") or labels.get("err_code") or "")
    return int(text) if text.isdigit() else None


def _drain(case: Case, seen: Observation, xid: int) -> Finding:
    policy = case.world.policy_for("drain", case.record.target)
    gpu = seen.signal.details.get("gpu")
    plan = Plan(
        playbook="gpu-hardware-fault",
        action="drain",
        target=case.record.target,
        parameters={"ttl_seconds": policy.drain_ttl.total_seconds(), "symptoms": [f"xid-{xid}"]},
        priority=PRIORITY,
        expected_effect="nothing runs on the node until the GPU was reset and the node has recovered",
        verify_promql=None,
        rollback="uncordon",
    )
    explanation = (
        f"GPU {gpu or '?'} of {case.record.target} reported XID {xid}, which NVIDIA's catalogue puts down to the "
        "hardware or its driver: the GPU has to be reset, and if that does not help the node rebooted or the GPU "
        f"replaced. The node is cordoned and emptied within disruption budgets, for at most {policy.drain_ttl}. It is "
        "given back once the GPU shows no such error any more or the node has booted anew."
    )
    diagnosis = explained(
        case,
        cause="gpu-hardware-fault",
        explanation=explanation,
        playbook=plan.playbook,
        evidence={
            "xid": xid,
            "gpu": gpu,
            "used_by": seen.signal.details.get("used_by"),
            "pods_on_node": len(case.pods),
        },
    )
    return Finding(diagnosis=diagnosis, plan=plan)
