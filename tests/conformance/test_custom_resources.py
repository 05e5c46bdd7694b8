"""Custom resources: structural schemas, pruning, defaulting, generation and the status subresource."""

from __future__ import annotations

from typing import Any

import pytest
from conformance_kit import OPEN_SCHEMA, Define, config_map

from clusterheal.kube.ports import ApiError, Cluster, Manifest, PatchType
from clusterheal.kube.resources import CONFIG_MAPS

TEXT: Manifest = {"type": "string"}


def schema_of(spec: Manifest, *, required: list[str] | None = None, status: Manifest | None = None) -> Manifest:
    fields: Manifest = {"type": "object", "properties": spec}
    if required:
        fields["required"] = required
    return {
        "type": "object",
        "properties": {"spec": fields, "status": {"type": "object", "properties": status or {"phase": TEXT}}},
    }


FINER_REASONS = ("FieldValueTypeInvalid", "FieldValueTooLong", "FieldValueTooMany")
"""Servers before 1.22 say `FieldValueInvalid`, of the list instead of its item."""


@pytest.mark.parametrize(
    ("field", "value", "reason", "path"),
    [
        ({"type": "integer"}, "three", "FieldValueTypeInvalid", "spec.f"),
        ({"type": "string", "enum": ["a", "b"]}, "c", "FieldValueNotSupported", "spec.f"),
        ({"type": "string", "pattern": "^[a-z]+$"}, "A1", "FieldValueInvalid", "spec.f"),
        ({"type": "integer", "minimum": 1}, 0, "FieldValueInvalid", "spec.f"),
        ({"type": "integer", "maximum": 5}, 6, "FieldValueInvalid", "spec.f"),
        ({"type": "string", "minLength": 2}, "a", "FieldValueInvalid", "spec.f"),
        ({"type": "string", "maxLength": 2}, "abc", "FieldValueTooLong", "spec.f"),
        ({"type": "array", "items": TEXT, "maxItems": 1}, ["a", "b"], "FieldValueTooMany", "spec.f"),
        ({"type": "array", "items": {"type": "integer"}}, [1, "b"], "FieldValueTypeInvalid", "spec.f[1]"),
        (
            {"type": "array", "items": TEXT, "x-kubernetes-list-type": "set"},
            ["a", "a"],
            "FieldValueDuplicate",
            "spec.f[1]",
        ),
        (
            {"type": "object", "properties": {"g": TEXT}, "required": ["g"]},
            {},
            "FieldValueRequired",
            "spec.f.g",
        ),
    ],
    ids=[
        "type", "enum", "pattern", "minimum", "maximum", "min length", "max length", "max items", "item type", "set",
        "required",
    ],
)  # fmt: skip
async def test_what_the_schema_forbids_is_invalid_at_its_field(
    cluster: Cluster,
    namespace: str,
    define: Define,
    server_minor: int,
    field: Manifest,
    value: Any,
    reason: str,
    path: str,
) -> None:
    widgets = await define(schema_of({"f": field}))
    with pytest.raises(ApiError) as refused:
        await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": {"f": value}}, namespace=namespace)
    assert (refused.value.status, refused.value.reason) == (422, "Invalid")
    if server_minor < 22 and reason in FINER_REASONS:
        reason, path = "FieldValueInvalid", path.removesuffix("[1]")
    assert refused.value.message.startswith(f'Widget.{widgets.group} "w" is invalid: {path}')
    assert [(c["reason"], c["field"]) for c in refused.value.details["causes"]] == [(reason, path)]


async def test_a_null_that_is_not_allowed_counts_as_absent(cluster: Cluster, namespace: str, define: Define) -> None:
    fields = {"bare": TEXT, "kept": {**TEXT, "nullable": True}, "filled": {**TEXT, "default": "d"}}
    widgets = await define(schema_of(fields))
    spec = dict.fromkeys(fields)
    made = await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": spec}, namespace=namespace)
    assert made["spec"] == {"kept": None, "filled": "d"}


