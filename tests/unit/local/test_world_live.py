from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from clusterheal.local.faults import SATURATED_DEMAND, Fault
from clusterheal.local.generator import HistoryGenerator
from clusterheal.local.world import WorkloadSpec, default_cluster, deployment
from clusterheal.local.world_live import LiveWorld, pod_view
from clusterheal.local.world_pods import PodPlace

END = 1_795_000_000 // 60 * 60
SPEC = default_cluster()
CART = SPEC.workload("shop", "cart")
PAYMENTS = SPEC.workload("shop", "payments")
assert CART is not None
assert PAYMENTS is not None


def pod(workload: WorkloadSpec, name: str, *, uid: str | None = None, ready: bool = True, restarts: int = 0) -> Any:
    return {
        "metadata": {
            "namespace": workload.namespace,
            "name": name,
            "uid": uid or name,
            "labels": {"app.kubernetes.io/name": workload.name},
        },
        "spec": {"nodeName": "worker-0", "containers": [{"name": workload.name, "image": workload.image}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"restartCount": restarts, "state": {"running": {}}}],
        },
    }


def pods_now(workload: WorkloadSpec, *, suffix: str = "") -> list[Any]:
    return [pod(workload, f"{workload.name}-{i}{suffix}") for i in range(workload.replicas)]


@pytest.fixture
def world() -> LiveWorld:
    pods = {
        w.key: [PodPlace(namespace=w.namespace, name=f"{w.name}-{i}", node="worker-0") for i in range(w.replicas)]
        for w in SPEC.workloads
    }
    made = HistoryGenerator(SPEC, pods, seed=7, start=END - 2 * 86_400, end=END)
    last = {(s.name, tuple(sorted(s.labels.items()))): float(s.values[-1]) for s in made.series()}
    live = LiveWorld(spec=SPEC, seed=7, state=made.state)
    live.history_last = last  # type: ignore[attr-defined]
    return live


