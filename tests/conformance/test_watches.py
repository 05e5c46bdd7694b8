"""Watches: nothing missed, nothing twice, selectors seen from inside, 410 for what is too old."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conformance_kit import OPEN_SCHEMA, Define, config_map

from clusterheal.kube.ports import ApiError, Cluster, PatchType, Resource, WatchEvent
from clusterheal.kube.resources import CONFIG_MAPS

SECONDS = 3.0


async def collect(cluster: Cluster, resource: Resource, version: str, count: int, **more: Any) -> list[WatchEvent]:
    """The first `count` events that are no bookmarks, or what came until the watch ended."""
    found: list[WatchEvent] = []
    async for event in cluster.watch(resource, resource_version=version, timeout_seconds=SECONDS, **more):
        if event.type != "BOOKMARK" and event.object["metadata"]["name"] != "kube-root-ca.crt":
            found.append(event)
        if len(found) == count:
            break
    return found


def seen(events: list[WatchEvent]) -> list[tuple[str, str]]:
    return [(event.type, event.object["metadata"]["name"]) for event in events]


async def merge(cluster: Cluster, namespace: str, name: str, patch: dict[str, Any]) -> None:
    await cluster.patch(CONFIG_MAPS, name, patch, patch_type=PatchType.MERGE, namespace=namespace)


async def test_watch_replays_what_came_after_the_list(cluster: Cluster, namespace: str) -> None:
    await cluster.create(CONFIG_MAPS, config_map("before"), namespace=namespace)
    start = (await cluster.list(CONFIG_MAPS, namespace=namespace)).resource_version
    await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    await merge(cluster, namespace, "a", {"data": {"a": "2"}})
    await cluster.delete(CONFIG_MAPS, "a", namespace=namespace)
    events = await collect(cluster, CONFIG_MAPS, start, 3, namespace=namespace)
    assert seen(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    versions = [int(e.object["metadata"]["resourceVersion"]) for e in events]
    assert versions == sorted(set(versions))
    assert versions[0] > int(start)


async def test_watch_delivers_what_happens_while_it_runs(cluster: Cluster, namespace: str) -> None:
    start = (await cluster.list(CONFIG_MAPS, namespace=namespace)).resource_version
    watching = asyncio.ensure_future(collect(cluster, CONFIG_MAPS, start, 2, namespace=namespace))
    await asyncio.sleep(0.1)
    await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    await cluster.delete(CONFIG_MAPS, "a", namespace=namespace)
    assert seen(await watching) == [("ADDED", "a"), ("DELETED", "a")]


async def test_watch_resumes_without_gap_or_repeat(cluster: Cluster, namespace: str) -> None:
    start = (await cluster.list(CONFIG_MAPS, namespace=namespace)).resource_version
    for name in ("a", "b", "c"):
        await cluster.create(CONFIG_MAPS, config_map(name), namespace=namespace)
    (first,) = await collect(cluster, CONFIG_MAPS, start, 1, namespace=namespace)
    rest = await collect(cluster, CONFIG_MAPS, first.object["metadata"]["resourceVersion"], 2, namespace=namespace)
    assert seen([first, *rest]) == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]


async def test_entering_a_selector_is_added_and_leaving_it_deleted(cluster: Cluster, namespace: str) -> None:
    start = (await cluster.list(CONFIG_MAPS, namespace=namespace)).resource_version
    await cluster.create(CONFIG_MAPS, config_map("a"), namespace=namespace)
    await merge(cluster, namespace, "a", {"metadata": {"labels": {"on": "yes"}}})
    await merge(cluster, namespace, "a", {"data": {"a": "2"}})
    await merge(cluster, namespace, "a", {"metadata": {"labels": {"on": "no"}}})
    events = await collect(cluster, CONFIG_MAPS, start, 3, namespace=namespace, label_selector="on=yes")
    assert seen(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_watch_of_one_namespace_sees_no_other(cluster: Cluster, namespace: str) -> None:
    listed = await cluster.list(CONFIG_MAPS, namespace=namespace)
    name = f"elsewhere-{namespace[-8:]}"
    await cluster.create(CONFIG_MAPS, config_map(name), namespace="default")
    await cluster.delete(CONFIG_MAPS, name, namespace="default")
    await cluster.create(CONFIG_MAPS, config_map("here"), namespace=namespace)
    events = await collect(cluster, CONFIG_MAPS, listed.resource_version, 1, namespace=namespace)
    assert seen(events) == [("ADDED", "here")]


async def test_watch_ends_by_itself_at_its_timeout(cluster: Cluster, namespace: str) -> None:
    start = (await cluster.list(CONFIG_MAPS, namespace=namespace)).resource_version

    async def drain() -> None:
        async for _ in cluster.watch(CONFIG_MAPS, resource_version=start, namespace=namespace, timeout_seconds=1.0):
            pass

    await asyncio.wait_for(drain(), timeout=10)


async def test_watch_from_before_the_history_is_expired(cluster: Cluster, namespace: str, define: Define) -> None:
    widgets = await define(OPEN_SCHEMA)
    with pytest.raises(ApiError) as refused:
        async for _ in cluster.watch(widgets, resource_version="1", namespace=namespace, timeout_seconds=SECONDS):
            pass
    assert refused.value.status == 410
    assert refused.value.reason in ("Expired", "Gone")


async def test_a_watch_on_an_unknown_resource_is_not_found(cluster: Cluster, namespace: str) -> None:
    unknown = Resource(group="clusterheal.invalid", version="v1", plural="nothings", kind="Nothing")
    with pytest.raises(ApiError) as refused:
        async for _ in cluster.watch(unknown, resource_version="1", namespace=namespace, timeout_seconds=SECONDS):
            pass
    assert refused.value.status == 404
