"""How much may be in motion at once, and a stop when too much is wrong for anything local to be the cause."""

from __future__ import annotations

from clusterheal.engine.guards.case import Answer, GuardCase
from clusterheal.engine.views import condition
from clusterheal.kube.resources import NODES

MIN_HEALTHY_NODES = 0.51  # NodeHealthCheck's default: with half the nodes gone, the network is the likelier cause
CONTROL_PLANE = ("node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane")


def check(case: GuardCase) -> Answer:
    moving = [r for r in case.world.holding if r.name != case.record.name]
    if len(moving) >= case.policy.concurrent:
        return False, f"{len(moving)} actions are under way; the limit is {case.policy.concurrent}"
    if case.target.kind == "Node":
        nodes = list(case.snapshot.all(NODES))
        healthy = sum(1 for n in nodes if condition(n, "Ready").get("status") == "True")
        if not nodes or healthy / len(nodes) < MIN_HEALTHY_NODES:
            return (
                False,
                f"only {healthy} of {len(nodes)} nodes are ready; no node is touched below {MIN_HEALTHY_NODES:.0%}",
            )
        if any(label in case.world.labels_of(case.target) for label in CONTROL_PLANE):
            return False, f"{case.target} is of the control plane"
    return True, f"{len(moving)} other actions are under way"
