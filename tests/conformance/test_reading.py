"""Lists and selectors."""

from __future__ import annotations

import pytest
from conformance_kit import config_map

from clusterheal.kube.ports import ApiError, Cluster
from clusterheal.kube.resources import CONFIG_MAPS, PODS

LABELS = {
    "a": {"tier": "web", "env": "dev"},
    "b": {"tier": "web"},
    "c": {"tier": "db", "env": "prod"},
    "d": {},
}


async def fill(cluster: Cluster, namespace: str) -> None:
    for name, labels in LABELS.items():
        await cluster.create(CONFIG_MAPS, config_map(name, labels=labels), namespace=namespace)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("tier=web", "ab"),
        ("tier==web", "ab"),
        ("tier!=web", "cd"),
        ("tier=web,env=dev", "a"),
        ("tier in (web, db)", "abc"),
        ("tier notin (web)", "cd"),
        ("env", "ac"),
        ("!env", "bd"),
        ("tier in (web),!env", "b"),
        ("tier=none", ""),
    ],
)
async def test_label_selectors(cluster: Cluster, namespace: str, selector: str, expected: str) -> None:
    await fill(cluster, namespace)
    listed = await cluster.list(CONFIG_MAPS, namespace=namespace, label_selector=selector)
    names = [item["metadata"]["name"] for item in listed.items]
    assert [name for name in names if name in LABELS] == list(expected)


async def test_a_malformed_label_selector_is_a_bad_request(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(ApiError) as refused:
        await cluster.list(CONFIG_MAPS, namespace=namespace, label_selector="tier in web")
    assert (refused.value.status, refused.value.reason) == (400, "BadRequest")


async def test_field_selector_by_name(cluster: Cluster, namespace: str) -> None:
    await fill(cluster, namespace)
    chosen = await cluster.list(CONFIG_MAPS, namespace=namespace, field_selector="metadata.name=b")
    assert [item["metadata"]["name"] for item in chosen.items] == ["b"]
    others = await cluster.list(CONFIG_MAPS, namespace=namespace, field_selector="metadata.name!=b")
    assert "b" not in {item["metadata"]["name"] for item in others.items}


async def test_field_selector_over_an_unknown_field_is_a_bad_request(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(ApiError) as refused:
        await cluster.list(CONFIG_MAPS, namespace=namespace, field_selector="data.a=1")
    assert (refused.value.status, refused.value.reason) == (400, "BadRequest")
    assert '"data.a" is not a known field selector' in refused.value.message
    with pytest.raises(ApiError) as refused:
        await cluster.list(PODS, namespace=namespace, field_selector="data.a=1")
    assert "field label not supported: data.a" in refused.value.message


async def test_pods_are_selected_by_node(cluster: Cluster, namespace: str) -> None:
    listed = await cluster.list(PODS, namespace=namespace, field_selector="spec.nodeName=no-such-node")
    assert listed.items == []


async def test_list_is_of_one_namespace_in_the_order_of_names(cluster: Cluster, namespace: str) -> None:
    for name in ("z", "m", "b"):
        await cluster.create(CONFIG_MAPS, config_map(name), namespace=namespace)
    listed = await cluster.list(CONFIG_MAPS, namespace=namespace)
    names = [item["metadata"]["name"] for item in listed.items if item["metadata"]["name"] in "zmb"]
    assert names == ["b", "m", "z"]
    assert {item["metadata"]["namespace"] for item in listed.items} == {namespace}
    assert listed.resource_version.isdigit()


async def test_list_over_all_namespaces_finds_it_too(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, config_map("a", labels={"run": namespace}), namespace=namespace)
    listed = await cluster.list(CONFIG_MAPS, label_selector=f"run={namespace}")
    assert [(i["metadata"]["namespace"], i["metadata"]["name"]) for i in listed.items] == [(namespace, "a")]
