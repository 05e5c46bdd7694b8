"""The main job on the generated cluster, kept up afterwards: its outcome, its parts, its dataset, and its end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import nbformat
import pytest
from demo_kit import DemoRun, require_complaint
from e2e_kit import decisions, models_beat_their_peers, require_healed
from nbclient import NotebookClient

pytestmark = [pytest.mark.e2e, pytest.mark.local, pytest.mark.timeout(580)]

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks/01-from-metrics-to-models.ipynb"


@pytest.fixture(scope="module")
def kept(start_demo: Callable[..., DemoRun]) -> DemoRun:
    run = start_demo("--keep")
    run.wait_for("our commands", seconds=560)
    return run


def test_a_memory_leak_is_healed_by_rule_before_a_pod_is_killed(kept: DemoRun) -> None:
    status = require_healed(kept)
    assert kept.record["fault"]["kind"] == "memory-leak"
    assert decisions(status) == {
        "cause": "memory-leak",
        "origin": "rule",
        "playbook": "predicted-memory-leak",
        "action": "restart",
        "target": "shop/cart",
        "verdict": "helped",
    }
    assert status["outcome"]["observed"] < status["outcome"]["counterfactual"]
    assert status["diagnosis"]["evidence"]["oom_killed"] is False
    models_beat_their_peers(kept.out)


def test_what_is_kept_up_answers_at_the_printed_addresses(kept: DemoRun) -> None:
    names = ("Prometheus", "Alertmanager", "engine", "model registry")
    shown = [re.search(rf"  ({'|'.join(names)}) +(http://[\w.:/]+)", line) for line in kept.lines]
    addresses = {match[1]: match[2] for match in shown if match}
    assert set(addresses) == set(names)
    up = httpx.get(f"{addresses['Prometheus']}/api/v1/query", params={"query": "up"}).json()
    assert up["data"]["result"][0]["value"][1] == "1"
    assert httpx.get(f"{addresses['Alertmanager']}/-/ready").is_success
    assert httpx.get(addresses["engine"]).is_success
    listed = httpx.get(f"{addresses['model registry']}/api/model_registry/v1alpha3/registered_models").json()
    assert {m["name"] for m in listed["items"]} == {"anomaly-detector", "predictive-analytics"}


@pytest.mark.notebook
def test_notebook_walks_from_the_run_s_dataset_to_two_packages(kept: DemoRun, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored with outputs; run nbstripout"
    monkeypatch.setenv("CLUSTERHEAL_DATASET__PATH", str(kept.out / "dataset"))
    monkeypatch.setenv("TRAIN_SECONDS", "10")
    done = NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    printed = [o for cell in done.cells for o in cell.get("outputs", [])]
    verdicts = "".join(o["text"] for o in printed if o.output_type == "stream")
    assert "anomaly-detector passed" in verdicts
    assert "predictive-analytics" in verdicts
    assert sum("application/vnd.plotly.v1+json" in o.get("data", {}) for o in printed) == 3


def test_a_killed_model_server_is_named_and_ends_the_rest(kept: DemoRun) -> None:
    kept.child("serve", "anomaly-detector").kill()
    assert kept.end(seconds=60) == 1
    errors = require_complaint(kept.process.returncode, kept.errors)
    assert re.search(r"anomaly-detector\S* was killed by SIGKILL", errors), errors
    kept.require_ended()
