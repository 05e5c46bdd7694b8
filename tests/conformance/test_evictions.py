"""Evictions under disruption budgets. Pods and budgets are played by writing their status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from conformance_kit import eventually

from clusterheal.kube.ports import ApiError, ApiRetryable, Cluster, Manifest
from clusterheal.kube.resources import POD_DISRUPTION_BUDGETS, PODS

MakePod = Callable[..., Awaitable[Manifest]]


@pytest.fixture(autouse=True)
async def _policy_v1(server_minor: int) -> None:
    if server_minor < 22:
        pytest.skip("policy/v1 with its evictions exists since Kubernetes 1.22")


async def budget(cluster: Cluster, namespace: str, *, least: int, healthy: int) -> None:
    """A budget over `app=web` whose status says how many pods are healthy.

    A disruption controller, where there is one, comes to the same numbers.
    """
    spec = {"minAvailable": least, "selector": {"matchLabels": {"app": "web"}}}
    await cluster.create(POD_DISRUPTION_BUDGETS, {"metadata": {"name": "web"}, "spec": spec}, namespace=namespace)

    async def played() -> bool:
        found = await cluster.get(POD_DISRUPTION_BUDGETS, "web", namespace=namespace)
        found["status"] = {
            "observedGeneration": found["metadata"]["generation"],
            "currentHealthy": healthy,
            "desiredHealthy": least,
            "expectedPods": healthy,
            "disruptionsAllowed": max(healthy - least, 0),
        }
        try:
            await cluster.update(POD_DISRUPTION_BUDGETS, found, namespace=namespace, subresource="status")
        except ApiError as exc:
            if exc.status == 409:
                return False
            raise
        return True

    await eventually(played)


async def gone(cluster: Cluster, namespace: str, name: str) -> bool:
    try:
        found = await cluster.get(PODS, name, namespace=namespace)
    except ApiError as exc:
        return exc.status == 404
    return bool(found["metadata"].get("deletionTimestamp"))


async def test_eviction_without_a_budget_deletes_the_pod(cluster: Cluster, namespace: str, pod_ready: MakePod) -> None:
    await pod_ready("web-1", {"app": "web"})
    await cluster.evict("web-1", namespace=namespace)
    assert await gone(cluster, namespace, "web-1")


async def test_eviction_of_a_missing_pod_is_not_found(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(ApiError) as refused:
        await cluster.evict("nothing", namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (404, "NotFound")


async def test_eviction_over_budget_is_too_many_requests(cluster: Cluster, namespace: str, pod_ready: MakePod) -> None:
    await pod_ready("web-1", {"app": "web"})
    await budget(cluster, namespace, least=1, healthy=1)
    with pytest.raises(ApiRetryable) as refused:
        await cluster.evict("web-1", namespace=namespace)
    assert refused.value.status == 429
    assert "Cannot evict pod as it would violate the pod's disruption budget." in str(refused.value)
    assert "The disruption budget web needs 1 healthy pods and has 1 currently" in str(refused.value)
    assert not await gone(cluster, namespace, "web-1")


async def test_eviction_within_budget_spends_one_disruption(
    cluster: Cluster, namespace: str, pod_ready: MakePod
) -> None:
    for name in ("web-1", "web-2"):
        await pod_ready(name, {"app": "web"})
    await budget(cluster, namespace, least=1, healthy=2)
    await cluster.evict("web-1", namespace=namespace)
    assert await gone(cluster, namespace, "web-1")
    with pytest.raises(ApiRetryable) as refused:
        await cluster.evict("web-2", namespace=namespace)
    assert refused.value.status == 429


async def test_eviction_as_dry_run_checks_the_budget_and_keeps_the_pod(
    cluster: Cluster, namespace: str, pod_ready: MakePod
) -> None:
    for name in ("web-1", "web-2"):
        await pod_ready(name, {"app": "web"})
    await budget(cluster, namespace, least=1, healthy=2)
    await cluster.evict("web-1", namespace=namespace, dry_run=True)
    await cluster.evict("web-2", namespace=namespace, dry_run=True)
    assert not await gone(cluster, namespace, "web-1")
    found = await cluster.get(POD_DISRUPTION_BUDGETS, "web", namespace=namespace)
    assert found["status"]["disruptionsAllowed"] == 1


async def test_eviction_of_another_uid_conflicts(cluster: Cluster, namespace: str, pod_ready: MakePod) -> None:
    await pod_ready("web-1", {"app": "web"})
    with pytest.raises(ApiError) as refused:
        await cluster.evict("web-1", namespace=namespace, uid="00000000-0000-4000-8000-000000000000")
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    assert not await gone(cluster, namespace, "web-1")


async def test_a_pending_pod_is_evicted_past_its_budget(cluster: Cluster, namespace: str, pod_ready: MakePod) -> None:
    pod = await pod_ready("web-1", {"app": "web"}, ready=False)
    pod["status"]["phase"] = "Pending"
    await cluster.update(PODS, pod, namespace=namespace, subresource="status")
    await budget(cluster, namespace, least=1, healthy=0)
    await cluster.evict("web-1", namespace=namespace)
    assert await gone(cluster, namespace, "web-1")


async def test_the_spec_of_a_pod_is_fixed_but_its_image(cluster: Cluster, namespace: str, pod_ready: MakePod) -> None:
    pod = await pod_ready("web-1", {"app": "web"})
    pod["spec"]["containers"][0]["image"] = "registry.k8s.io/pause:3.10"
    updated = await cluster.update(PODS, pod, namespace=namespace)
    updated["spec"]["restartPolicy"] = "Never"
    with pytest.raises(ApiError) as refused:
        await cluster.update(PODS, updated, namespace=namespace)
    assert refused.value.status == 422
    assert [(c["reason"], c["field"]) for c in refused.value.details["causes"]] == [("FieldValueForbidden", "spec")]
