"""A degraded MachineConfigPool. The Machine Config Operator owns its nodes: never act, always explain."""

from __future__ import annotations

from clusterheal.engine.diagnosis.case import Case, Finding, report
from clusterheal.engine.signals.symptoms import Symptom
from clusterheal.engine.views import condition
from clusterheal.kube.resources import NODES


def diagnose(case: Case) -> Finding | None:
    """Name the pool's condition and the nodes that carry a failed configuration."""
    if case.record.target.kind != "MachineConfigPool" and not case.of(Symptom.POOL_DEGRADED):
        return None
    pool = case.manifest or {}
    status = pool.get("status") or {}
    state = "machineconfiguration.openshift.io/state"
    failed = [
        node["metadata"]["name"]
        for node in case.world.snapshot.all(NODES)
        if (node["metadata"].get("annotations") or {}).get(state) == "Degraded"
    ]
    message = condition(pool, "NodeDegraded").get("message") or condition(pool, "Degraded").get("message") or ""
    counts = {k: status.get(k) for k in ("machineCount", "updatedMachineCount", "degradedMachineCount")}
    return report(
        case,
        cause="machine-config-pool-degraded",
        explanation=f"{case.record.target} is degraded: {message or 'no message'}. "
        + (f"Nodes: {', '.join(failed)}. " if failed else "")
        + "The Machine Config Operator owns these nodes; draining or rebooting them from outside would fight it. See "
        "`oc describe mcp` and the machine-config-daemon's log of the node.",
        evidence=counts,
    )
