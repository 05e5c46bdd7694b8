"""The main job on the generated cluster, kept up afterwards: its outcome, its parts, its dataset, and its end.

Then further runs with the models that it trained: the other faults, the same fault again, and ends in the last stages.
They are in one file because they need these models.
"""

from __future__ import annotations

import re
import signal
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


@pytest.fixture
def start_again(start_demo: Callable[..., DemoRun], kept: DemoRun) -> Callable[..., DemoRun]:
    """Starts another run, which serves the models of the first one."""
    return lambda *options: start_demo("--models-of", str(kept.out), *options)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("bad-rollout", ("crash-loop-after-rollout", "crash-loop-after-rollout", "undo", "shop/checkout")),
        ("cpu-saturation", ("saturation", "saturation", "scale", "shop/payments")),
    ],
)
def test_each_fault_is_healed_by_its_own_playbook(
    start_again: Callable[..., DemoRun], fault: str, expected: tuple[str, str, str, str]
) -> None:
    run = start_again("--fault", fault)
    assert run.end() == 0, run.errors
    decided = decisions(require_healed(run, trained=False))
    assert (decided["cause"], decided["playbook"], decided["action"], decided["target"]) == expected
    assert decided["origin"] == "rule"
    assert run.lines[-1].startswith("healed: ")
    run.require_ended()


def interrupt(run: DemoRun) -> None:
    run.process.send_signal(signal.SIGINT)


def kill_engine(run: DemoRun) -> None:
    run.child("clusterheal.cli", "engine").kill()


def kill_forecaster(run: DemoRun) -> None:
    run.child("serve", "predictive-analytics").kill()


def loading(run: DemoRun) -> None:
    """In the stage serving, while the first model server comes up."""
    run.wait_for("serving    begins", seconds=120)
    run.child_soon("serve", "anomaly-detector", seconds=60)


def starting(run: DemoRun) -> None:
    """In the stage engine, while it comes up."""
    run.wait_for("engine     begins", seconds=240)
    run.child_soon("clusterheal.cli", "engine", seconds=30)


def faulty(run: DemoRun) -> None:
    """In the stage incident, while the engine watches."""
    run.wait_for("fault memory-leak on shop/cart", seconds=300)


INTERRUPTED = "interrupted by SIGINT; everything that was started has been ended"


@pytest.mark.parametrize(
    ("stage", "reach", "end", "code", "told"),
    [
        ("serving", loading, interrupt, 130, INTERRUPTED),
        ("engine", starting, interrupt, 130, INTERRUPTED),
        ("engine", starting, kill_forecaster, 1, r"predictive-analytics\S* was killed by SIGKILL"),
        ("incident", faulty, kill_engine, 1, "engine was killed by SIGKILL"),
    ],
)
def test_the_last_stages_end_cleanly(
    start_again: Callable[..., DemoRun],
    stage: str,
    reach: Callable[[DemoRun], None],
    end: Callable[[DemoRun], None],
    code: int,
    told: str,
) -> None:
    run = start_again()
    reach(run)
    end(run)
    assert run.end(seconds=60) == code
    require_broken_off(run, stage=stage, told=told)


def require_broken_off(run: DemoRun, *, stage: str, told: str) -> None:
    """It ended in that stage, said why, and left no process and no report."""
    assert re.search(told, require_complaint(run.process.returncode, run.errors)), run.errors
    record = run.record
    assert record["result"] == "failed"
    assert re.search(told, record["error"])
    assert [(s["name"], s["ok"]) for s in record["stages"]][-1] == (stage, False)
    assert not (run.out / "report.html").exists()
    run.require_ended()


@pytest.fixture(scope="module")
def healing(start_demo: Callable[..., DemoRun], kept: DemoRun) -> DemoRun:
    """The first run's fault again, with its seed and its models, up to the action."""
    run = start_demo("--models-of", str(kept.out))
    run.wait_for("Acting: ", seconds=300)
    return run


def acted(run: DemoRun) -> list[str]:
    """The plan behind the engine's first action, and that action: rule, cause, action and target.

    Plans that guards hold back are left out: they rest on what the detector says of live noise, which the clock shifts.
    """
    told = [match[1] for line in run.lines if (match := re.search(r" incident +(\S+: (?:Planned|Acting): .+)", line))]
    end = next(number for number, text in enumerate(told) if ": Acting: " in text)
    planned = [text for text in told[:end] if text.startswith(told[end].replace(": Acting: ", ": Planned: "))]
    return [planned[-1], told[end]]


def test_the_same_seed_and_models_lead_to_the_same_decisions(kept: DemoRun, healing: DemoRun) -> None:
    assert acted(healing) == acted(kept)
    assert acted(kept) == [
        "shop/cart: Planned: restart on Deployment shop/cart (predicted-memory-leak): memory-leak",
        "shop/cart: Acting: restart on Deployment shop/cart",
    ]


def test_an_interruption_while_the_engine_heals_ends_cleanly(healing: DemoRun) -> None:
    interrupt(healing)
    assert healing.end(seconds=60) == 130
    require_broken_off(healing, stage="incident", told=INTERRUPTED)
