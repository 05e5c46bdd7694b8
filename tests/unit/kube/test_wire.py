"""The HTTP front beyond the port: access, pages, tables, bookmarks, content types, discovery."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from clusterheal.errors import InvalidInput
from clusterheal.kube.credentials import Credentials
from clusterheal.kube.http import HttpCluster
from clusterheal.kube.ports import ApiError, ApiRetryable
from clusterheal.kube.resources import POD_DISRUPTION_BUDGETS, PODS, TOKEN_REVIEWS
from clusterheal.local.kube.access import AccessControl, Rule, User
from clusterheal.local.kube.emulator import Emulator, serve
from clusterheal.local.kube.server import KubeApp

MAPS = "/api/v1/namespaces/default/configmaps"


def access() -> AccessControl:
    users = {"reader-token": User(name="reader"), "root-token": User(name="root", groups=("system:masters",))}
    rule = Rule(subjects=("reader",), verbs=("get", "list"), api_groups=("",), resources=("pods",), namespace="default")
    return AccessControl(tokens=users, rules=[rule], enforce=True)


@pytest.fixture
def emulator() -> Emulator:
    return Emulator(seed=1, platform_types=False)


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=KubeApp(emulator.api))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as opened:
        yield opened


async def fill(client: httpx.AsyncClient, names: str) -> None:
    for name in names:
        answer = await client.post(MAPS, json={"metadata": {"name": name}})
        assert answer.status_code == 201


async def test_missing_permission_is_named() -> None:
    emulator = Emulator(access=access())
    async with serve(emulator) as url:
        async with HttpCluster(Credentials(server=url, token="reader-token")) as reader:
            assert (await reader.list(PODS, namespace="default")).items == []
            with pytest.raises(ApiError) as refused:
                await reader.evict("web-1", namespace="default")
        async with HttpCluster(Credentials(server=url, token="wrong")) as stranger:
            with pytest.raises(ApiError) as unknown:
                await stranger.list(PODS, namespace="default")
    assert (refused.value.status, refused.value.reason) == (403, "Forbidden")
    assert refused.value.message == (
        'pods "web-1" is forbidden: User "reader" cannot create resource "pods/eviction" in API group "" '
        'in the namespace "default"'
    )
    assert (unknown.value.status, unknown.value.reason) == (401, "Unauthorized")


async def test_token_review_knows_the_table() -> None:
    cluster = Emulator(access=access()).cluster(user=User(name="root", groups=("system:masters",)))
    answered = await cluster.create(TOKEN_REVIEWS, {"spec": {"token": "reader-token"}})
    assert answered["status"]["authenticated"] is True
    assert answered["status"]["user"]["username"] == "reader"


async def test_pages_show_one_moment(client: httpx.AsyncClient) -> None:
    await fill(client, "abcd")
    first = (await client.get(MAPS, params={"limit": 2})).json()
    assert [i["metadata"]["name"] for i in first["items"]] == ["a", "b"]
    assert first["metadata"]["remainingItemCount"] == 2
    await client.delete(f"{MAPS}/c")
    await client.post(MAPS, json={"metadata": {"name": "cc"}})
    token = first["metadata"]["continue"]
    second = (await client.get(MAPS, params={"limit": 2, "continue": token})).json()
    assert [i["metadata"]["name"] for i in second["items"]] == ["c", "d"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in second["metadata"]


async def test_a_page_of_a_forgotten_moment_is_expired(client: httpx.AsyncClient, emulator: Emulator) -> None:
    await fill(client, "abc")
    token = (await client.get(MAPS, params={"limit": 1})).json()["metadata"]["continue"]
    await client.delete(f"{MAPS}/b")
    emulator.api.store.compact()
    answer = await client.get(MAPS, params={"limit": 1, "continue": token})
    assert (answer.status_code, answer.json()["reason"]) == (410, "Expired")


async def events(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    answer = await client.get(MAPS, params={"watch": "true", "timeoutSeconds": "1", **params})
    return [orjson.loads(line) for line in answer.content.splitlines()]


async def test_a_watch_older_than_the_history_ends_in_an_error_event(
    client: httpx.AsyncClient, emulator: Emulator
) -> None:
    await fill(client, "a")
    emulator.api.store.compact()
    (event,) = await events(client, resourceVersion="1")
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
    assert event["object"]["message"].startswith("too old resource version: 1 (")


async def test_idle_watches_that_allow_it_get_bookmarks(emulator: Emulator) -> None:
    app = KubeApp(emulator.api, bookmark_seconds=0.2)
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://emulator") as client:
        await fill(client, "a")
        version = str(emulator.api.store.revision)
        silent = await events(client, resourceVersion=version)
        marked = await events(client, resourceVersion=version, allowWatchBookmarks="true")
    assert silent == []
    assert {e["type"] for e in marked} == {"BOOKMARK"}
    assert marked[0]["object"]["metadata"]["resourceVersion"] == version
    assert marked[0]["object"]["kind"] == "ConfigMap"


async def test_a_watch_without_version_begins_with_what_is_there(client: httpx.AsyncClient) -> None:
    await fill(client, "ab")
    found = await events(client)
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in found] == [("ADDED", "a"), ("ADDED", "b")]


@pytest.mark.parametrize(
    ("params", "headers", "status", "reason"),
    [
        ({"dryRun": "Some"}, {"content-type": "application/merge-patch+json"}, 422, "Invalid"),
        ({"force": "true"}, {"content-type": "application/merge-patch+json"}, 422, "Invalid"),
        ({}, {"content-type": "text/plain"}, 415, "UnsupportedMediaType"),
        ({}, {"content-type": "application/apply-patch+yaml"}, 422, "Invalid"),
    ],
    ids=["dryRun", "force without apply", "unknown patch type", "apply without manager"],
)
async def test_bad_patch_requests(
    client: httpx.AsyncClient, params: dict[str, str], headers: dict[str, str], status: int, reason: str
) -> None:
    await fill(client, "a")
    body = orjson.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}})
    answer = await client.patch(f"{MAPS}/a", params=params, headers=headers, content=body)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [(b"{", "application/json", 400), (b"k8s\x00", "application/vnd.kubernetes.protobuf", 415)],
    ids=["broken JSON", "protobuf"],
)
async def test_bodies_that_cannot_be_read(client: httpx.AsyncClient, body: bytes, kind: str, status: int) -> None:
    answer = await client.post(MAPS, content=body, headers={"content-type": kind})
    assert answer.status_code == status


async def test_a_body_of_another_kind_or_name_is_a_bad_request(client: httpx.AsyncClient) -> None:
    await fill(client, "a")
    wrong_kind = await client.post(MAPS, json={"kind": "Secret", "metadata": {"name": "b"}})
    wrong_name = await client.put(f"{MAPS}/a", json={"metadata": {"name": "b"}})
    assert (wrong_kind.status_code, wrong_name.status_code) == (400, 400)
    assert wrong_name.json()["message"] == "the name of the object (b) does not match the name on the URL (a)"


async def test_tables_are_what_kubectl_prints(client: httpx.AsyncClient, emulator: Emulator) -> None:
    emulator.load([{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"unschedulable": True}}])
    answer = await client.get("/api/v1/nodes", headers={"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"})
    table = answer.json()
    assert [c["name"] for c in table["columnDefinitions"]] == ["Name", "Status", "Roles", "Version", "Age"]
    assert table["rows"][0]["cells"][:3] == ["n", "NotReady,SchedulingDisabled", "<none>"]


async def test_discovery_lists_subresources(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/api/v1")).json()["resources"]
    assert {"pods", "pods/status", "pods/eviction", "pods/log"} <= {line["name"] for line in listed}
    groups = (await client.get("/apis")).json()["groups"]
    assert "apps" in {g["name"] for g in groups}
    assert (await client.get("/apis/nothing.example")).status_code == 404


async def test_a_fresh_budget_asks_to_come_back_later() -> None:
    cluster = Emulator().cluster()
    await cluster.create(
        POD_DISRUPTION_BUDGETS,
        {"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}},
        namespace="default",
    )
    spec = {"containers": [{"name": "app", "image": "app:1"}]}
    pod = await cluster.create(
        PODS, {"metadata": {"name": "web-1", "labels": {"app": "web"}}, "spec": spec}, namespace="default"
    )
    pod["status"]["phase"] = "Running"
    await cluster.update(PODS, pod, namespace="default", subresource="status")
    with pytest.raises(ApiRetryable) as refused:
        await cluster.evict("web-1", namespace="default")
    assert (refused.value.status, refused.value.retry_after) == (429, 10)


async def test_logs_are_what_the_simulation_says() -> None:
    emulator = Emulator()
    cluster = emulator.cluster()
    spec = {"containers": [{"name": "app", "image": "app:1"}]}
    await cluster.create(PODS, {"metadata": {"name": "web-1"}, "spec": spec}, namespace="default")
    emulator.api.set_log("default", "web-1", "one\ntwo\nthree\n")
    assert await cluster.pod_log("web-1", namespace="default", tail_lines=2) == "two\nthree\n"
    with pytest.raises(ApiError, match="previous terminated container"):
        await cluster.pod_log("web-1", namespace="default", previous=True)


async def test_a_taken_port_is_named() -> None:
    async with serve(Emulator()) as url:
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(InvalidInput, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serve(Emulator(), port=port):
                pass
