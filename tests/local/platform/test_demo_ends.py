"""However a run ends before its time, it says why, and nothing of it is left running or half-written.

The last stages' ends are in tests/e2e, which gets there.
"""

from __future__ import annotations

import asyncio
import io
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from demo_kit import DemoRun, left_behind, require_complaint
from rich.console import Console

from clusterheal.local import demo_scores
from clusterheal.local.demo import Interrupted, run_demo
from clusterheal.local.demo_config import DemoConfig
from clusterheal.local.demo_incident import IncidentRun
from clusterheal.local.demo_stages import HEALED, Stages
from clusterheal.local.faults import Fault
from clusterheal.local.report_record import RunRecord
from clusterheal.local.timeline import Timeline

pytestmark = [pytest.mark.local, pytest.mark.timeout(180)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., DemoRun]]:
    """Starts a run that is ended whatever becomes of the test."""
    runs: list[DemoRun] = []

    def begin(*options: str) -> DemoRun:
        runs.append(DemoRun.start(tmp_path / "out", *options))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten days of two metrics at 300 s: a history that is written in a second."""
    path = tmp_path_factory.mktemp("recording") / "instance-1.parquet"
    steps, noise = np.arange(10 * 288), np.random.default_rng(1).normal(0, 0.1, (2, 10 * 288))
    season = np.sin(2 * np.pi * steps / 288)
    pq.write_table(pa.table({"t": steps * 300, "m00": 3 + season + noise[0], "m01": 5 - season + noise[1]}), path)
    return path


@pytest.fixture
def run(start: Callable[..., DemoRun], recording: Path) -> DemoRun:
    """A run on the recording."""
    return start("--data", str(recording))


@pytest.fixture
def generated(start: Callable[..., DemoRun]) -> DemoRun:
    """A run on a generated cluster, whose history takes seconds to write."""
    return start("--days", "7")


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


@pytest.mark.parametrize(("words", "name"), [(("emulator",), "kubernetes"), (("prometheus_backfill",), "backfill")])
def test_a_killed_part_is_named_while_the_history_is_written(
    generated: DemoRun, words: tuple[str, ...], name: str
) -> None:
    kill(generated, "metrics", words)
    assert generated.end(seconds=40) == 1
    require_named(generated, name)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("clusterheal.local.exporter",), "exporter"),
        (("--config.file", "alertmanager"), "alertmanager"),
        (("--storage.tsdb.path",), "prometheus"),
        (("registry.server",), "registry"),
        (("pipeline", "run", "train"), "pipeline"),
        (("clusterheal.local.runner",), "pipeline"),
    ],
)
def test_a_killed_part_is_named_while_the_pipeline_runs(run: DemoRun, words: tuple[str, ...], name: str) -> None:
    kill(run, "pipeline", words)
    assert run.end(seconds=40) == 1
    require_named(run, name)


def kill(run: DemoRun, stage: str, words: tuple[str, ...]) -> None:
    run.wait_for(f"{stage:<10} begins", seconds=120)
    run.child_soon(*words, seconds=30).kill()


def require_named(run: DemoRun, name: str) -> None:
    """It said which part was killed, and left no process."""
    told = require_complaint(run.process.returncode, run.errors)
    assert re.search(rf"^clusterheal: {name} (was killed by SIGKILL|exited with code 1)", told), told
    assert "was killed by SIGKILL" in told  # the runner is a child's child, named in its parent's last words
    assert run.record["result"] == "failed"
    run.require_ended()


@pytest.fixture
def copying(start: Callable[..., DemoRun]) -> Iterator[DemoRun]:
    """A run that has begun to copy the history of a server which takes its time."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = start("--prometheus-url", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun.child_soon("clusterheal.cli", "collect", seconds=60)
        yield begun


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


def test_an_interruption_while_the_report_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with the last stage alone: none of the parts has to be up for it."""

    async def healed_before(stages: Stages) -> None:
        stages._record.result = HEALED
        await stages._report(IncidentRun(fault=Fault(kind="", namespace="", workload="", started_at=0, ramp_seconds=0)))

    async def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)

    monkeypatch.setattr(Stages, "run", healed_before)
    monkeypatch.setattr(demo_scores, "scores_of", interrupted)
    out = tmp_path / "out"
    with pytest.raises(Interrupted, match="interrupted by SIGINT"):
        run_demo(DemoConfig(out=out), Timeline(console=Console(file=io.StringIO())))
    record = RunRecord.load(out)
    assert [(stage["name"], stage["ok"]) for stage in record.stages] == [("report", False)]
    assert "interrupted by SIGINT" in str(record.error)
    assert not (out / "report.html").exists()
    assert left_behind(out) == []
