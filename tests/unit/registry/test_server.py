"""The development server answers the public `model-registry` client, under both API prefixes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from clusterheal.errors import PermanentError
from clusterheal.local.registry.server import PREFIXES, bind


def _run(call: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(call)


def test_the_public_client_registers_lists_and_updates(url: str) -> None:
    from model_registry import ModelRegistry

    client = ModelRegistry(url, author="tester", is_secure=False, user_token="unused", async_runner=_run)
    client.register_model(
        "m",
        "s3://bucket/m/",
        model_format_name="onnx",
        model_format_version="1",
        version="1",
        metadata={"a": 1, "b": 2.5},
    )
    version = client.get_model_version("m", "1")
    assert version is not None
    assert version.custom_properties == {"a": 1, "b": 2.5}
    assert version.author == "tester"
    artifact = client.get_model_artifact("m", "1")
    assert artifact is not None
    assert artifact.uri == "s3://bucket/m/"
    version.description = "changed"
    assert client.update(version).description == "changed"
    assert [m.name for m in client.get_registered_models()] == ["m"]
    assert [v.name for v in client.get_model_versions("m")] == ["1"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_both_prefixes_show_the_same_models(url: str, prefix: str) -> None:
    other = PREFIXES[1 - PREFIXES.index(prefix)]
    made = httpx.post(f"{url}{prefix}/registered_models", json={"name": "m"})
    assert made.status_code == 201
    assert httpx.get(f"{url}{other}/registered_models").json()["items"] == [made.json()]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/registered_models", "{", 400),
        ("POST", "/registered_models", "[]", 400),
        ("POST", "/registered_models", "{}", 400),
        ("POST", "/model_versions", '{"name": "1", "registeredModelId": "99"}', 404),
        ("POST", "/model_versions", '{"name": "1"}', 404),
        ("GET", "/registered_models/99", None, 404),
        ("GET", "/registered_models/99/versions", None, 404),
        ("GET", "/registered_model", None, 400),
        ("GET", "/registered_model?name=none", None, 404),
        ("GET", "/registered_models?pageSize=x", None, 400),
        ("PATCH", "/model_versions/99", "{}", 404),
        ("GET", "/nothing", None, 404),
    ],
)
def test_wrong_calls_are_answered_with_their_status(
    url: str, method: str, path: str, body: str | None, status: int
) -> None:
    answer = httpx.request(method, f"{url}{PREFIXES[0]}{path}", content=body)
    assert answer.status_code == status


def test_a_taken_name_is_a_conflict(url: str) -> None:
    for expected in (201, 409):
        assert httpx.post(f"{url}{PREFIXES[0]}/registered_models", json={"name": "m"}).status_code == expected


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as listener, pytest.raises(PermanentError, match="choose another port"):
        bind("127.0.0.1", listener.getsockname()[1])
