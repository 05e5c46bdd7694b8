"""The emulated cluster's controllers on a clock that only the test moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from clusterheal.kube.ports import Manifest, PatchType, Resource
from clusterheal.kube.resources import DEPLOYMENTS, MACHINE_CONFIG_POOLS, NODES, POD_DISRUPTION_BUDGETS, PODS
from clusterheal.local.kube.controllers.base import BEHAVIOUR
from clusterheal.local.kube.controllers.scheduler import quantity
from clusterheal.local.kube.emulator import Emulator
from clusterheal.local.kube.platform import worker_nodes, worker_pool


class ManualClock:
    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


class Bench:
    """An emulator and the few things that every test does with it."""

    def __init__(self, *, nodes: int = 3, seed: int = 1) -> None:
        self.clock = ManualClock()
        self.emulator = Emulator(clock=self.clock, seed=seed)
        self.emulator.load([*worker_nodes(nodes), worker_pool()])
        self.cluster = self.emulator.cluster()
        self.emulator.controllers.settle()

    async def pass_time(self, seconds: float, step: float = 1.0) -> None:
        for _ in range(round(seconds / step)):
            await self.clock.sleep(step)
            await self.emulator.controllers.step()

    async def deploy(self, name: str = "web", *, replicas: int = 3, **spec: Any) -> Manifest:
        labels = {"app": name}
        template: Manifest = {
            "metadata": {"labels": labels, "annotations": spec.pop("annotations", {})},
            "spec": {"containers": [{"name": "app", "image": "app:1"}], **spec.pop("pod", {})},
        }
        body = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template, **spec}
        return await self.cluster.create(DEPLOYMENTS, {"metadata": {"name": name}, "spec": body}, namespace="default")

    async def pods(self, name: str = "web") -> list[Manifest]:
        return (await self.cluster.list(PODS, namespace="default", label_selector=f"app={name}")).items

    async def deployment(self, name: str = "web") -> Manifest:
        return await self.cluster.get(DEPLOYMENTS, name, namespace="default")

    async def merge(self, resource: Resource, name: str, patch: Manifest) -> None:
        namespace = "default" if resource.namespaced else None
        await self.cluster.patch(resource, name, patch, patch_type=PatchType.MERGE, namespace=namespace)
        await self.emulator.controllers.step()


def conditions(obj: Manifest) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c.get("reason", "")) for c in obj["status"].get("conditions", [])}


async def test_pods_start_and_become_ready_in_their_time() -> None:
    bench = Bench()
    await bench.deploy()
    await bench.emulator.controllers.step()
    assert {p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] for p in await bench.pods()} == {
        "ContainerCreating"
    }
    await bench.pass_time(1)
    assert {p["status"]["phase"] for p in await bench.pods()} == {"Running"}
    assert "readyReplicas" not in (await bench.deployment())["status"]
    await bench.pass_time(1)
    assert (await bench.deployment())["status"]["availableReplicas"] == 3
    assert len({p["spec"]["nodeName"] for p in await bench.pods()}) == 3


async def test_a_rolling_update_never_leaves_its_bounds() -> None:
    bench = Bench()
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
    await bench.deploy(replicas=4, strategy=rolling)
    await bench.pass_time(5)
    restart = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    await bench.merge(DEPLOYMENTS, "web", {"spec": {"template": {"metadata": {"annotations": restart}}}})
    seen = []
    for _ in range(60):
        await bench.pass_time(0.5, step=0.5)
        pods = [p for p in await bench.pods() if not p["metadata"].get("deletionTimestamp")]
        seen.append((len(pods), sum(conditions(p).get("Ready", ("", ""))[0] == "True" for p in pods)))
    assert max(total for total, _ in seen) <= 5
    assert min(ready for _, ready in seen) >= 3
    assert seen[-1] == (4, 4)
    status = (await bench.deployment())["status"]
    assert (status["updatedReplicas"], status["observedGeneration"]) == (4, 2)


async def test_a_paused_deployment_does_not_roll() -> None:
    bench = Bench()
    await bench.deploy()
    await bench.pass_time(5)
    before = {p["metadata"]["uid"] for p in await bench.pods()}
    template = {"metadata": {"annotations": {"x": "y"}}}
    await bench.merge(DEPLOYMENTS, "web", {"spec": {"paused": True, "template": template}})
    await bench.pass_time(10)
    assert {p["metadata"]["uid"] for p in await bench.pods()} == before
    assert conditions(await bench.deployment())["Progressing"] == ("Unknown", "DeploymentPaused")
    await bench.merge(DEPLOYMENTS, "web", {"spec": {"paused": False}})
    await bench.pass_time(20)
    assert not before & {p["metadata"]["uid"] for p in await bench.pods()}


async def test_recreate_ends_the_old_pods_before_it_starts_new_ones() -> None:
    bench = Bench()
    await bench.deploy(strategy={"type": "Recreate"})
    await bench.pass_time(5)
    template = {"metadata": {"annotations": {"x": "y"}}}
    await bench.merge(DEPLOYMENTS, "web", {"spec": {"template": template}})
    hashes = {p["metadata"]["labels"]["pod-template-hash"] for p in await bench.pods()}
    assert len(hashes) == 1
    await bench.pass_time(10)
    after = await bench.pods()
    assert {p["metadata"]["labels"]["pod-template-hash"] for p in after}.isdisjoint(hashes)
    assert len(after) == 3


async def test_crash_loop_counts_restarts_with_growing_back_off() -> None:
    bench = Bench()
    await bench.deploy(replicas=1, annotations={BEHAVIOUR: "CrashLoopBackOff"})
    restarts = []
    for _ in range(100):
        await bench.pass_time(1)
        (pod,) = await bench.pods()
        restarts.append(pod["status"]["containerStatuses"][0]["restartCount"])
    (container,) = pod["status"]["containerStatuses"]
    assert container["lastState"]["terminated"]["exitCode"] == 1
    assert restarts == sorted(restarts)
    moments = [restarts.index(n) for n in range(1, max(restarts) + 1)]
    gaps = [b - a for a, b in pairwise(moments)]
    assert max(restarts) == 3
    assert all(second > first for first, second in pairwise(gaps))
    assert conditions(pod)["Ready"][0] == "False"


async def test_an_oom_kill_is_seen_in_the_last_state() -> None:
    bench = Bench()
    await bench.deploy(replicas=1)
    await bench.pass_time(5)
    (pod,) = await bench.pods()
    bench.emulator.controllers.kill_container("default", pod["metadata"]["name"])
    await bench.pass_time(5)
    (container,) = (await bench.pods())[0]["status"]["containerStatuses"]
    assert container["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert (container["restartCount"], container["ready"]) == (1, True)


async def test_a_bad_image_stalls_the_rollout_until_its_deadline() -> None:
    bench = Bench()
    await bench.deploy(progressDeadlineSeconds=60)
    await bench.pass_time(5)
    bad = {"metadata": {"annotations": {BEHAVIOUR: "ImagePullBackOff"}}}
    await bench.merge(DEPLOYMENTS, "web", {"spec": {"template": bad}})
    await bench.pass_time(30)
    waiting = [
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
        for p in await bench.pods()
        if "waiting" in p["status"]["containerStatuses"][0]["state"]
    ]
    assert waiting == ["ImagePullBackOff"]
    assert conditions(await bench.deployment())["Progressing"][0] == "True"
    await bench.pass_time(40)
    found = conditions(await bench.deployment())
    assert found["Progressing"] == ("False", "ProgressDeadlineExceeded")
    assert found["Available"] == ("True", "MinimumReplicasAvailable")


async def test_cordoned_nodes_get_no_pods_and_the_pool_counts_them() -> None:
    bench = Bench(nodes=2)
    await bench.merge(NODES, "worker-0", {"spec": {"unschedulable": True}})
    await bench.deploy()
    await bench.pass_time(5)
    assert {p["spec"]["nodeName"] for p in await bench.pods()} == {"worker-1"}
    pool = await bench.cluster.get(MACHINE_CONFIG_POOLS, "worker")
    assert pool["status"]["unavailableMachineCount"] == 1
    assert pool["status"]["readyMachineCount"] == 1
    await bench.merge(NODES, "worker-1", {"spec": {"unschedulable": True}})
    await bench.merge(DEPLOYMENTS, "web", {"spec": {"replicas": 4}})
    (pending,) = [p for p in await bench.pods() if not p["spec"].get("nodeName")]
    (condition,) = [c for c in pending["status"]["conditions"] if c["type"] == "PodScheduled"]
    assert condition["message"] == "0/2 nodes are available: 2 node(s) were unschedulable."


async def test_a_lost_node_is_tainted_at_once_and_emptied_after_the_toleration() -> None:
    bench = Bench(nodes=2)
    await bench.deploy(replicas=2)
    await bench.pass_time(5)
    bench.emulator.controllers.set_node_ready("worker-0", "Unknown", reason="NodeStatusUnknown")
    await bench.pass_time(1)
    node = await bench.cluster.get(NODES, "worker-0")
    taints = {(t["key"], t["effect"]) for t in node["spec"]["taints"]}
    assert taints == {("node.kubernetes.io/unreachable", e) for e in ("NoSchedule", "NoExecute")}
    assert (await bench.deployment())["status"]["availableReplicas"] == 1
    await bench.pass_time(280, step=20)
    assert not [p for p in await bench.pods() if p["metadata"].get("deletionTimestamp")]
    await bench.pass_time(40, step=10)
    (ending,) = [p for p in await bench.pods() if p["metadata"].get("deletionTimestamp")]
    assert ending["spec"]["nodeName"] == "worker-0"
    await bench.pass_time(5)
    assert (await bench.deployment())["status"]["availableReplicas"] == 2
    bench.emulator.controllers.set_node_ready("worker-0", "True")
    await bench.pass_time(40, step=5)
    assert len(await bench.pods()) == 2
    assert "taints" not in (await bench.cluster.get(NODES, "worker-0"))["spec"]


async def test_a_budget_follows_its_pods() -> None:
    bench = Bench()
    await bench.deploy()
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    await bench.cluster.create(POD_DISRUPTION_BUDGETS, {"metadata": {"name": "web"}, "spec": spec}, namespace="default")
    await bench.pass_time(5)

    async def allowed() -> int:
        found = await bench.cluster.get(POD_DISRUPTION_BUDGETS, "web", namespace="default")
        return int(found["status"]["disruptionsAllowed"])

    assert await allowed() == 1
    await bench.cluster.evict((await bench.pods())[0]["metadata"]["name"], namespace="default")
    await bench.emulator.controllers.step()
    assert await allowed() == 0
    await bench.pass_time(5)
    assert await allowed() == 1


async def test_a_degraded_machine_degrades_its_pool() -> None:
    bench = Bench()
    state = {"machineconfiguration.openshift.io/state": "Degraded"}
    await bench.merge(NODES, "worker-1", {"metadata": {"annotations": state}})
    pool = await bench.cluster.get(MACHINE_CONFIG_POOLS, "worker")
    assert conditions(pool)["Degraded"][0] == "True"
    assert pool["status"]["degradedMachineCount"] == 1


async def test_the_same_seed_gives_the_same_cluster() -> None:
    async def play(seed: int) -> list[Manifest]:
        bench = Bench(seed=seed)
        await bench.deploy()
        await bench.pass_time(5)
        await bench.cluster.delete(PODS, (await bench.pods())[0]["metadata"]["name"], namespace="default")
        await bench.pass_time(5)
        return await bench.pods()

    assert await play(4) == await play(4)
    assert await play(4) != await play(5)


@pytest.mark.parametrize(("text", "value"), [("250m", 0.25), ("1Gi", 2**30), ("2", 2), ("1e3", 1000), ("5M", 5e6)])
def test_quantities(text: str, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


def test_a_malformed_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a quantity"):
        quantity("lots")
