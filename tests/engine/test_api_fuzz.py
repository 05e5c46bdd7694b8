"""Schemathesis against the served OpenAPI document: whatever it sends, no 5xx and only what the document says."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from api_kit import ALERT_TOKEN, RIGHTS, opened
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import just
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

EXAMPLES = 15  # per route; `make test` has to stay short
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API on a real socket, in a thread with a loop of its own."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with opened(tmp_path_factory.mktemp("api")) as api:
            api.app.user_middleware = []  # a fuzzer is quicker than the rate limit allows
            server = uvicorn.Server(uvicorn.Config(api.app, log_level="critical", lifespan="off"))
            task = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.02)
            ready.set()
            await asyncio.to_thread(stop.wait)
            server.should_exit = True
            await task

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop.set()
    thread.join(20)


def test_no_request_breaks_the_api(served: str) -> None:
    schema = schemathesis.openapi.from_url(f"{served}/openapi.json")
    tried = 0
    for operation in (found.ok() for found in schema.get_all_operations()):
        route = (operation.method.upper(), operation.path)
        token = ALERT_TOKEN if route == ("POST", "/alerts") else f"token-{_right(*route)}"
        headers = {"Authorization": f"Bearer {token}"}

        @given(case=operation.as_strategy(), headers=just(headers))
        @SETTINGS
        def call(case: schemathesis.Case, headers: dict[str, str]) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(headers=headers, checks=CHECKS)

        call()
    assert tried > EXAMPLES


def _right(method: str, path: str) -> str:
    if method == "GET":
        return "read"
    found = next((r for r in RIGHTS if r in path), None)
    return {"/api/v1/anomalies": "report", "/api/v1/remediate": "act"}.get(path, found or "approve")
