"""However a run ends before its time, it says why, and nothing of it is left running or half-written.

The last stages' ends are in tests/e2e, which gets there.
"""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from demo_kit import DemoRun, require_complaint

pytestmark = [pytest.mark.local, pytest.mark.timeout(180)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[DemoRun]:
    started = DemoRun.start(tmp_path / "out", "--days", "7")
    yield started
    started.close()


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("metrics", signal.SIGINT),
        ("metrics", signal.SIGTERM),
        ("registry", signal.SIGINT),
        ("pipeline", signal.SIGINT),
    ],
)
def test_an_interruption_ends_everything_and_is_told(run: DemoRun, stage: str, number: signal.Signals) -> None:
    run.wait_for(f"{stage:<10} begins", seconds=120)
    run.process.send_signal(number)
    assert run.end(seconds=30) == 128 + number
    told = require_complaint(run.process.returncode, run.errors)
    assert f"interrupted by {number.name}; everything that was started has been ended" in told
    assert run.record["result"] == "failed"
    assert [stage["ok"] for stage in run.record["stages"]][-1] is False
    run.require_ended()


def test_an_interruption_that_is_repeated_still_ends_everything(run: DemoRun) -> None:
    run.wait_for("pipeline   begins", seconds=120)
    for _ in range(3):
        run.process.send_signal(signal.SIGINT)
    assert run.end(seconds=30) == 130
    run.require_ended()


@pytest.mark.parametrize(
    ("stage", "words", "name"),
    [
        ("metrics", ("emulator",), "kubernetes"),
        ("metrics", ("prometheus_backfill",), "backfill"),
        ("pipeline", ("clusterheal.local.exporter",), "exporter"),
        ("pipeline", ("--config.file", "alertmanager"), "alertmanager"),
        ("pipeline", ("--storage.tsdb.path",), "prometheus"),
        ("pipeline", ("registry.server",), "registry"),
        ("pipeline", ("pipeline", "run", "train"), "pipeline"),
        ("pipeline", ("clusterheal.local.runner",), "pipeline"),
    ],
)
def test_a_killed_part_is_named(run: DemoRun, stage: str, words: tuple[str, ...], name: str) -> None:
    run.wait_for(f"{stage:<10} begins", seconds=120)
    run.child_soon(*words, seconds=30).kill()
    assert run.end(seconds=40) == 1
    told = require_complaint(run.process.returncode, run.errors)
    assert re.search(rf"^clusterheal: {name} (was killed by SIGKILL|exited with code 1)", told), told
    assert "was killed by SIGKILL" in told  # the runner is a child's child, named in its parent's last words
    assert run.record["result"] == "failed"
    run.require_ended()


@pytest.fixture
def copying(tmp_path: Path) -> Iterator[DemoRun]:
    """A run that has begun to copy the history of a server which takes its time."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = DemoRun.start(tmp_path / "out", "--prometheus-url", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started.child_soon("clusterheal.cli", "collect", seconds=60)
        yield started
        started.close()


def interrupt(run: DemoRun) -> None:
    run.process.send_signal(signal.SIGINT)


def kill_source(run: DemoRun) -> None:
    run.child("clusterheal.cli", "collect").kill()


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (interrupt, 130, "interrupted by SIGINT; everything that was started has been ended"),
        (kill_source, 1, "source was killed by SIGKILL"),
    ],
)
def test_a_history_that_is_being_copied(copying: DemoRun, end: Callable[[DemoRun], None], code: int, told: str) -> None:
    end(copying)
    assert copying.end(seconds=30) == code
    assert told in require_complaint(copying.process.returncode, copying.errors)
    assert copying.record["result"] == "failed"
    assert [(stage["name"], stage["ok"]) for stage in copying.record["stages"]] == [("source", False)]
    copying.require_ended()
