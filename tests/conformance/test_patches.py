"""Merge, JSON and strategic merge patches."""

from __future__ import annotations

import pytest
from conformance_kit import OPEN_SCHEMA, Define, changed, config_map, deployment

from clusterheal.kube.ports import ApiError, Cluster, Manifest, PatchType
from clusterheal.kube.resources import CONFIG_MAPS, DEPLOYMENTS


async def test_merge_patch_sets_and_null_removes(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, config_map("a", {"a": "1", "b": "1"}), namespace=namespace)
    patch = {"data": {"a": None, "c": "3"}}
    patched = await cluster.patch(CONFIG_MAPS, "a", patch, patch_type=PatchType.MERGE, namespace=namespace)
    assert patched["data"] == {"b": "1", "c": "3"}


async def test_merge_patch_replaces_lists(cluster: Cluster, namespace: str) -> None:
    await cluster.create(DEPLOYMENTS, deployment("a"), namespace=namespace)
    containers = [{"name": "other", "image": "other:1"}]
    patch = {"spec": {"template": {"spec": {"containers": containers}}}}
    patched = await cluster.patch(DEPLOYMENTS, "a", patch, patch_type=PatchType.MERGE, namespace=namespace)
    assert [c["name"] for c in patched["spec"]["template"]["spec"]["containers"]] == ["other"]


async def test_json_patch_applies_in_order(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, config_map("a", {"a": "1", "b": "1"}), namespace=namespace)
    patch = [
        {"op": "test", "path": "/data/a", "value": "1"},
        {"op": "replace", "path": "/data/a", "value": "2"},
        {"op": "remove", "path": "/data/b"},
        {"op": "add", "path": "/metadata/labels", "value": {}},
        {"op": "add", "path": "/metadata/labels/clusterheal.io~1x", "value": "y"},
    ]
    patched = await cluster.patch(CONFIG_MAPS, "a", patch, patch_type=PatchType.JSON, namespace=namespace)
    assert patched["data"] == {"a": "2"}
    assert patched["metadata"]["labels"] == {"clusterheal.io/x": "y"}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/data/a", "value": "other"},
        {"op": "replace", "path": "/data/missing", "value": "1"},
        {"op": "remove", "path": "/data/missing"},
    ],
    ids=["failing test", "replace of nothing", "remove of nothing"],
)
async def test_json_patch_that_does_not_apply_changes_nothing(
    cluster: Cluster, namespace: str, operation: dict[str, object], server_minor: int
) -> None:
    if operation["op"] == "replace" and server_minor < 22:
        pytest.skip("servers before 1.22 let a JSON patch replace what is not there")
    made = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    patch = [{"op": "add", "path": "/data/z", "value": "1"}, operation]
    with pytest.raises(ApiError) as refused:
        await cluster.patch(CONFIG_MAPS, "a", patch, patch_type=PatchType.JSON, namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (422, "Invalid")
    assert await cluster.get(CONFIG_MAPS, "a", namespace=namespace) == made


async def test_json_patch_must_be_a_list_of_operations(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.patch(CONFIG_MAPS, "a", {"data": {}}, patch_type=PatchType.JSON, namespace=namespace)
    assert refused.value.status == 400


async def test_strategic_patch_merges_containers_by_name(cluster: Cluster, namespace: str) -> None:
    body = deployment("a")
    body["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "side:1"})
    await cluster.create(DEPLOYMENTS, body, namespace=namespace)
    env = [{"name": "LEVEL", "value": "debug"}]
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "app", "env": env}]}}}}
    patched = await cluster.patch(DEPLOYMENTS, "a", patch, patch_type=PatchType.STRATEGIC, namespace=namespace)
    containers = {c["name"]: c for c in patched["spec"]["template"]["spec"]["containers"]}
    assert set(containers) == {"app", "side"}
    assert containers["app"]["image"] == "registry.k8s.io/pause:3.9"
    assert containers["app"]["env"] == env


