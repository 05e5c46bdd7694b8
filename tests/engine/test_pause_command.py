"""`clusterheal pause` and `clusterheal resume` over HTTP: automation stops although no engine answers."""

from __future__ import annotations

import asyncio
import getpass
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from typer.testing import CliRunner

from clusterheal.cli import build_app
from clusterheal.clock import SystemClock
from clusterheal.kube.resources import CONFIG_MAPS
from clusterheal.local.kube.emulator import Emulator
from clusterheal.local.kube.server import KubeApp

PLACE = "self-healing-platform"


@pytest.fixture
def server() -> Iterator[tuple[str, Emulator]]:
    emulator = Emulator(clock=SystemClock())
    emulator.load([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE}}])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = uvicorn.Server(uvicorn.Config(KubeApp(emulator.api), log_config=None))
        thread = threading.Thread(target=app.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", emulator
        app.should_exit = True
        thread.join(timeout=10)


def test_one_command_pauses_and_one_resumes(server: tuple[str, Emulator]) -> None:
    url, emulator = server
    run = CliRunner().invoke
    done = run(build_app(), ["pause", "--reason", "migration", "--minutes", "30", "--server", url])
    assert done.exit_code == 0, done.output
    assert "paused in self-healing-platform until" in done.output
    found = asyncio.run(emulator.cluster().get(CONFIG_MAPS, "clusterheal-pause", namespace=PLACE))
    assert found["data"]["reason"] == "migration"
    assert "resumed" in run(build_app(), ["resume", "--server", url]).output
    assert "nothing was paused" in run(build_app(), ["resume", "--server", url]).output


def test_a_user_without_a_name_pauses_too(server: tuple[str, Emulator], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the engine's pod the user is a number that no passwd knows."""
    url, emulator = server

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1000660000")

    monkeypatch.setattr(getpass, "getuser", nobody)
    done = CliRunner().invoke(build_app(), ["pause", "--reason", "migration", "--server", url])
    assert done.exit_code == 0, done.output
    found = asyncio.run(emulator.cluster().get(CONFIG_MAPS, "clusterheal-pause", namespace=PLACE))
    assert found["data"]["by"].startswith("user ")
