"""Server-side apply: ownership, conflicts, force."""

from __future__ import annotations

import pytest
from conformance_kit import MANAGER, Define, config_map, deployment

from clusterheal.kube.ports import ApiError, Cluster, Manifest, PatchType
from clusterheal.kube.resources import CONFIG_MAPS, DEPLOYMENTS


async def apply_data(
    cluster: Cluster, namespace: str, manager: str, data: dict[str, str], *, force: bool = False, dry_run: bool = False
) -> Manifest:
    return await cluster.patch(
        CONFIG_MAPS,
        "a",
        config_map("a", data),
        patch_type=PatchType.APPLY,
        namespace=namespace,
        field_manager=manager,
        force=force,
        dry_run=dry_run,
    )


def owners(obj: Manifest, field: str) -> set[str]:
    """Who owns `data.<field>`."""
    return {
        entry["manager"]
        for entry in obj["metadata"].get("managedFields", [])
        if f"f:{field}" in entry["fieldsV1"].get("f:data", {})
    }


async def test_apply_creates_what_is_not_there(cluster: Cluster, namespace: str) -> None:
    made = await apply_data(cluster, namespace, "one", {"a": "1"})
    assert made["data"] == {"a": "1"}
    (entry,) = made["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"], entry["apiVersion"]) == ("one", "Apply", "v1")
    assert entry["fieldsType"] == "FieldsV1"
    assert entry["fieldsV1"] == {"f:data": {"f:a": {}}}


async def test_apply_removes_what_its_manager_no_longer_names(cluster: Cluster, namespace: str) -> None:
    await apply_data(cluster, namespace, "one", {"a": "1", "b": "1"})
    after = await apply_data(cluster, namespace, "one", {"a": "1"})
    assert after["data"] == {"a": "1"}


async def test_apply_keeps_what_others_own(cluster: Cluster, namespace: str) -> None:
    await apply_data(cluster, namespace, "one", {"a": "1"})
    await apply_data(cluster, namespace, "two", {"b": "2"})
    after = await apply_data(cluster, namespace, "one", {"a": "3"})
    assert after["data"] == {"a": "3", "b": "2"}
    assert owners(after, "b") == {"two"}


async def test_apply_over_another_managers_value_conflicts(cluster: Cluster, namespace: str) -> None:
    await apply_data(cluster, namespace, "one", {"a": "1", "b": "1"})
    with pytest.raises(ApiError) as refused:
        await apply_data(cluster, namespace, "two", {"a": "2"})
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    assert refused.value.message == 'Apply failed with 1 conflict: conflict with "one": .data.a'
    (cause,) = refused.value.details["causes"]
    assert cause == {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.a"}
    assert (await cluster.get(CONFIG_MAPS, "a", namespace=namespace))["data"]["a"] == "1"


async def test_several_conflicts_are_all_named(cluster: Cluster, namespace: str) -> None:
    await apply_data(cluster, namespace, "one", {"a": "1", "b": "1"})
    with pytest.raises(ApiError) as refused:
        await apply_data(cluster, namespace, "two", {"a": "2", "b": "2"})
    assert refused.value.message.startswith('Apply failed with 2 conflicts: conflicts with "one"')
    assert {c["field"] for c in refused.value.details["causes"]} == {".data.a", ".data.b"}


async def test_apply_conflicts_with_a_plain_update_of_somebody_else(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, config_map("a", {"a": "1"}), namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await apply_data(cluster, namespace, "two", {"a": "2"})
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    assert f'conflict with "{MANAGER}" using v1' in refused.value.message
    assert refused.value.message.endswith(".data.a")


async def test_force_takes_a_field_over(cluster: Cluster, namespace: str) -> None:
    await apply_data(cluster, namespace, "one", {"a": "1", "b": "1"})
    taken = await apply_data(cluster, namespace, "two", {"a": "2"}, force=True)
    assert taken["data"] == {"a": "2", "b": "1"}
    assert owners(taken, "a") == {"two"}
    assert owners(taken, "b") == {"one"}
    with pytest.raises(ApiError) as refused:
        await apply_data(cluster, namespace, "one", {"a": "1", "b": "1"})
    assert 'conflict with "two"' in refused.value.message


async def test_equal_values_are_shared_and_outlive_one_owner(cluster: Cluster, namespace: str) -> None:
    await apply_data(cluster, namespace, "one", {"a": "1", "b": "1"})
    shared = await apply_data(cluster, namespace, "two", {"a": "1"})
    assert owners(shared, "a") == {"one", "two"}
    after = await apply_data(cluster, namespace, "one", {"b": "1"})
    assert after["data"] == {"a": "1", "b": "1"}
    assert owners(after, "a") == {"two"}


async def test_an_update_takes_the_fields_that_it_changes(cluster: Cluster, namespace: str) -> None:
    made = await apply_data(cluster, namespace, "one", {"a": "1", "b": "1"})
    made["data"]["a"] = "9"
    updated = await cluster.update(CONFIG_MAPS, made, namespace=namespace)
    assert owners(updated, "a") == {MANAGER}
    assert owners(updated, "b") == {"one"}


async def test_apply_again_changes_nothing(cluster: Cluster, namespace: str) -> None:
    made = await apply_data(cluster, namespace, "one", {"a": "1"})
    again = await apply_data(cluster, namespace, "one", {"a": "1"})
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_apply_as_dry_run_finds_conflicts_and_persists_nothing(cluster: Cluster, namespace: str) -> None:
    made = await apply_data(cluster, namespace, "one", {"a": "1"})
    with pytest.raises(ApiError) as refused:
        await apply_data(cluster, namespace, "two", {"a": "2"}, dry_run=True)
    assert refused.value.status == 409
    would = await apply_data(cluster, namespace, "two", {"b": "2"}, dry_run=True)
    assert would["data"] == {"a": "1", "b": "2"}
    assert await cluster.get(CONFIG_MAPS, "a", namespace=namespace) == made


async def test_apply_with_managed_fields_is_refused(cluster: Cluster, namespace: str) -> None:
    made = await apply_data(cluster, namespace, "one", {"a": "1"})
    body = {**config_map("a", {"a": "2"})}
    body["metadata"]["managedFields"] = made["metadata"]["managedFields"]
    with pytest.raises(ApiError) as refused:
        await cluster.patch(
            CONFIG_MAPS, "a", body, patch_type=PatchType.APPLY, namespace=namespace, field_manager="one"
        )
    assert refused.value.status == 400


async def test_apply_with_a_stale_version_conflicts(cluster: Cluster, namespace: str) -> None:
    made = await apply_data(cluster, namespace, "one", {"a": "1"})
    await apply_data(cluster, namespace, "one", {"a": "2"})
    body = config_map("a", {"a": "3"}, resourceVersion=made["metadata"]["resourceVersion"])
    with pytest.raises(ApiError) as refused:
        await cluster.patch(
            CONFIG_MAPS, "a", body, patch_type=PatchType.APPLY, namespace=namespace, field_manager="one"
        )
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")


async def test_containers_are_owned_by_name(cluster: Cluster, namespace: str) -> None:
    def config(containers: list[Manifest]) -> Manifest:
        spec = {"template": {"spec": {"containers": containers}}}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec}

    async def apply(manager: str, body: Manifest) -> Manifest:
        return await cluster.patch(
            DEPLOYMENTS, "a", body, patch_type=PatchType.APPLY, namespace=namespace, field_manager=manager
        )

    await apply("one", deployment("a"))
    both = await apply("two", config([{"name": "side", "image": "side:1"}]))
    names = [c["name"] for c in both["spec"]["template"]["spec"]["containers"]]
    assert sorted(names) == ["app", "side"]
    with pytest.raises(ApiError) as refused:
        await apply("two", config([{"name": "side", "image": "side:1"}, {"name": "app", "image": "other:1"}]))
    assert [c["field"] for c in refused.value.details["causes"]] == ['.spec.template.spec.containers[name="app"].image']
    alone = await apply("two", {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}})
    assert [c["name"] for c in alone["spec"]["template"]["spec"]["containers"]] == ["app"]