async def test_several_findings_come_together(cluster: Cluster, namespace: str, define: Define) -> None:
    widgets = await define(schema_of({"a": TEXT, "b": {"type": "integer"}}, required=["a"]))
    with pytest.raises(ApiError) as refused:
        await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": {"b": "x"}}, namespace=namespace)
    assert {c["field"] for c in refused.value.details["causes"]} == {"spec.a", "spec.b"}


async def test_unknown_fields_are_pruned(cluster: Cluster, namespace: str, define: Define) -> None:
    kept = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    table = {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": TEXT}}}
    widgets = await define(schema_of({"a": TEXT, "kept": kept, "table": table}))
    spec = {"a": "1", "gone": "1", "kept": {"any": {"thing": 1}}, "table": {"row": {"x": "1", "y": "2"}}}
    made = await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": spec, "extra": 1}, namespace=namespace)
    assert made["spec"] == {"a": "1", "kept": {"any": {"thing": 1}}, "table": {"row": {"x": "1"}}}
    assert "extra" not in made


async def test_defaults_fill_what_is_missing(cluster: Cluster, namespace: str, define: Define) -> None:
    inner = {"type": "object", "default": {}, "properties": {"size": {"type": "integer", "default": 3}}}
    widgets = await define(schema_of({"mode": {"type": "string", "default": "observe"}, "inner": inner}))
    made = await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": {}}, namespace=namespace)
    assert made["spec"] == {"mode": "observe", "inner": {"size": 3}}
    given = await cluster.create(
        widgets, {"metadata": {"name": "v"}, "spec": {"mode": None, "inner": {"size": 1}}}, namespace=namespace
    )
    assert given["spec"] == {"mode": "observe", "inner": {"size": 1}}


async def test_nullable_and_int_or_string(cluster: Cluster, namespace: str, define: Define) -> None:
    widgets = await define(
        schema_of({"n": {"type": "string", "nullable": True}, "port": {"x-kubernetes-int-or-string": True}})
    )
    for name, port in (("one", 80), ("two", "25%")):
        body = {"metadata": {"name": name}, "spec": {"n": None, "port": port}}
        made = await cluster.create(widgets, body, namespace=namespace)
        assert made["spec"] == {"n": None, "port": port}
    with pytest.raises(ApiError) as refused:
        await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": {"port": True}}, namespace=namespace)
    assert [c["field"] for c in refused.value.details["causes"]] == ["spec.port"]


async def test_a_patch_is_validated_against_the_schema(cluster: Cluster, namespace: str, define: Define) -> None:
    widgets = await define(schema_of({"n": {"type": "integer", "maximum": 5}}))
    await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": {"n": 1}}, namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.patch(widgets, "w", {"spec": {"n": 9}}, patch_type=PatchType.MERGE, namespace=namespace)
    assert [c["field"] for c in refused.value.details["causes"]] == ["spec.n"]


async def test_create_drops_status_and_the_main_endpoint_ignores_it(
    cluster: Cluster, namespace: str, define: Define
) -> None:
    widgets = await define(OPEN_SCHEMA)
    body = {"metadata": {"name": "w"}, "spec": {"a": 1}, "status": {"phase": "Done"}}
    made = await cluster.create(widgets, body, namespace=namespace)
    assert "status" not in made
    updated = await cluster.update(
        widgets, {**made, "spec": {"a": 2}, "status": {"phase": "Done"}}, namespace=namespace
    )
    assert updated["spec"] == {"a": 2}
    assert "status" not in updated


async def test_the_status_endpoint_writes_status_only(cluster: Cluster, namespace: str, define: Define) -> None:
    widgets = await define(OPEN_SCHEMA)
    made = await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": {"a": 1}}, namespace=namespace)
    change = {**made, "spec": {"a": 2}, "status": {"phase": "Open"}}
    change["metadata"] = {**made["metadata"], "labels": {"x": "y"}}
    updated = await cluster.update(widgets, change, namespace=namespace, subresource="status")
    assert updated["status"] == {"phase": "Open"}
    assert updated["spec"] == {"a": 1}
    assert "labels" not in updated["metadata"]
    assert int(updated["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])


async def test_generation_of_a_custom_resource_follows_spec_not_status_or_labels(
    cluster: Cluster, namespace: str, define: Define
) -> None:
    widgets = await define(OPEN_SCHEMA)
    made = await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": {"a": 1}}, namespace=namespace)
    assert made["metadata"]["generation"] == 1

    async def after(patch: Manifest, subresource: str | None = None) -> int:
        patched = await cluster.patch(
            widgets, "w", patch, patch_type=PatchType.MERGE, namespace=namespace, subresource=subresource
        )
        return int(patched["metadata"]["generation"])

    assert await after({"metadata": {"labels": {"x": "y"}, "annotations": {"x": "y"}}}) == 1
    assert await after({"status": {"phase": "Open"}}, "status") == 1
    assert await after({"spec": {"a": 2}}) == 2


async def test_status_writes_race_on_the_version(cluster: Cluster, namespace: str, define: Define) -> None:
    widgets = await define(OPEN_SCHEMA)
    made = await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": {"a": 1}}, namespace=namespace)
    first = {**made, "status": {"phase": "Open"}}
    await cluster.update(widgets, first, namespace=namespace, subresource="status")
    with pytest.raises(ApiError) as refused:
        await cluster.update(
            widgets, {**made, "status": {"phase": "Closed"}}, namespace=namespace, subresource="status"
        )
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")
    found = await cluster.get(widgets, "w", namespace=namespace)
    assert found["status"] == {"phase": "Open"}


async def test_an_update_without_version_is_refused(cluster: Cluster, namespace: str, define: Define) -> None:
    widgets = await define(OPEN_SCHEMA)
    await cluster.create(widgets, {"metadata": {"name": "w"}, "spec": {"a": 1}}, namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.update(widgets, {"metadata": {"name": "w"}, "spec": {"a": 2}}, namespace=namespace)
    assert refused.value.status == 422
    assert [c["field"] for c in refused.value.details["causes"]] == ["metadata.resourceVersion"]


async def test_without_status_subresource_status_is_a_plain_field(
    cluster: Cluster, namespace: str, define: Define
) -> None:
    widgets = await define(OPEN_SCHEMA, status=False)
    body = {"metadata": {"name": "w"}, "status": {"phase": "Open"}}
    made = await cluster.create(widgets, body, namespace=namespace)
    assert made["status"] == {"phase": "Open"}
    with pytest.raises(ApiError) as refused:
        await cluster.update(widgets, made, namespace=namespace, subresource="status")
    assert refused.value.status == 404


async def test_an_unknown_subresource_is_not_found(cluster: Cluster, namespace: str) -> None:
    made = await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.update(CONFIG_MAPS, made, namespace=namespace, subresource="nonsense")
    assert refused.value.status == 404


async def test_finalizers_of_a_custom_resource(cluster: Cluster, namespace: str, define: Define) -> None:
    widgets = await define(OPEN_SCHEMA)
    metadata = {"name": "w", "finalizers": ["clusterheal.io/hold"]}
    made = await cluster.create(widgets, {"metadata": metadata, "spec": {"a": 1}}, namespace=namespace)
    await cluster.delete(widgets, "w", namespace=namespace)
    ending = await cluster.get(widgets, "w", namespace=namespace)
    assert ending["metadata"]["generation"] == made["metadata"]["generation"] + 1
    patch = {"metadata": {"finalizers": []}}
    await cluster.patch(widgets, "w", patch, patch_type=PatchType.MERGE, namespace=namespace)
    with pytest.raises(ApiError) as refused:
        await cluster.get(widgets, "w", namespace=namespace)
    assert refused.value.status == 404
