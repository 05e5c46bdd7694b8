"""The five pipelines under kfp.local against real parts: what they leave in the registry and in service."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterheal_pipelines.compiling import compile_pipeline

from clusterheal.contracts import DETECTOR, FORECASTER, ModelPackage, seal_package
from clusterheal.local.runner import PipelineRun, run_pipeline
from clusterheal.registry import State
from tests.pipelines.conftest import DAYS, Platform

pytestmark = [pytest.mark.kfp_local, pytest.mark.local, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packages")
    for name in ("train", "release", "retrain", "backfill", "score"):
        compile_pipeline(name, out / f"{name}.yaml")
    return out


def run(platform: Platform, packages: Path, pipeline: str, /, **arguments: Any) -> PipelineRun:
    return run_pipeline(packages / f"{pipeline}.yaml", arguments, out=platform.out, env=platform.env)


@pytest.fixture(scope="module")
def trained(platform: Platform, packages: Path) -> PipelineRun:
    # It ends by itself in 25 s of one core; a limit near that would leave a busy machine with a half-trained model.
    return run(platform, packages, "train", days=DAYS - 0.5, device="cpu", max_seconds=240.0)


def test_train_brings_both_models_into_service(platform: Platform, trained: PipelineRun) -> None:
    assert trained.status == "succeeded", trained.error
    for name, title in ((DETECTOR, "detector"), (FORECASTER, "forecaster")):
        verdict = trained.step(f"Gate {title}").parameters["Output"]
        assert verdict == "passed", trained.step(f"Gate {title}").artifacts["reasons"]["metadata"]["why"]
        assert trained.step(f"Roll out {title}").parameters["Output"] == "promoted"
        current = platform.registry.current(name)
        assert current is not None
        assert current.version == trained.step(f"Register {title}").parameters["Output"]


def test_a_registered_version_says_where_it_came_from(platform: Platform, trained: PipelineRun) -> None:
    current = platform.registry.current(FORECASTER)
    assert current is not None
    dataset = trained.step("Build dataset").artifacts["dataset"]["metadata"]
    assert current.contract_sha256 == dataset["contract_sha256"]
    assert current.properties["dataset_sha256"] == dataset["sha256"]
    assert current.properties["gate_verdict"] == "passed"
    assert current.properties["git_commit"] == "abc123"
    assert current.properties["image"] == "clusterheal-pipeline"
    assert 0 < float(current.properties["calibration.coverage80_after"]) <= 1
    assert current.lineage is not None
    evaluation = json.loads(Path(trained.step("Evaluate forecaster").artifacts["evaluation"]["path"]).read_text())
    assert current.properties["metric.score"] == evaluation["candidate"]["score"]
    assert ModelPackage.load(current.path).sha256 == current.package_sha256
    plots = Path(trained.step("Evaluate forecaster").artifacts["plots"]["path"]).read_text()
    assert plots.count("<svg") >= 3
    curve = trained.step("Evaluate detector").artifacts["roc"]["metadata"]["confidenceMetrics"]
    assert len(curve) > 10


def test_the_last_step_reports_where_the_models_of_the_run_stand(platform: Platform, trained: PipelineRun) -> None:
    said = str(trained.step("Report outcome").parameters["Output"])
    assert "succeeded" in said
    for name in (DETECTOR, FORECASTER):
        current = platform.registry.current(name)
        assert current is not None
        assert f"{name} {current.version} serving, gate passed" in said


def test_metrics_that_have_not_drifted_are_not_retrained_on(
    platform: Platform, packages: Path, trained: PipelineRun
) -> None:
    assert trained.status == "succeeded", trained.error
    again = run(platform, packages, "retrain", days=DAYS - 0.5, when="drifted", min_days_between=1.0)
    assert again.status == "succeeded", again.error
    assert again.step("Check drift forecaster").parameters["Output"] == "keep"
    assert not again.ran("Train forecaster")


def test_a_model_that_the_gate_rejects_is_registered_as_such_and_stays_out_of_service(
    platform: Platform, packages: Path, trained: PipelineRun
) -> None:
    assert trained.status == "succeeded", trained.error
    before = platform.registry.current(FORECASTER)
    options = {"device": "cpu", "seed": 8, "max_seconds": 0.01}
    bad = run(platform, packages, "retrain", days=DAYS - 0.5, when="always", **options)
    assert bad.status == "succeeded", bad.error
    assert bad.step("Gate forecaster").parameters["Output"] == "rejected"
    version = platform.registry.get(FORECASTER, bad.step("Register forecaster").parameters["Output"])
    assert version.state is State.REJECTED
    assert "does not beat" in str(version.properties["gate_reasons"])
    assert not bad.ran("Stage forecaster")
    assert platform.registry.current(FORECASTER) == before
    assert f"{FORECASTER} {version.version} rejected, gate rejected" in bad.step("Report outcome").parameters["Output"]
    refused = run(platform, packages, "release", name=FORECASTER, version=version.version)
    assert refused.status == "failed"
    assert refused.error is not None
    assert "is rejected" in refused.error
    assert refused.ran("Report outcome")


def variant(package: ModelPackage, folder: Path) -> ModelPackage:
    """The same model with another card: another package, that serves as well."""
    shutil.copytree(package.path, folder)
    card = folder / "MODEL_CARD.md"
    for file in folder.iterdir():
        file.chmod(0o644)
    card.write_text(card.read_text() + "\nSealed again.\n")
    return seal_package(folder, name=package.name, contract=package.contract)


def test_a_candidate_is_released_in_steps_and_taken_back(
    platform: Platform, packages: Path, trained: PipelineRun, tmp_path: Path
) -> None:
    assert trained.status == "succeeded", trained.error
    before = platform.registry.current(DETECTOR)
    assert before is not None
    candidate = platform.registry.register(variant(ModelPackage.load(before.path), tmp_path / "variant")).version
    done = run(platform, packages, "release", name=DETECTOR)
    assert done.status == "succeeded", done.error
    steps = ["Stage model", "Shadow model", "Promote model", "Watch model", "Report outcome"]
    assert [s.title for s in done.steps] == steps
    outcomes = [done.step(title).parameters["Output"] for title in steps[1:4]]
    assert outcomes == ["paused", "paused", "promoted"]
    compared = Path(done.step("Shadow model").artifacts["report"]["path"]).read_text()
    assert "25 windows (one of them live), 100.0% agreement" in compared
    current, previous = platform.registry.current(DETECTOR), platform.registry.previous(DETECTOR)
    assert (current and current.version, previous and previous.version) == (candidate, before.version)
    back = run(platform, packages, "release", name=DETECTOR, version="previous")
    assert back.status == "succeeded", back.error
    assert back.step("Roll back model").parameters["Output"] == before.version
    assert not back.ran("Stage model")
    current = platform.registry.current(DETECTOR)
    assert current is not None
    assert current.version == before.version


def test_a_window_is_scored_with_the_models_in_service(
    platform: Platform, packages: Path, trained: PipelineRun
) -> None:
    import pyarrow.parquet as pq

    assert trained.status == "succeeded", trained.error
    done = run(platform, packages, "score", days=DAYS - 0.5, hours=12.0)
    assert done.status == "succeeded", done.error
    table = pq.read_table(done.step("Score detector").artifacts["scores"]["path"])
    entities = done.step("Build dataset").artifacts["dataset"]["metadata"]["entities"]
    assert table.num_rows == entities * 12 * 12
    figures = done.step("Score forecaster").artifacts["metrics"]["metadata"]
    assert 0.5 < figures["coverage80"] <= 1.0
    assert done.step("Score detector").artifacts["metrics"]["metadata"]["alarm_rate"] < 0.2


def test_an_unreachable_prometheus_fails_the_run_by_name_and_is_reported(
    platform: Platform, packages: Path, tmp_path: Path
) -> None:
    env = {
        **platform.env,
        "CLUSTERHEAL_PROMETHEUS__URL": "http://127.0.0.1:9",
        "CLUSTERHEAL_DATASET__PATH": str(tmp_path / "dataset"),
    }
    failed = run_pipeline(packages / "train.yaml", {}, out=tmp_path, env=env)
    assert failed.status == "failed"
    assert failed.error is not None
    assert "Collect metrics" in failed.error
    assert "127.0.0.1:9" in failed.error
    assert failed.step("Report outcome").parameters["Output"].startswith("Run ")
    assert "failed" in failed.step("Report outcome").parameters["Output"]


def test_a_backfill_covers_the_whole_history_and_can_be_repeated(
    platform: Platform, packages: Path, tmp_path: Path
) -> None:
    from clusterheal.metrics.dataset import Dataset

    env = {**platform.env, "CLUSTERHEAL_DATASET__PATH": str(tmp_path / "dataset")}
    for _ in range(2):
        done = run_pipeline(packages / "backfill.yaml", {"days": 2, "shards": 2}, out=tmp_path / "runs", env=env)
        assert done.status == "succeeded", done.error
        assert len([s for s in done.steps if s.title == "Collect shard"]) == 2
    panel = Dataset.open(tmp_path / "dataset").panel()
    # the repeat ends now, too, which may be a step or two later
    assert 2 * 288 <= len(panel.timestamps) <= 2 * 288 + 2
    known = np.isfinite(panel.values).any(axis=2)
    assert known.mean() > 0.98  # entities of every shard, over both days
