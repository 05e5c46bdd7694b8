"""Pods that no node takes: say which constraint is in the way."""

from __future__ import annotations

import re

from clusterheal.engine.diagnosis.case import Case, Finding, report
from clusterheal.engine.signals.symptoms import Symptom

_HINTS = (
    ("Insufficient cpu", "the nodes have too little CPU left for its request"),
    ("Insufficient memory", "the nodes have too little memory left for its request"),
    ("Insufficient nvidia.com/gpu", "no GPU is free"),
    ("untolerated taint", "it does not tolerate the nodes' taints"),
    ("didn't match Pod's node affinity", "its node selector or affinity matches no node"),
    ("unbound immediate PersistentVolumeClaims", "a volume claim of it is not bound"),
    ("volume node affinity conflict", "its volume lives in another zone"),
    ("didn't match pod topology spread", "its topology spread constraints leave no node"),
    ("were unschedulable", "nodes are cordoned"),
)


def diagnose(case: Case) -> Finding | None:
    """Explain from the scheduler's own message."""
    seen = case.of(Symptom.UNSCHEDULABLE)
    if not seen:
        return None
    message = str(seen[0].signal.details.get("message", ""))
    reasons = [hint for text, hint in _HINTS if text in message]
    counts = re.findall(r"(\d+) ([^,.]+)", message.split(":", 1)[-1])
    return report(
        case,
        cause="unschedulable",
        explanation=f"Pods of {case.record.target} cannot be scheduled: {'; '.join(reasons) or message}.",
        evidence={"scheduler": message, "nodes_by_reason": {reason.strip(): int(n) for n, reason in counts}},
    )
