"""Whole runs of the main job with every real part: what happened to the incident, and the figures behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

pytestmark = [pytest.mark.e2e, pytest.mark.local, pytest.mark.timeout(580)]

ROOT = Path(__file__).resolve().parents[2]


def run_demo(out: Path, *options: str) -> dict[str, Any]:
    """Run the command as its user does; the run's own record."""
    command = [str(Path(sys.executable).parent / "clusterheal"), "demo", "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False)
    tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
    assert done.returncode == 0, tail
    record: dict[str, Any] = json.loads((out / "run.json").read_text())
    return record


def left_behind(out: Path) -> list[str]:
    """Processes that still name the run's folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(out) in line and process.pid != os.getpid():
            found.append(line)
    return found


def require_healed(record: dict[str, Any], out: Path) -> dict[str, Any]:
    """What every healed run has; returns the incident's status."""
    assert record["result"] == "healed"
    assert all(stage["ok"] for stage in record["stages"])
    assert max(stage["peak_rss_bytes"] for stage in record["stages"]) < 4 * 2**30
    status: dict[str, Any] = record["incident"]["status"]
    assert status["state"] == "Resolved"
    assert status["outcome"]["verdict"] == "helped"
    assert status["outcome"]["observed"] < status["outcome"]["counterfactual"]
    report = (out / "report.html").read_text()
    assert "<html" in report
    assert 'src="http' not in report, "the report must open offline"
    assert left_behind(out) == []
    return status


def models_beat_their_peers(out: Path) -> None:
    """The registered packages' evaluations, not what anything printed about them."""
    evaluations = [json.loads(path.read_text()) for path in out.rglob("evaluation") if path.is_file()]
    assert {e["name"] for e in evaluations} == {"anomaly-detector", "predictive-analytics"}
    for evaluation in evaluations:
        candidate = evaluation["candidate"]
        assert candidate["peers"]
        assert all(candidate["score"] < peer for peer in candidate["peers"].values())


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One run on the generator: its folder and its record."""
    out = tmp_path_factory.mktemp("generated") / "out"
    return out, run_demo(out, "--train-seconds", "25")


def test_generated_cluster_heals_from_a_memory_leak_by_rule(generated: tuple[Path, dict[str, Any]]) -> None:
    out, record = generated
    status = require_healed(record, out)
    assert record["fault"]["kind"] == "memory-leak"
    assert status["diagnosis"]["origin"] == "rule"
    assert status["diagnosis"]["playbook"] == "predicted-memory-leak"
    assert status["plan"]["target"]["name"] == record["fault"]["workload"]
    models_beat_their_peers(out)


@pytest.mark.notebook
def test_notebook_walks_from_the_run_s_dataset_to_two_packages(
    generated: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = generated
    notebook = nbformat.read(ROOT / "notebooks/01-from-metrics-to-models.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored with outputs; run nbstripout"
    monkeypatch.setenv("CLUSTERHEAL_DATASET__PATH", str(out / "dataset"))
    monkeypatch.setenv("TRAIN_SECONDS", "10")
    done = NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    printed = [o for cell in done.cells for o in cell.get("outputs", [])]
    verdicts = "".join(o["text"] for o in printed if o.output_type == "stream")
    assert "anomaly-detector passed" in verdicts
    assert "predictive-analytics" in verdicts
    assert sum("application/vnd.plotly.v1+json" in o.get("data", {}) for o in printed) == 3


def test_recorded_telemetry_heals_by_what_the_detector_says(tmp_path: Path, shared_dir: Path) -> None:
    out = tmp_path / "out"
    data = str(shared_dir / "data" / "anomaly")
    record = run_demo(out, "--data", data, "--series", "SMD__machine-1-2", "--train-seconds", "25")
    status = require_healed(record, out)
    assert status["diagnosis"]["origin"] == "ai"
    assert status["diagnosis"]["confidence"] >= 0.8
    moved = set(record["fault"]["metrics"])
    leading = {m for m in moved if m in status["diagnosis"]["cause"]}
    assert leading, f"{status['diagnosis']['cause']!r} names none of the moved metrics {sorted(moved)}"
    models_beat_their_peers(out)
