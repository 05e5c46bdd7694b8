"""Builders for what the engine decides on: a small healthy shop, and ways to break it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from clusterheal.contracts import (
    Diagnosis,
    Forecast,
    IncidentState,
    ObjectRef,
    Outcome,
    Plan,
    Signal,
    SignalSource,
    Verdict,
)
from clusterheal.engine.guards import GuardCase
from clusterheal.engine.policy import Policy, PolicySet
from clusterheal.engine.records import ActionRecord, Observation, Record
from clusterheal.engine.views import PodView, Snapshot
from clusterheal.engine.world import Config, Leadership, World
from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import (
    DEPLOYMENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    MACHINE_CONFIG_POOLS,
    NAMESPACES,
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
)

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)  # a Monday
CART = ObjectRef(api_version="apps/v1", kind="Deployment", namespace="shop", name="cart", uid="uid-cart")
WORKER = ObjectRef(api_version="v1", kind="Node", namespace=None, name="worker-0", uid="uid-worker-0")
LEADER = Leadership(holder="a", epoch=3, valid_until=NOW + timedelta(seconds=10))
AUTO = Policy(name="auto", mode="auto")


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


ZERO, ONE, HALF_HOUR, TEN_HOURS = minutes(0), minutes(1), minutes(30), minutes(600)


def deployment(name: str = "cart", *, replicas: int = 2, available: int | None = None, **meta: Any) -> Manifest:
    have = replicas if available is None else available
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "generation": 2,
            "annotations": {"deployment.kubernetes.io/revision": "2"},
            **meta,
        },
        "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"app": name}}, "spec": {}}},
        "status": {
            "observedGeneration": 2,
            "replicas": replicas,
            "updatedReplicas": replicas,
            "availableReplicas": have,
        },
    }


def replica_set(name: str = "cart", revision: int = 2, *, age: timedelta = TEN_HOURS, available: int = 2) -> Manifest:
    return {
        "metadata": {
            "name": f"{name}-{revision}",
            "namespace": "shop",
            "uid": f"uid-{name}-{revision}",
            "creationTimestamp": (NOW - age).isoformat(),
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
            "ownerReferences": [{"kind": "Deployment", "name": name, "controller": True}],
        },
        "spec": {"template": {"spec": {"containers": [{"name": "main", "image": f"shop:{revision}"}]}}},
        "status": {"availableReplicas": available},
    }


def pod(name: str = "cart-2-a", *, owner: str = "cart-2", node: str = "worker-0", **changes: Any) -> PodView:
    view = PodView(
        namespace="shop",
        name=name,
        uid=f"uid-{name}",
        resource_version="1",
        labels={"app": owner.rsplit("-", 1)[0]},
        node=node,
        owner_kind="ReplicaSet",
        owner_name=owner,
        phase="Running",
        ready=True,
        deleting=False,
        mirror=False,
        priority=0,
        unschedulable=None,
        created_at=(NOW - minutes(60)).isoformat(),
        containers=(),
    )
    return replace(view, **changes)


def node(name: str = "worker-0", *, ready: bool = True, cordoned: bool = False, **meta: Any) -> Manifest:
    labels = {"node-role.kubernetes.io/worker": ""}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels, **meta},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def pool(*, updating: bool = False, degraded: bool = False, max_unavailable: Any = 1) -> Manifest:
    conditions = [{"type": "Updating", "status": str(updating)}, {"type": "Degraded", "status": str(degraded)}]
    return {
        "metadata": {"name": "worker"},
        "spec": {
            "nodeSelector": {"matchLabels": {"node-role.kubernetes.io/worker": ""}},
            "maxUnavailable": max_unavailable,
        },
        "status": {"conditions": conditions},
    }


def budget(allowed: int = 1, *, observed: int = 1) -> Manifest:
    return {
        "metadata": {"name": "cart-pdb", "namespace": "shop", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "cart"}}},
        "status": {"disruptionsAllowed": allowed, "observedGeneration": observed},
    }


def hpa(target: str = "cart") -> Manifest:
    reference = {"kind": "Deployment", "name": target}
    return {
        "metadata": {"name": f"{target}-hpa", "namespace": "shop"},
        "spec": {"scaleTargetRef": reference, "maxReplicas": 5},
    }


def snapshot(*objects: tuple[Any, Manifest], pods: tuple[PodView, ...] | None = None, **changes: Any) -> Snapshot:
    """A healthy cluster; `objects` are added or replace what has the same name."""
    base: list[tuple[Any, Manifest]] = [
        (DEPLOYMENTS, deployment()),
        (DEPLOYMENTS, deployment("checkout")),
        (REPLICA_SETS, replica_set()),
        (REPLICA_SETS, replica_set("checkout")),
        *((NODES, node(f"worker-{i}")) for i in range(3)),
        (NAMESPACES, {"metadata": {"name": "shop", "labels": {}}}),
        (MACHINE_CONFIG_POOLS, pool()),
    ]
    known: dict[Any, dict[Any, Manifest]] = {}
    for resource, obj in (*base, *objects):
        key = (obj["metadata"].get("namespace"), obj["metadata"]["name"])
        known.setdefault(resource, {})[key] = obj
    standing = (
        pod(),
        pod("cart-2-b", node="worker-1"),
        pod("checkout-2-a", owner="checkout-2", node="worker-1"),
    )
    resources = (
        DEPLOYMENTS,
        REPLICA_SETS,
        NODES,
        NAMESPACES,
        MACHINE_CONFIG_POOLS,
        PODS,
        POD_DISRUPTION_BUDGETS,
        HORIZONTAL_POD_AUTOSCALERS,
    )
    built = Snapshot(
        taken_at=NOW,
        pods={(p.namespace, p.name): p for p in (standing if pods is None else pods)},
        objects=known,
        synced_at=dict.fromkeys(resources, NOW),
    )
    return replace(built, **changes)


def signal(
    symptom: str = "memory-leak",
    *,
    source: SignalSource = SignalSource.ALERT,
    target: ObjectRef = CART,
    age: timedelta = ONE,
    **changes: Any,
) -> Signal:
    details = {"symptom": symptom, **changes.pop("details", {})}
    base = Signal(
        source=source,
        name=symptom,
        fingerprint=f"{source.value}-{symptom}",
        target=target,
        starts_at=NOW - age,
        details=details,
    )
    return replace(base, **changes)


def observation(seen: Signal | None = None, *, age: timedelta = ZERO, resolved: timedelta | None = None) -> Observation:
    seen = seen or signal()
    return Observation(
        signal=seen,
        first_seen=seen.starts_at,
        last_seen=NOW - age,
        resolved_at=None if resolved is None else NOW - resolved,
    )


def record(*signals: Signal, target: ObjectRef = CART, sequence: int = 1, **changes: Any) -> Record:
    base = Record(
        name=f"{target.kind.lower()}-{target.name}-{sequence}",
        namespace="platform",
        target=target,
        opened_at=NOW - minutes(1),
        observations=tuple(observation(s) for s in (signals or (signal(target=target),))),
        resource_version="1",
    )
    return replace(base, **changes)


def plan(action: str = "restart", target: ObjectRef = CART, *, priority: int = 60, **parameters: Any) -> Plan:
    return Plan(
        playbook=f"playbook-{action}",
        action=action,
        target=target,
        parameters=parameters,
        priority=priority,
        expected_effect="better",
        verify_promql=None,
        rollback="none",
    )


def diagnosis(origin: str = "rule", confidence: float = 1.0) -> Diagnosis:
    return Diagnosis(cause="c", origin=origin, playbook="p", confidence=confidence, explanation="e")


def action(name: str = "restart", *, target: ObjectRef = CART, age: timedelta = ONE, **changes: Any) -> ActionRecord:
    base = ActionRecord(
        id=f"id-{name}",
        action=name,
        target=target,
        parameters={},
        intent_at=NOW - age,
        not_after=NOW - age + timedelta(seconds=30),
        holder="a",
        epoch=3,
        applied_at=NOW - age,
        result="applied",
        before={"available": 2, "replicas": 2},
    )
    return replace(base, **changes)


def past(verdict: Verdict = Verdict.HELPED, *, sequence: int = 9, age: timedelta = HALF_HOUR, **changes: Any) -> Record:
    """An incident of the same object that ended with this verdict."""
    outcome = Outcome(verdict=verdict, observed=None, counterfactual=None, explanation="", finished_at=NOW - age)
    base = record(
        sequence=sequence,
        state=IncidentState.RESOLVED,
        plan=plan(),
        action=action(age=age),
        outcome=outcome,
        ended_at=NOW - age,
    )
    return replace(base, **changes)


def world(*records: Record, policy: Policy | None = AUTO, config: Config | None = None, **changes: Any) -> World:
    base = World(
        now=NOW,
        snapshot=changes.pop("snapshot", None) or snapshot(),
        records={r.name: r for r in records},
        policies=PolicySet(policies=() if policy is None else (policy,)),
        config=config or Config(mode="auto"),
    )
    return replace(base, **changes)


def case(
    made: Plan | None = None,
    *,
    rec: Record | None = None,
    why: Diagnosis | None = None,
    others: tuple[Record, ...] = (),
    **changes: Any,
) -> GuardCase:
    made = made or plan()
    rec = rec or record(target=made.target)
    return GuardCase(
        plan=made, diagnosis=why or diagnosis(), record=rec, world=world(rec, *others, **changes), plan_id="p1"
    )


def forecast(entity: str, feature: str, path: list[float], *, spread: float = 0.05) -> Forecast:
    """A forecast whose median follows `path`, 60 s a step, from now."""
    levels = (0.1, 0.5, 0.9)
    values = np.array([[[v - spread, v, v + spread]] for v in path], np.float32)
    return Forecast(
        entity=entity,
        origin=NOW,
        step=timedelta(seconds=60),
        levels=levels,
        feature_names=(feature,),
        quantiles=values,
        model_version="v1",
        contract_sha256="c" * 64,
    )
