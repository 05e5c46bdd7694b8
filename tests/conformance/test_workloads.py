"""What a cluster's own controllers do with a Deployment. Real clusters need nodes that can pull the pause image."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from conformance_kit import deployment, eventually

from clusterheal.kube.ports import ApiError, Cluster, Manifest, PatchType
from clusterheal.kube.resources import DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS

REVISION = "deployment.kubernetes.io/revision"


def rolled_out(cluster: Cluster, namespace: str, name: str = "web") -> Callable[[], Awaitable[Manifest | None]]:
    """The rule of `kubectl rollout status`."""

    async def check() -> Manifest | None:
        found = await cluster.get(DEPLOYMENTS, name, namespace=namespace)
        status, wanted = found.get("status") or {}, found["spec"]["replicas"]
        counts = [status.get(field, 0) for field in ("replicas", "updatedReplicas", "availableReplicas")]
        observed = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        return found if observed and counts == [wanted] * 3 else None

    return check


async def names(cluster: Cluster, namespace: str) -> set[str]:
    listed = await cluster.list(PODS, namespace=namespace, label_selector="app=web")
    return {p["metadata"]["name"] for p in listed.items if not p["metadata"].get("deletionTimestamp")}


async def test_a_deployment_gets_a_replica_set_and_ready_pods(live_cluster: Cluster, namespace: str) -> None:
    await live_cluster.create(DEPLOYMENTS, deployment("web", replicas=2), namespace=namespace)
    done = await eventually(rolled_out(live_cluster, namespace), seconds=120)
    assert done["metadata"]["annotations"][REVISION] == "1"
    assert done["metadata"]["generation"] == 1
    conditions = {c["type"]: (c["status"], c["reason"]) for c in done["status"]["conditions"]}
    assert conditions["Available"] == ("True", "MinimumReplicasAvailable")
    assert conditions["Progressing"] == ("True", "NewReplicaSetAvailable")
    (replica_set,) = (await live_cluster.list(REPLICA_SETS, namespace=namespace)).items
    (owner,) = replica_set["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("Deployment", "web", True)
    pods = (await live_cluster.list(PODS, namespace=namespace, label_selector="app=web")).items
    assert {p["metadata"]["ownerReferences"][0]["uid"] for p in pods} == {replica_set["metadata"]["uid"]}
    assert all(p["spec"]["nodeName"] and p["status"]["phase"] == "Running" for p in pods)


async def test_a_restart_annotation_replaces_every_pod(live_cluster: Cluster, namespace: str) -> None:
    await live_cluster.create(DEPLOYMENTS, deployment("web", replicas=2), namespace=namespace)
    await eventually(rolled_out(live_cluster, namespace), seconds=120)
    before = await names(live_cluster, namespace)
    annotations = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    patch: dict[str, Any] = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    await live_cluster.patch(DEPLOYMENTS, "web", patch, patch_type=PatchType.STRATEGIC, namespace=namespace)
    done = await eventually(rolled_out(live_cluster, namespace), seconds=120)
    assert done["metadata"]["annotations"][REVISION] == "2"
    assert not before & await names(live_cluster, namespace)


async def test_undo_makes_the_old_replica_set_the_newest_revision(live_cluster: Cluster, namespace: str) -> None:
    body = deployment("web")
    await live_cluster.create(DEPLOYMENTS, body, namespace=namespace)
    await eventually(rolled_out(live_cluster, namespace), seconds=120)
    for image in ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.9"):
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}}
        await live_cluster.patch(DEPLOYMENTS, "web", patch, patch_type=PatchType.STRATEGIC, namespace=namespace)
        await eventually(rolled_out(live_cluster, namespace), seconds=120)
    sets = (await live_cluster.list(REPLICA_SETS, namespace=namespace)).items
    assert {(s["metadata"]["annotations"][REVISION], s["spec"]["replicas"]) for s in sets} == {("2", 0), ("3", 1)}


async def test_scaling_in_and_out_follows_replicas(live_cluster: Cluster, namespace: str) -> None:
    await live_cluster.create(DEPLOYMENTS, deployment("web"), namespace=namespace)
    for size in (3, 1):
        patch = {"spec": {"replicas": size}}
        await live_cluster.patch(DEPLOYMENTS, "web", patch, patch_type=PatchType.MERGE, namespace=namespace)
        await eventually(rolled_out(live_cluster, namespace), seconds=120)
        assert len(await names(live_cluster, namespace)) == size


async def test_an_evicted_pod_is_replaced_and_the_budget_recovers(live_cluster: Cluster, namespace: str) -> None:
    await live_cluster.create(DEPLOYMENTS, deployment("web", replicas=2), namespace=namespace)
    await eventually(rolled_out(live_cluster, namespace), seconds=120)
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    await live_cluster.create(POD_DISRUPTION_BUDGETS, {"metadata": {"name": "web"}, "spec": spec}, namespace=namespace)

    async def allows_one() -> bool:
        found = await live_cluster.get(POD_DISRUPTION_BUDGETS, "web", namespace=namespace)
        return bool((found.get("status") or {}).get("disruptionsAllowed") == 1)

    await eventually(allows_one, seconds=60)
    first = min(await names(live_cluster, namespace))
    await live_cluster.evict(first, namespace=namespace)
    await eventually(rolled_out(live_cluster, namespace), seconds=120)
    await eventually(allows_one, seconds=60)
    assert first not in await names(live_cluster, namespace)


async def test_deleting_a_deployment_collects_its_pods(live_cluster: Cluster, namespace: str) -> None:
    await live_cluster.create(DEPLOYMENTS, deployment("web", replicas=2), namespace=namespace)
    await eventually(rolled_out(live_cluster, namespace), seconds=120)
    await live_cluster.delete(DEPLOYMENTS, "web", namespace=namespace)

    async def collected() -> bool:
        sets = (await live_cluster.list(REPLICA_SETS, namespace=namespace)).items
        return not sets and not await names(live_cluster, namespace)

    await eventually(collected, seconds=120)


async def test_a_deployment_without_room_says_so(live_cluster: Cluster, namespace: str) -> None:
    body = deployment("web")
    requests = {"cpu": "1000000"}
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": requests}
    await live_cluster.create(DEPLOYMENTS, body, namespace=namespace)

    async def refused() -> Manifest | None:
        pods = (await live_cluster.list(PODS, namespace=namespace, label_selector="app=web")).items
        found = [c for p in pods for c in p["status"].get("conditions") or () if c["type"] == "PodScheduled"]
        return next((c for c in found if c["status"] == "False"), None)

    condition = await eventually(refused, seconds=60)
    assert condition["reason"] == "Unschedulable"
    assert "Insufficient cpu" in condition["message"]


async def test_a_namespace_ends_with_what_is_in_it(live_cluster: Cluster, namespace: str) -> None:
    from clusterheal.kube.resources import NAMESPACES

    await live_cluster.create(DEPLOYMENTS, deployment("web"), namespace=namespace)
    await live_cluster.delete(NAMESPACES, namespace)

    async def ended() -> bool:
        try:
            found = await live_cluster.get(NAMESPACES, namespace)
        except ApiError as exc:
            return exc.status == 404
        assert found["status"]["phase"] == "Terminating"
        return False

    await eventually(ended, seconds=120)