async def test_strategic_patch_deletes_an_item_by_directive(cluster: Cluster, namespace: str) -> None:
    body = deployment("a")
    body["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "side:1"})
    await cluster.create(DEPLOYMENTS, body, namespace=namespace)
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "side", "$patch": "delete"}]}}}}
    patched = await cluster.patch(DEPLOYMENTS, "a", patch, patch_type=PatchType.STRATEGIC, namespace=namespace)
    assert [c["name"] for c in patched["spec"]["template"]["spec"]["containers"]] == ["app"]


async def test_strategic_patch_merges_conditions_by_type(cluster: Cluster, namespace: str) -> None:
    await cluster.create(DEPLOYMENTS, deployment("a"), namespace=namespace)

    def report(obj: Manifest) -> None:
        obj["status"] = {"conditions": [{"type": "One", "status": "True"}, {"type": "Two", "status": "True"}]}

    await changed(cluster, DEPLOYMENTS, "a", namespace, report, subresource="status")
    patch = {"status": {"conditions": [{"type": "Two", "status": "False"}, {"type": "Three", "status": "True"}]}}
    patched = await cluster.patch(
        DEPLOYMENTS, "a", patch, patch_type=PatchType.STRATEGIC, namespace=namespace, subresource="status"
    )
    found = {c["type"]: c["status"] for c in patched["status"]["conditions"] if c["type"] in ("One", "Two", "Three")}
    assert found == {"One": "True", "Two": "False", "Three": "True"}


async def test_restart_annotation_by_strategic_patch_changes_the_template(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(DEPLOYMENTS, deployment("a"), namespace=namespace)
    annotations = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    patched = await cluster.patch(DEPLOYMENTS, "a", patch, patch_type=PatchType.STRATEGIC, namespace=namespace)
    assert patched["spec"]["template"]["metadata"]["annotations"] == annotations
    assert patched["spec"]["template"]["metadata"]["labels"] == {"app": "a"}
    assert patched["metadata"]["generation"] == made["metadata"]["generation"] + 1


async def test_strategic_patch_of_a_custom_resource_is_not_supported(
    cluster: Cluster, namespace: str, define: Define
) -> None:
    widgets = await define(OPEN_SCHEMA)
    await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": {"a": 1}}, namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.patch(widgets, "w", {"spec": {"a": 2}}, patch_type=PatchType.STRATEGIC, namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (415, "UnsupportedMediaType")


@pytest.mark.parametrize("patch_type", [PatchType.MERGE, PatchType.STRATEGIC])
async def test_patch_with_a_stale_version_conflicts(cluster: Cluster, namespace: str, patch_type: PatchType) -> None:
    made = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    await cluster.patch(CONFIG_MAPS, "a", {"data": {"a": "2"}}, patch_type=PatchType.MERGE, namespace=namespace)
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"a": "3"}}
    with pytest.raises(ApiError) as refused:
        await cluster.patch(CONFIG_MAPS, "a", stale, patch_type=patch_type, namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    assert (await cluster.get(CONFIG_MAPS, "a", namespace=namespace))["data"] == {"a": "2"}


@pytest.mark.parametrize("patch_type", [PatchType.MERGE, PatchType.STRATEGIC])
async def test_patch_of_a_missing_object_is_not_found(cluster: Cluster, namespace: str, patch_type: PatchType) -> None:
    with pytest.raises(ApiError) as refused:
        await cluster.patch(CONFIG_MAPS, "a", {"data": {"a": "2"}}, patch_type=patch_type, namespace=namespace)
    assert refused.value.status == 404


async def test_patch_that_changes_nothing_keeps_the_version(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    again = await cluster.patch(CONFIG_MAPS, "a", {"data": {"a": "1"}}, patch_type=PatchType.MERGE, namespace=namespace)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_patched_objects_are_validated(cluster: Cluster, namespace: str) -> None:
    await cluster.create(DEPLOYMENTS, deployment("a"), namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.patch(
            DEPLOYMENTS, "a", {"spec": {"replicas": -1}}, patch_type=PatchType.MERGE, namespace=namespace
        )
    assert refused.value.status == 422
    assert [c["field"] for c in refused.value.details["causes"]] == ["spec.replicas"]