def read(text: str, name: str, **labels: str) -> dict[str, float]:
    """Value per pod."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\w[\w:]*)\{(.*)\} (\S+)", line)
        assert match is not None, line
        inner = dict(re.findall(r'(\w+)="([^"]*)"', match.group(2)))
        if match.group(1) == name and labels.items() <= inner.items():
            found[inner.get("pod", "")] = float(match.group(3))
    return found


def run(world: LiveWorld, pods: list[Any], start: float, seconds: int) -> None:
    for second in range(seconds):
        world.observe(pods, [], now=start + second)
        world.advance(start + second)


def test_live_counters_go_on_where_the_history_ended(world: LiveWorld) -> None:
    run(world, pods_now(CART), END, 1)
    live = read(world.render(), "container_cpu_usage_seconds_total", namespace="shop")
    history = {
        dict(labels)["pod"]: value
        for (name, labels), value in world.history_last.items()  # type: ignore[attr-defined]
        if name == "container_cpu_usage_seconds_total" and dict(labels)["pod"] in live
    }
    assert live == pytest.approx(history)
    world.advance(END + 60)
    after = read(world.render(), "container_cpu_usage_seconds_total", namespace="shop")
    for name, before in live.items():
        assert 0.02 * 60 < after[name] - before < CART.cpu_limit * 60


def test_live_gauges_are_the_historys_own(world: LiveWorld) -> None:
    run(world, pods_now(CART), END, 1)
    live = read(world.render(), "container_memory_working_set_bytes", namespace="shop")
    for (name, labels), value in world.history_last.items():  # type: ignore[attr-defined]
        if name == "container_memory_working_set_bytes" and dict(labels)["pod"] in live:
            assert live[dict(labels)["pod"]] == pytest.approx(value, rel=1e-6)


def test_a_leak_fills_the_memory_and_ends_with_the_pods_that_had_it(world: LiveWorld) -> None:
    sick = pods_now(CART)
    run(world, sick, END, 1)
    normal = read(world.render(), "container_memory_working_set_bytes", namespace="shop")
    world.faults.append(
        Fault(
            kind="memory-leak",
            namespace="shop",
            workload="cart",
            started_at=END,
            ramp_seconds=90,
            victims=frozenset(p["metadata"]["uid"] for p in sick),
        )
    )
    run(world, sick, END, 60)
    leaking = read(world.render(), "container_memory_working_set_bytes", namespace="shop")
    assert all(leaking[name] > normal[name] + 0.4 * (CART.memory_limit - CART.memory) for name in normal)
    assert world.out_of_memory() == []
    run(world, sick, END + 60, 50)
    assert {view.place.name for view in world.out_of_memory()} == set(normal)
    fresh = pods_now(CART, suffix="-new")
    run(world, fresh, END + 110, 5)
    healed = read(world.render(), "container_memory_working_set_bytes", namespace="shop")
    assert set(healed) == {p["metadata"]["name"] for p in fresh}
    assert all(value < 0.6 * CART.memory_limit for value in healed.values())


def test_a_restarted_container_begins_its_leak_and_its_counters_again(world: LiveWorld) -> None:
    sick = pods_now(CART)
    run(world, sick, END, 1)
    fault = Fault(
        kind="memory-leak",
        namespace="shop",
        workload="cart",
        started_at=END,
        ramp_seconds=90,
        victims=frozenset(p["metadata"]["uid"] for p in sick),
    )
    world.faults.append(fault)
    run(world, sick, END, 100)
    restarted = [pod(CART, p["metadata"]["name"], restarts=1) for p in sick]
    run(world, restarted, END + 100, 2)
    text = world.render()
    assert all(v < 0.7 * CART.memory_limit for v in read(text, "container_memory_working_set_bytes").values())
    assert all(v < 10 for v in read(text, "container_cpu_usage_seconds_total", namespace="shop").values())
    restarts = read(text, "kube_pod_container_status_restarts_total", namespace="shop")
    assert all(v >= 1 for v in restarts.values())


def throttled_share(world: LiveWorld, pods: list[Any], start: float) -> float:
    run(world, pods, start, 1)
    names = ("container_cpu_cfs_throttled_periods_total", "container_cpu_cfs_periods_total")
    before = [read(world.render(), name, namespace="shop") for name in names]
    world.advance(start + 30)
    after = [read(world.render(), name, namespace="shop") for name in names]
    return max((after[0][p] - before[0][p]) / (after[1][p] - before[1][p]) for p in before[0])


def test_saturation_throttles_and_one_more_pod_carries_it(world: LiveWorld) -> None:
    pods = pods_now(PAYMENTS)
    assert throttled_share(world, pods, END) < 0.1
    world.faults.append(
        Fault(kind="cpu-saturation", namespace="shop", workload="payments", started_at=END + 40, ramp_seconds=20)
    )
    assert throttled_share(world, pods, END + 90) > 0.3
    more = [*pods, pod(PAYMENTS, "payments-more")]
    run(world, more, END + 130, 90)  # a new pod is warm after a minute
    assert throttled_share(world, more, END + 220) < 0.25
    assert SATURATED_DEMAND > 2


def test_a_waiting_pod_uses_nothing_and_says_why(world: LiveWorld) -> None:
    crashing = pod(CART, "cart-0", ready=False)
    crashing["status"]["containerStatuses"][0].update(
        state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": {"reason": "Error"}}, restartCount=4
    )
    run(world, [crashing], END, 2)
    text = world.render()
    assert read(text, "kube_pod_container_status_waiting_reason", reason="CrashLoopBackOff") == {"cart-0": 1.0}
    assert read(text, "kube_pod_container_status_last_terminated_reason", reason="Error") == {"cart-0": 1.0}
    assert read(text, "kube_pod_status_ready") == {"cart-0": 0.0}
    assert read(text, "container_memory_working_set_bytes") == {}


def test_pods_of_others_and_pods_without_a_node_are_not_exposed() -> None:
    stranger = pod(CART, "x")
    stranger["metadata"]["labels"] = {"app.kubernetes.io/name": "somebody-else"}
    pending = pod(CART, "y")
    del pending["spec"]["nodeName"]
    assert pod_view(stranger, SPEC) is None
    assert pod_view(pending, SPEC) is None


def test_deployments_report_their_replicas(world: LiveWorld) -> None:
    item = {**deployment(CART), "status": {"availableReplicas": 2, "unavailableReplicas": 1}}
    world.observe(pods_now(CART), [item], now=END)
    world.advance(END)
    text = world.render()
    names = ("spec_replicas", "status_replicas_available", "status_replicas_unavailable")
    assert [read(text, f"kube_deployment_{name}")[""] for name in names] == [3.0, 2.0, 1.0]


def test_live_times_may_not_run_backwards(world: LiveWorld) -> None:
    run(world, pods_now(CART), END, 3)
    before = read(world.render(), "container_cpu_usage_seconds_total", namespace="shop")
    world.advance(END - 100)
    after = read(world.render(), "container_cpu_usage_seconds_total", namespace="shop")
    assert np.all([after[name] >= before[name] for name in before])