async def test_apply_to_status_owns_status_only(
    cluster: Cluster, namespace: str, define: Define, server_minor: int
) -> None:
    if server_minor < 22:
        pytest.skip("servers before 1.22 compare the whole object with an apply to its status")
    text = {"type": "object", "properties": {"phase": {"type": "string"}, "size": {"type": "integer"}}}
    widgets = await define({"type": "object", "properties": {"spec": text, "status": text}})
    await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": {"size": 1}}, namespace=namespace)
    body = {
        "apiVersion": widgets.api_version,
        "kind": "Widget",
        "metadata": {"name": "w"},
        "spec": {"size": 5},
        "status": {"phase": "Open"},
    }
    after = await cluster.patch(
        widgets,
        "w",
        body,
        patch_type=PatchType.APPLY,
        namespace=namespace,
        subresource="status",
        field_manager="engine",
    )
    assert after["spec"] == {"size": 1}
    assert after["status"] == {"phase": "Open"}
    (entry,) = [e for e in after["metadata"]["managedFields"] if e["manager"] == "engine"]
    assert entry["subresource"] == "status"
    assert entry["fieldsV1"] == {"f:status": {"f:phase": {}}}


async def test_list_of_a_custom_resource_merges_by_its_map_keys(
    cluster: Cluster, namespace: str, define: Define
) -> None:
    item = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "v": {"type": "integer"}},
    }
    steps = {"type": "array", "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    plain = {"type": "array", "items": {"type": "string"}}
    spec = {"type": "object", "properties": {"steps": steps, "plain": plain}}
    widgets = await define({"type": "object", "properties": {"spec": spec}})

    async def apply(manager: str, fields: Manifest) -> Manifest:
        body = {"apiVersion": widgets.api_version, "kind": "Widget", "metadata": {"name": "w"}, "spec": fields}
        return await cluster.patch(
            widgets, "w", body, patch_type=PatchType.APPLY, namespace=namespace, field_manager=manager
        )

    await apply("one", {"steps": [{"name": "a", "v": 1}], "plain": ["x"]})
    merged = await apply("two", {"steps": [{"name": "b", "v": 2}]})
    assert merged["spec"]["steps"] == [{"name": "a", "v": 1}, {"name": "b", "v": 2}]
    with pytest.raises(ApiError) as refused:
        await apply("two", {"steps": [{"name": "b", "v": 2}], "plain": ["y"]})
    assert [c["field"] for c in refused.value.details["causes"]] == [".spec.plain"]
