"""What every healed run of the demo has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from demo_kit import DemoRun

MEMORY_BOUND_BYTES = 4 * 2**30


def require_healed(run: DemoRun, *, trained: bool = True) -> dict[str, Any]:
    """Check the run's record and its report; returns the incident's status.

    A run that is not `trained` was given the models of another one.
    """
    record = run.record
    assert record["result"] == "healed"
    assert record["error"] is None
    stages = [stage["name"] for stage in record["stages"]]
    training = ["pipeline"] if trained else []
    assert stages == ["metrics", "registry", *training, "serving", "engine", "incident", "report"]
    assert {m["name"] for m in record["models"]} == {"anomaly-detector", "predictive-analytics"}
    assert all(stage["ok"] for stage in record["stages"][:-1])  # the last one wrote the record
    assert max(stage["peak_rss_bytes"] for stage in record["stages"]) < MEMORY_BOUND_BYTES
    status: dict[str, Any] = record["incident"]["status"]
    assert status["state"] == "Resolved"
    assert status["outcome"]["verdict"] == "helped"
    report = (run.out / "report.html").read_text()
    assert "<html" in report
    assert 'src="http' not in report, "the report must open offline"
    return status


def decisions(status: dict[str, Any]) -> dict[str, Any]:
    """What the engine decided, without times and measured values."""
    return {
        "cause": status["diagnosis"]["cause"],
        "origin": status["diagnosis"]["origin"],
        "playbook": status["plan"]["playbook"],
        "action": status["plan"]["action"],
        "target": f"{status['plan']['target']['namespace']}/{status['plan']['target']['name']}",
        "verdict": status["outcome"]["verdict"],
    }


def models_beat_their_peers(out: Path) -> None:
    """The registered packages' evaluations, not what anything printed about them."""
    evaluations = [json.loads(path.read_text()) for path in out.rglob("evaluation") if path.is_file()]
    assert {e["name"] for e in evaluations} == {"anomaly-detector", "predictive-analytics"}
    for evaluation in evaluations:
        candidate = evaluation["candidate"]
        assert candidate["peers"]
        assert all(candidate["score"] < peer for peer in candidate["peers"].values())


__all__ = ["decisions", "models_beat_their_peers", "require_healed"]
