"""The HTTP client's manners: what it repeats, what it never repeats, and how it names failures."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import respx
import stamina
import trustme

from clusterheal.kube.credentials import Credentials
from clusterheal.kube.http import HttpCluster
from clusterheal.kube.ports import ApiError, ApiRetryable, PatchType
from clusterheal.kube.resources import CONFIG_MAPS

SERVER = "http://api.example"
PATH = f"{SERVER}/api/v1/namespaces/default/configmaps"


@pytest.fixture(autouse=True)
def _no_waiting() -> AsyncIterator[None]:
    stamina.set_testing(True, attempts=4)
    yield
    stamina.set_testing(False)


@pytest.fixture
async def cluster() -> AsyncIterator[HttpCluster]:
    async with HttpCluster(Credentials(server=SERVER, token="t0")) as opened:
        yield opened


def status(code: int, reason: str, **details: Any) -> httpx.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": "no", "details": details}
    return httpx.Response(code, json=body)


@respx.mock
async def test_a_read_is_repeated_until_it_succeeds(cluster: HttpCluster) -> None:
    route = respx.get(f"{PATH}/a").mock(
        side_effect=[
            status(503, "ServiceUnavailable"),
            httpx.ConnectError("refused"),
            httpx.Response(200, json={"a": 1}),
        ]
    )
    assert await cluster.get(CONFIG_MAPS, "a", namespace="default") == {"a": 1}
    assert route.call_count == 3


@respx.mock
async def test_a_read_gives_up_after_four_attempts(cluster: HttpCluster) -> None:
    route = respx.get(f"{PATH}/a").mock(return_value=status(503, "ServiceUnavailable"))
    with pytest.raises(ApiRetryable) as failed:
        await cluster.get(CONFIG_MAPS, "a", namespace="default")
    assert failed.value.status == 503
    assert route.call_count == 4


@respx.mock
@pytest.mark.parametrize("answer", [status(500, "InternalError"), httpx.ReadTimeout("late")], ids=["500", "timeout"])
async def test_a_write_is_sent_once(cluster: HttpCluster, answer: Any) -> None:
    effect = {"side_effect": answer} if isinstance(answer, Exception) else {"return_value": answer}
    route = respx.patch(f"{PATH}/a").mock(**effect)
    with pytest.raises(ApiRetryable):
        await cluster.patch(CONFIG_MAPS, "a", {}, patch_type=PatchType.MERGE, namespace="default")
    assert route.call_count == 1


@respx.mock
async def test_retry_after_is_passed_on(cluster: HttpCluster) -> None:
    answer = status(429, "TooManyRequests")
    answer.headers["Retry-After"] = "10"
    respx.post(PATH).mock(return_value=answer)
    with pytest.raises(ApiRetryable) as failed:
        await cluster.create(CONFIG_MAPS, {"metadata": {"name": "a"}}, namespace="default")
    assert (failed.value.status, failed.value.retry_after) == (429, 10.0)


@respx.mock
async def test_a_plain_404_reads_as_an_unknown_resource(cluster: HttpCluster) -> None:
    respx.get(f"{PATH}/a").mock(return_value=httpx.Response(404, text="404 page not found\n"))
    with pytest.raises(ApiError) as failed:
        await cluster.get(CONFIG_MAPS, "a", namespace="default")
    assert (failed.value.status, failed.value.reason) == (404, "NotFound")


@respx.mock
async def test_pages_are_followed_and_an_expired_snapshot_starts_over(cluster: HttpCluster) -> None:
    def page(names: str, token: str = "") -> httpx.Response:
        items = [{"metadata": {"name": n}} for n in names]
        return httpx.Response(200, json={"metadata": {"resourceVersion": "7", "continue": token}, "items": items})

    route = respx.get(PATH).mock(side_effect=[page("ab", "next"), status(410, "Expired"), page("abc")])
    listed = await cluster.list(CONFIG_MAPS, namespace="default")
    assert [item["metadata"]["name"] for item in listed.items] == ["a", "b", "c"]
    assert listed.items[0]["kind"] == "ConfigMap"
    assert [call.request.url.params.get("continue") for call in route.calls] == [None, "next", None]


@respx.mock
async def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    import os

    token = tmp_path / "token"
    token.write_text("one\n")
    route = respx.get(f"{PATH}/a").mock(return_value=httpx.Response(200, json={}))
    async with HttpCluster(Credentials(server=SERVER, token_file=token)) as cluster:
        await cluster.get(CONFIG_MAPS, "a", namespace="default")
        token.write_text("two\n")
        os.utime(token, ns=(1, 1))
        await cluster.get(CONFIG_MAPS, "a", namespace="default")
    assert [call.request.headers["Authorization"] for call in route.calls] == ["Bearer one", "Bearer two"]


@respx.mock
async def test_watch_events_survive_any_cut_of_the_stream(cluster: HttpCluster) -> None:
    async def stream() -> AsyncIterator[bytes]:
        records = [{"type": t, "object": {"metadata": {"name": "a"}}} for t in ("ADDED", "DELETED")]
        text = b"".join(orjson.dumps(record) + b"\n" for record in records)
        for n in range(0, len(text), 7):
            yield text[n : n + 7]

    respx.get(PATH).mock(return_value=httpx.Response(200, content=stream()))
    events = [e async for e in cluster.watch(CONFIG_MAPS, resource_version="1", namespace="default")]
    assert [e.type for e in events] == ["ADDED", "DELETED"]


@respx.mock
async def test_an_error_event_raises_what_it_says(cluster: HttpCluster) -> None:
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (9)"}
    respx.get(PATH).mock(
        return_value=httpx.Response(200, content=orjson.dumps({"type": "ERROR", "object": gone}) + b"\n")
    )
    with pytest.raises(ApiError) as failed:
        async for _ in cluster.watch(CONFIG_MAPS, resource_version="1", namespace="default"):
            pass
    assert failed.value.status == 410


@respx.mock
async def test_a_watch_that_breaks_is_retryable(cluster: HttpCluster) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b'{"type":"ADDED","object":{"metadata":{}}}\n'
        raise httpx.RemoteProtocolError("peer closed connection")

    respx.get(PATH).mock(return_value=httpx.Response(200, content=stream()))
    with pytest.raises(ApiRetryable, match="no answer from the API server"):
        async for _ in cluster.watch(CONFIG_MAPS, resource_version="1", namespace="default"):
            pass


async def test_an_untrusted_certificate_is_named_and_not_retried(tmp_path: Path) -> None:
    calls = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.close()

    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(server_context)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
    port = server.sockets[0].getsockname()[1]
    async with server, HttpCluster(Credentials(server=f"https://127.0.0.1:{port}")) as cluster:
        with pytest.raises(ApiError) as failed:
            await cluster.get(CONFIG_MAPS, "a", namespace="default")
    assert failed.value.reason == "UntrustedCertificate"
    assert "kubernetes.ca_file" in failed.value.message
    assert calls == 0


@respx.mock
@pytest.mark.parametrize("line", [b"<html>gateway</html>", b"[]", b'{"type": "ADDED"}'])
async def test_a_watch_through_a_proxy_that_talks_back_is_tried_again(cluster: HttpCluster, line: bytes) -> None:
    respx.get(PATH).mock(return_value=httpx.Response(200, content=line + b"\n"))
    with pytest.raises(ApiRetryable, match="watch configmaps: expected"):
        [e async for e in cluster.watch(CONFIG_MAPS, resource_version="1", namespace="default")]
