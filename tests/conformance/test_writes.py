"""Create, update and delete: identity, versions, preconditions, validation."""

from __future__ import annotations

import pytest
from conformance_kit import changed, config_map, deployment, lease

from clusterheal.kube.ports import ApiError, Cluster, Manifest, PatchType, Resource
from clusterheal.kube.resources import CONFIG_MAPS, DEPLOYMENTS, LEASES


async def test_create_assigns_identity_and_version(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    metadata = made["metadata"]
    assert metadata["namespace"] == namespace
    assert len(metadata["uid"]) == 36
    assert metadata["resourceVersion"].isdigit()
    assert metadata["creationTimestamp"].endswith("Z")
    assert await cluster.get(CONFIG_MAPS, "a", namespace=namespace) == made


async def test_create_generates_a_name_from_its_prefix(cluster: Cluster, namespace: str) -> None:
    body = {"metadata": {"generateName": "job-"}}
    first = await cluster.create(CONFIG_MAPS, body, namespace=namespace)
    second = await cluster.create(CONFIG_MAPS, body, namespace=namespace)
    names = {first["metadata"]["name"], second["metadata"]["name"]}
    assert len(names) == 2
    assert all(name.startswith("job-") and len(name) == len("job-") + 5 for name in names)


async def test_create_of_an_existing_name_is_already_exists(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (409, "AlreadyExists")
    assert refused.value.message == 'configmaps "a" already exists'
    assert refused.value.details["name"] == "a"
    assert refused.value.details["kind"] == "configmaps"


async def test_create_in_a_missing_namespace_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(ApiError) as refused:
        await cluster.create(CONFIG_MAPS, config_map("a"), namespace="clusterheal-no-such-namespace")
    assert (refused.value.status, refused.value.reason) == (404, "NotFound")
    assert refused.value.message == 'namespaces "clusterheal-no-such-namespace" not found'


async def test_get_of_a_missing_object_names_it(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(ApiError) as refused:
        await cluster.get(DEPLOYMENTS, "nothing", namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (404, "NotFound")
    assert refused.value.message == 'deployments.apps "nothing" not found'
    assert refused.value.details == {"name": "nothing", "group": "apps", "kind": "deployments"}


async def test_unknown_resource_is_not_found(cluster: Cluster, namespace: str) -> None:
    unknown = Resource(group="clusterheal.invalid", version="v1", plural="nothings", kind="Nothing")
    with pytest.raises(ApiError) as refused:
        await cluster.get(unknown, "a", namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (404, "NotFound")


@pytest.mark.parametrize("name", ["Upper", "with_underscore", "-leading"])
async def test_name_must_be_a_dns_subdomain(cluster: Cluster, namespace: str, name: str) -> None:
    with pytest.raises(ApiError) as refused:
        await cluster.create(CONFIG_MAPS, config_map(name), namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (422, "Invalid")
    (cause,) = refused.value.details["causes"]
    assert (cause["reason"], cause["field"]) == ("FieldValueInvalid", "metadata.name")


async def test_label_values_are_validated(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(ApiError) as refused:
        await cluster.create(CONFIG_MAPS, config_map("a", labels={"key": "not valid!"}), namespace=namespace)
    assert refused.value.status == 422
    (cause,) = refused.value.details["causes"]
    assert (cause["reason"], cause["field"]) == ("FieldValueInvalid", "metadata.labels")


async def test_owner_reference_without_uid_is_invalid(cluster: Cluster, namespace: str) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "b", "uid": ""}
    with pytest.raises(ApiError) as refused:
        await cluster.create(CONFIG_MAPS, config_map("a", ownerReferences=[owner]), namespace=namespace)
    assert refused.value.status == 422
    assert [c["field"] for c in refused.value.details["causes"]] == ["metadata.ownerReferences.uid"]


async def test_update_with_a_stale_version_conflicts(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    await cluster.update(CONFIG_MAPS, {**made, "data": {"a": "2"}}, namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.update(CONFIG_MAPS, {**made, "data": {"a": "3"}}, namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    assert refused.value.message == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    assert (await cluster.get(CONFIG_MAPS, "a", namespace=namespace))["data"] == {"a": "2"}


async def test_update_with_another_uid_conflicts(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    made["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000"
    with pytest.raises(ApiError) as refused:
        await cluster.update(CONFIG_MAPS, made, namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    assert "Precondition failed: UID in precondition" in refused.value.message


async def test_update_of_a_missing_object_is_not_found(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(ApiError) as refused:
        await cluster.update(DEPLOYMENTS, deployment("a"), namespace=namespace)
    assert refused.value.status == 404


async def test_update_without_version_overwrites_a_config_map(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, config_map("a", {"a": "1", "b": "1"}), namespace=namespace)
    updated = await cluster.update(CONFIG_MAPS, config_map("a", {"a": "2"}), namespace=namespace)
    assert updated["data"] == {"a": "2"}


async def test_update_without_version_is_refused_for_a_lease(cluster: Cluster, namespace: str) -> None:
    await cluster.create(LEASES, lease("a", "me"), namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.update(LEASES, lease("a", "you"), namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (422, "Invalid")
    assert "metadata.resourceVersion" in [c["field"] for c in refused.value.details["causes"]]


async def test_update_that_changes_nothing_keeps_the_version(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    again = await cluster.update(CONFIG_MAPS, made, namespace=namespace)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_identity_cannot_be_rewritten(cluster: Cluster, namespace: str) -> None:
    await cluster.create(DEPLOYMENTS, deployment("a"), namespace=namespace)

    def rewrite(obj: Manifest) -> None:
        obj["metadata"].update(generation=99, labels={"x": "y"})

    updated = await changed(cluster, DEPLOYMENTS, "a", namespace, rewrite)
    assert updated["metadata"]["generation"] == 1
    assert updated["metadata"]["labels"] == {"x": "y"}


async def test_generation_follows_the_spec_of_a_deployment(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(DEPLOYMENTS, deployment("a"), namespace=namespace)
    assert made["metadata"]["generation"] == 1

    async def after(patch: dict[str, object]) -> int:
        patched = await cluster.patch(DEPLOYMENTS, "a", patch, patch_type=PatchType.MERGE, namespace=namespace)
        return int(patched["metadata"]["generation"])

    assert await after({"metadata": {"labels": {"x": "y"}}}) == 1
    assert await after({"metadata": {"annotations": {"x": "y"}}}) == 2
    assert await after({"spec": {"replicas": 2}}) == 3
    assert await after({"spec": {"replicas": 2}}) == 3


async def test_a_config_map_has_no_generation(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    assert "generation" not in made["metadata"]


async def test_selector_of_a_deployment_is_immutable(cluster: Cluster, namespace: str) -> None:
    await cluster.create(DEPLOYMENTS, deployment("a"), namespace=namespace)

    def reselect(obj: Manifest) -> None:
        obj["spec"]["selector"] = {"matchLabels": {"app": "b"}}
        obj["spec"]["template"]["metadata"]["labels"] = {"app": "b"}

    with pytest.raises(ApiError) as refused:
        await changed(cluster, DEPLOYMENTS, "a", namespace, reselect)
    assert (refused.value.status, refused.value.reason) == (422, "Invalid")
    (cause,) = refused.value.details["causes"]
    assert (cause["field"], cause["reason"]) == ("spec.selector", "FieldValueInvalid")
    assert cause["message"].endswith("field is immutable")


async def test_a_deployment_must_select_its_own_template(cluster: Cluster, namespace: str) -> None:
    body = deployment("a")
    body["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    with pytest.raises(ApiError) as refused:
        await cluster.create(DEPLOYMENTS, body, namespace=namespace)
    assert refused.value.status == 422
    assert [c["field"] for c in refused.value.details["causes"]] == ["spec.template.metadata.labels"]


async def test_a_deployment_needs_containers_with_images(cluster: Cluster, namespace: str) -> None:
    body = deployment("a")
    del body["spec"]["template"]["spec"]["containers"][0]["image"]
    with pytest.raises(ApiError) as refused:
        await cluster.create(DEPLOYMENTS, body, namespace=namespace)
    (cause,) = refused.value.details["causes"]
    assert cause["field"] == "spec.template.spec.containers[0].image"
    assert cause["reason"] == "FieldValueRequired"


async def test_defaults_are_written_into_a_deployment(cluster: Cluster, namespace: str) -> None:
    body = deployment("a")
    del body["spec"]["replicas"]
    spec = (await cluster.create(DEPLOYMENTS, body, namespace=namespace))["spec"]
    assert spec["replicas"] == 1
    assert spec["progressDeadlineSeconds"] == 600
    assert spec["revisionHistoryLimit"] == 10
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}
    assert spec["template"]["spec"]["restartPolicy"] == "Always"
    assert spec["template"]["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"


async def test_an_immutable_config_map_refuses_other_data(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(CONFIG_MAPS, {**config_map("a"), "immutable": True}, namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.update(CONFIG_MAPS, {**made, "data": {"a": "2"}}, namespace=namespace)
    assert refused.value.status == 422
    assert [(c["reason"], c["field"]) for c in refused.value.details["causes"]] == [("FieldValueForbidden", "data")]


async def test_delete_removes_and_then_is_not_found(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    await cluster.delete(CONFIG_MAPS, "a", namespace=namespace)
    for attempt in (cluster.get, cluster.delete):
        with pytest.raises(ApiError) as refused:
            await attempt(CONFIG_MAPS, "a", namespace=namespace)
        assert refused.value.status == 404


async def test_delete_with_another_uid_conflicts_and_keeps_the_object(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.delete(CONFIG_MAPS, "a", namespace=namespace, uid="00000000-0000-4000-8000-000000000000")
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    assert "the UID in the precondition (00000000-0000-4000-8000-000000000000) does" in refused.value.message
    await cluster.delete(CONFIG_MAPS, "a", namespace=namespace, uid=made["metadata"]["uid"])
    with pytest.raises(ApiError):
        await cluster.get(CONFIG_MAPS, "a", namespace=namespace)


async def test_finalizers_hold_a_deletion_until_they_are_gone(cluster: Cluster, namespace: str) -> None:
    held = config_map("a", finalizers=["conformance.clusterheal.io/hold"])
    made = await cluster.create(CONFIG_MAPS, held, namespace=namespace)
    await cluster.delete(CONFIG_MAPS, "a", namespace=namespace)
    ending = await cluster.get(CONFIG_MAPS, "a", namespace=namespace)
    assert ending["metadata"]["deletionTimestamp"]
    assert ending["metadata"]["uid"] == made["metadata"]["uid"]
    await cluster.delete(CONFIG_MAPS, "a", namespace=namespace)
    assert await cluster.get(CONFIG_MAPS, "a", namespace=namespace) == ending
    release = {"metadata": {"finalizers": None}}
    await cluster.patch(CONFIG_MAPS, "a", release, patch_type=PatchType.MERGE, namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.get(CONFIG_MAPS, "a", namespace=namespace)
    assert refused.value.status == 404


async def test_no_finalizer_can_be_added_to_an_ending_object(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, config_map("a", finalizers=["clusterheal.io/one"]), namespace=namespace)
    await cluster.delete(CONFIG_MAPS, "a", namespace=namespace)
    more = {"metadata": {"finalizers": ["clusterheal.io/one", "clusterheal.io/two"]}}
    with pytest.raises(ApiError) as refused:
        await cluster.patch(CONFIG_MAPS, "a", more, patch_type=PatchType.MERGE, namespace=namespace)
    assert refused.value.status == 422
    causes = {(c["reason"], c["field"]) for c in refused.value.details["causes"]}  # some servers say it twice
    assert causes == {("FieldValueForbidden", "metadata.finalizers")}
    none = {"metadata": {"finalizers": None}}
    await cluster.patch(CONFIG_MAPS, "a", none, patch_type=PatchType.MERGE, namespace=namespace)


async def test_dry_run_answers_and_persists_nothing(cluster: Cluster, namespace: str) -> None:
    imagined = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace, dry_run=True)
    assert imagined["metadata"]["uid"]
    with pytest.raises(ApiError):
        await cluster.get(CONFIG_MAPS, "a", namespace=namespace)
    made = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    would = await cluster.update(CONFIG_MAPS, {**made, "data": {"a": "2"}}, namespace=namespace, dry_run=True)
    assert would["data"] == {"a": "2"}
    patch = {"data": {"a": "3"}}
    for patch_type in (PatchType.MERGE, PatchType.STRATEGIC):
        would = await cluster.patch(CONFIG_MAPS, "a", patch, patch_type=patch_type, namespace=namespace, dry_run=True)
        assert would["data"] == {"a": "3"}
    await cluster.delete(CONFIG_MAPS, "a", namespace=namespace, dry_run=True)
    assert await cluster.get(CONFIG_MAPS, "a", namespace=namespace) == made


async def test_dry_run_validates_as_a_real_write(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(ApiError) as refused:
        await cluster.create(CONFIG_MAPS, config_map("Bad"), namespace=namespace, dry_run=True)
    assert refused.value.status == 422


async def test_lease_has_one_winner_of_two_contenders(cluster: Cluster, namespace: str) -> None:
    seen = await cluster.create(LEASES, lease("leader", "nobody"), namespace=namespace)

    def claim(who: str) -> dict[str, object]:
        return {**seen, "spec": {**seen["spec"], "holderIdentity": who, "renewTime": "2026-01-01T00:00:00.000000Z"}}

    await cluster.update(LEASES, claim("first"), namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.update(LEASES, claim("second"), namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    held = await cluster.get(LEASES, "leader", namespace=namespace)
    assert held["spec"]["holderIdentity"] == "first"


async def test_lease_duration_must_be_positive(cluster: Cluster, namespace: str) -> None:
    body = lease("leader", "me")
    body["spec"]["leaseDurationSeconds"] = 0
    with pytest.raises(ApiError) as refused:
        await cluster.create(LEASES, body, namespace=namespace)
    assert [c["field"] for c in refused.value.details["causes"]] == ["spec.leaseDurationSeconds"]
