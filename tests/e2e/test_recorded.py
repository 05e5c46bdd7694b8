"""The main job on a slice of recorded telemetry: no rule knows the pattern, the detector has to see it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from demo_kit import DemoRun
from e2e_kit import decisions, models_beat_their_peers, require_healed

pytestmark = [pytest.mark.e2e, pytest.mark.local, pytest.mark.shared_data, pytest.mark.timeout(580)]


def test_a_shifted_instance_is_healed_by_what_the_detector_says(
    start_demo: Callable[..., DemoRun], shared_dir: Path
) -> None:
    data = str(shared_dir / "data" / "anomaly")
    run = start_demo("--data", data, "--series", "SMD__machine-1-2", "--keep")
    run.wait_for("our commands", seconds=560)
    status = require_healed(run)
    assert run.record["fault"]["kind"] == "level-shift"
    moved = set(run.record["fault"]["metrics"])
    assert any(metric in status["diagnosis"]["cause"] for metric in moved), (status["diagnosis"]["cause"], moved)
    assert {name: value for name, value in decisions(status).items() if name != "cause"} == {
        "origin": "ai",
        "playbook": "anomalous-workload",
        "action": "restart",
        "target": "recorded/smd--machine-1-2",
        "verdict": "helped",
    }
    assert status["diagnosis"]["confidence"] >= 0.8
    assert status["outcome"]["observed"] < status["outcome"]["counterfactual"]
    models_beat_their_peers(run.out)

    run.process.send_signal(signal.SIGINT)  # the way to end a run that is kept up
    assert run.end(seconds=60) == 0
    assert "everything that was started has been ended" in run.lines[-1]
    run.require_ended()
