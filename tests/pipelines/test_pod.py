"""The commands of the compiled package, as a pod runs them: no home, a user nobody knows, a root that is read-only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusterheal_pipelines.compiling import compile_pipeline

from clusterheal.contracts import DETECTOR, FeaturePanel
from clusterheal.local.registry.server import create_app, now_ms, running
from clusterheal.local.registry.store import ResourceStore
from clusterheal.registry import Registry, State
from clusterheal.settings import RegistrySettings
from tests.components.conftest import contract, panel
from tests.components.test_components import store
from tests.pipelines.restricted import supported

__all__ = ["contract", "panel"]

pytestmark = [
    pytest.mark.kfp_local,
    pytest.mark.skipif(not supported(), reason="this kernel's Landlock cannot forbid writes (ABI 3 is needed)"),
]
NOBODY = "1000660000"  # as OpenShift picks them: no entry in /etc/passwd
FOREIGN = ["unshare", "--user", f"--map-user={NOBODY}", "--map-group=0"]


def _foreign() -> list[str]:
    """The prefix that makes the user one without a passwd entry, where this machine has user namespaces."""
    works = shutil.which("unshare") and subprocess.run([*FOREIGN, "true"], capture_output=True).returncode == 0
    return FOREIGN if works else []


@dataclass(frozen=True)
class Pod:
    """Runs one executor of a compiled package; everything that it may write is below `out` or in /tmp."""

    executors: dict[str, Any]
    out: Path
    env: dict[str, str]

    def run(
        self, executor: str, *, artifacts: dict[str, Path] | None = None, **parameters: Any
    ) -> tuple[dict[str, Path], Any]:
        """Output artifacts by name, and the sole output parameter if there is one."""
        container = self.executors[f"exec-{executor}"]
        folder = self.out / executor
        folder.mkdir()
        made = {name: folder / name for name in self._outputs(executor)}
        inputs = {
            "parameterValues": parameters,
            "artifacts": {name: _artifact(path, name) for name, path in (artifacts or {}).items()},
        }
        outputs = {
            "artifacts": {name: _artifact(path, name) for name, path in made.items()},
            "parameters": {"Output": {"outputFile": str(folder / "Output")}},
            "outputFile": str(folder / "executor_output.json"),
        }
        executor_input = json.dumps({"inputs": inputs, "outputs": outputs})
        command = [part.replace("{{$}}", executor_input) for part in (*container["command"], *container["args"])]
        guard = [sys.executable, str(Path(__file__).parent / "restricted.py"), "/tmp", "/dev/shm", str(self.out), "--"]
        done = subprocess.run([*_foreign(), *guard, *command], env=self.env, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        written = json.loads((folder / "executor_output.json").read_text())
        return made, written.get("parameterValues", {}).get("Output")

    def _outputs(self, executor: str) -> list[str]:
        return {
            "build-dataset": ["dataset"], "train-detector": ["model"], "gate": ["reasons"], "register": [],
            "evaluate": ["evaluation", "metrics", "roc", "plots"], "score-window": ["scores", "metrics"],
            "check-drift": ["report", "metrics"], "notify": ["report"],
        }[executor]  # fmt: skip


def _artifact(path: Path, name: str) -> dict[str, Any]:
    kind = {"metrics": "Metrics", "roc": "ClassificationMetrics", "dataset": "Dataset", "scores": "Dataset",
            "model": "Model", "plots": "HTML", "evaluation": "Artifact"}.get(name, "Markdown")  # fmt: skip
    entry = {"name": name, "uri": str(path), "metadata": {}, "type": {"schemaTitle": f"system.{kind}"}}
    return {"artifacts": [entry]}


@pytest.fixture
def pod(tmp_path: Path, panel: FeaturePanel) -> Iterator[tuple[Pod, Registry]]:
    executors: dict[str, Any] = {}
    for name in ("train", "score"):
        package = compile_pipeline(name, tmp_path / f"{name}.yaml")
        spec = next(yaml.safe_load_all(package.read_text()))
        executors |= {key: value["container"] for key, value in spec["deploymentSpec"]["executors"].items()}
    store(panel, tmp_path / "dataset")
    out = tmp_path / "out"
    out.mkdir()
    rows = ResourceStore(None, now_ms=now_ms)
    with running(create_app(rows)) as url:
        settings = {"url": url, "storage": str(out / "models")}
        env = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p and "site-packages" not in p),
            "CLUSTERHEAL_DATASET__PATH": str(tmp_path / "dataset"),
            "CLUSTERHEAL_REGISTRY__URL": url,
            "CLUSTERHEAL_REGISTRY__STORAGE": settings["storage"],
            "OMP_NUM_THREADS": "1",
        }
        yield Pod(executors, out, env), Registry(RegistrySettings.model_validate(settings))
    rows.close()


def test_steps_need_no_home_no_known_user_and_no_writable_root(pod: tuple[Pod, Registry]) -> None:
    pods, registry = pod
    dataset = pods.run("build-dataset", start="2026-01-05T00:00:00Z", end="2026-01-11T00:00:00Z")[0]
    model = pods.run("train-detector", artifacts=dataset, device="cpu", node_selector={})[0]
    judged = pods.run("evaluate", artifacts=dataset | model)[0]
    assert judged["plots"].read_text().startswith("<!doctype html>")
    reasons, verdict = pods.run("gate", artifacts={"evaluation": judged["evaluation"]})
    assert verdict in ("passed", "rejected")
    entered = {"verdict": "passed", "run_id": "r", "run_name": "train"}
    inputs = dataset | model | reasons | {"evaluation": judged["evaluation"]}
    version = pods.run("register", artifacts=inputs, **entered)[1]
    registry.set_state(DETECTOR, version, State.SERVING)
    scored = pods.run("score-window", artifacts=dataset, name=DETECTOR, hours=2.0)[0]
    assert scored["scores"].is_file()
    assert pods.run("check-drift", artifacts=dataset, name=DETECTOR)[1] in ("keep", "retrain")
    status = {"state": "COMPLETE", "pipelineJobResourceName": "run", "pipelineTaskName": "exit-handler-1", "error": {}}
    said = pods.run("notify", status=status, run_id="r")[1]
    assert said == f"Run r: succeeded; {DETECTOR} {version} serving, gate passed"


def test_the_guard_does_forbid_writes_elsewhere(tmp_path: Path) -> None:
    guard = [sys.executable, str(Path(__file__).parent / "restricted.py"), str(tmp_path), "--", "sh", "-c"]
    outside = Path(__file__).parent / "written-by-a-test"
    for target, allowed in ((tmp_path / "inside", True), (outside, False)):
        done = subprocess.run([*guard, f"echo x > {target}"], capture_output=True, text=True)
        assert (done.returncode == 0) is allowed, done.stderr
        assert target.exists() is allowed
