"""Ends in the last stages: an interruption while the engine heals, and the engine's own death."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from demo_kit import DemoRun, require_complaint

pytestmark = [pytest.mark.e2e, pytest.mark.local, pytest.mark.timeout(580)]


def interrupt(run: DemoRun) -> None:
    run.process.send_signal(signal.SIGINT)


def kill_engine(run: DemoRun) -> None:
    run.child("clusterheal.cli", "engine").kill()


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (interrupt, 130, "interrupted by SIGINT; everything that was started has been ended"),
        (kill_engine, 1, "engine was killed by SIGKILL"),
    ],
)
def test_the_incident_s_stage_ends_cleanly(
    start_demo: Callable[..., DemoRun], end: Callable[[DemoRun], None], code: int, told: str
) -> None:
    run = start_demo()
    run.wait_for("fault memory-leak on shop/cart", seconds=500)
    end(run)
    assert run.end(seconds=60) == code
    assert told in require_complaint(run.process.returncode, run.errors)
    assert run.record["result"] == "failed"
    assert told in run.record["error"]
    assert not (run.out / "report.html").exists()
    run.require_ended()
