"""One disruption budget per MachineConfigPool, counted over everybody: MCO, NodeHealthCheck, people and this engine."""

from __future__ import annotations

from clusterheal.engine.guards.case import Answer, GuardCase
from clusterheal.engine.guards.disruption_budget import selects
from clusterheal.engine.quantities import allowed_count
from clusterheal.engine.views import Snapshot, condition
from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import MACHINE_CONFIG_POOLS, NODE_HEALTH_CHECKS, NODES

STATE = "machineconfiguration.openshift.io/state"
CURRENT = "machineconfiguration.openshift.io/currentConfig"
DESIRED = "machineconfiguration.openshift.io/desiredConfig"
DESIRED_DRAIN = "machineconfiguration.openshift.io/desiredDrain"
APPLIED_DRAIN = "machineconfiguration.openshift.io/lastAppliedDrain"
BROKEN = ("Degraded", "NodeDegraded", "RenderDegraded")
HARMLESS = frozenset({"scale", "expand-volume"})


def check(case: GuardCase) -> Answer:
    if MACHINE_CONFIG_POOLS in case.snapshot.unreadable:
        return False, f"cannot read MachineConfigPools: {case.snapshot.unreadable[MACHINE_CONFIG_POOLS]}"
    known = MACHINE_CONFIG_POOLS in case.snapshot.synced_at or MACHINE_CONFIG_POOLS in case.snapshot.absent
    if not known or NODES not in case.snapshot.synced_at:
        return False, "nodes and MachineConfigPools have not been read yet"
    if case.plan.action in HARMLESS:
        return True, "takes no node and no pod away"
    names = [case.target.name] if case.target.kind == "Node" else sorted({p.node for p in case.pods if p.node})
    for name in names:
        node = case.snapshot.get(NODES, None, name)
        blocked = None if node is None else _blocked(node, case.snapshot)
        if blocked is not None:
            return False, blocked
    if case.plan.action == "uncordon":
        return True, "gives a node back"
    if NODE_HEALTH_CHECKS in case.snapshot.unreadable:
        return False, f"cannot read NodeHealthChecks: {case.snapshot.unreadable[NODE_HEALTH_CHECKS]}"
    return _budget(case) if case.target.kind == "Node" else (True, "no pool of its nodes is being changed")


def _blocked(node: Manifest, snapshot: Snapshot) -> str | None:
    """Why the Machine Config Operator is at work on this node."""
    name, notes = node["metadata"]["name"], node["metadata"].get("annotations") or {}
    if notes.get(STATE, "Done") != "Done":
        return f"the Machine Config Operator is at work on {name}: {notes[STATE]}"
    if notes.get(CURRENT) != notes.get(DESIRED):
        return f"{name} is about to get another machine configuration"
    if notes.get(DESIRED_DRAIN) != notes.get(APPLIED_DRAIN):
        return f"the Machine Config Operator is about to drain or uncordon {name}"
    for pool in pools_of(node, snapshot):
        of = f"MachineConfigPool {pool['metadata']['name']}"
        if (pool.get("spec") or {}).get("paused"):
            return f"{of} is paused by somebody"
        if condition(pool, "Updating").get("status") == "True":
            return f"{of} is updating"
        if any(condition(pool, kind).get("status") == "True" for kind in BROKEN):
            return f"{of} is degraded"
    return None


def _budget(case: GuardCase) -> Answer:
    node = case.snapshot.get(NODES, None, case.target.name)
    if node is None:
        return False, f"{case.target} is not known to exist"
    pools: list[Manifest | None] = [*pools_of(node, case.snapshot)]
    acting = {r.plan.target.name for r in case.world.holding if r.plan is not None and r.plan.target.kind == "Node"}
    remediated = under_remediation(case.snapshot)
    for pool in pools or [None]:
        members = members_of(pool, case.snapshot)
        limit = allowed_count(((pool or {}).get("spec") or {}).get("maxUnavailable"), len(members), default=1)
        away = sorted(
            m["metadata"]["name"]
            for m in members
            if m["metadata"]["name"] != case.target.name
            and (unavailable(m) or m["metadata"]["name"] in acting | remediated)
        )
        if len(away) + 1 > limit:
            where = f"MachineConfigPool {pool['metadata']['name']}" if pool else "the cluster"
            return False, f"{where} may lack {limit} nodes and lacks {', '.join(away)} already"
    return True, "within the pool's disruption budget"


def under_remediation(snapshot: Snapshot) -> frozenset[str]:
    """Nodes that a NodeHealthCheck has a remediation in flight for."""
    names: set[str] = set()
    for check in snapshot.all(NODE_HEALTH_CHECKS):
        status = check.get("status") or {}
        names |= set(status.get("inFlightRemediations") or {})
        names |= {n["name"] for n in status.get("unhealthyNodes") or [] if n.get("remediations")}
    return frozenset(names)


def unavailable(node: Manifest) -> bool:
    """Cordoned by anybody, or not ready."""
    return bool((node.get("spec") or {}).get("unschedulable")) or condition(node, "Ready").get("status") != "True"


def pools_of(node: Manifest, snapshot: Snapshot) -> list[Manifest]:
    """The pools whose node selector matches; a node in a custom pool also matches `worker`, and both count."""
    labels = node["metadata"].get("labels") or {}
    return [p for p in snapshot.all(MACHINE_CONFIG_POOLS) if _selects(p, labels)]


def members_of(pool: Manifest | None, snapshot: Snapshot) -> list[Manifest]:
    """A pool's nodes; without MachineConfigPools the whole cluster is one pool."""
    nodes = list(snapshot.all(NODES))
    if pool is None:
        return nodes
    return [n for n in nodes if _selects(pool, n["metadata"].get("labels") or {})]


def _selects(pool: Manifest, labels: dict[str, str]) -> bool:
    selector = (pool.get("spec") or {}).get("nodeSelector") or {}
    return bool(selector) and selects(selector, labels)
