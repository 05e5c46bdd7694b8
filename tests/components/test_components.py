"""Every component's function, called as Kubeflow Pipelines calls it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterheal_components.build_dataset import build_dataset
from clusterheal_components.collect import collect
from clusterheal_components.evaluate import evaluate
from clusterheal_components.gate import gate
from clusterheal_components.notify import notify
from clusterheal_components.plan_backfill import plan_backfill
from clusterheal_components.register import register
from clusterheal_components.score_window import score_window
from clusterheal_components.snapshot import freeze, thaw
from clusterheal_components.stage import stage
from clusterheal_components.train_detector import train_detector
from clusterheal_components.train_forecaster import train_forecaster
from clusterheal_models.cards import NOT_EVALUATED

from clusterheal.contracts import DETECTOR, FORECASTER, FeatureContract, FeaturePanel, ModelPackage
from clusterheal.errors import ContractMismatch, InvalidInput, PermanentError
from clusterheal.metrics.collect import CollectReport
from clusterheal.metrics.dataset import Dataset
from clusterheal.metrics.parts import Extent, Part
from clusterheal.metrics.shards import Shard
from clusterheal.metrics.storage import Storage
from clusterheal.registry import Lineage, Registry, State
from clusterheal.settings import Settings
from tests.components.conftest import make_panel

Make = Callable[..., Any]
DAY_MS = 86_400_000


def call(component: Any, **arguments: Any) -> Any:
    return component.python_func(**arguments)


def store(panel: FeaturePanel, path: Path) -> None:
    """Write a panel as the collection would, one part a day."""
    dataset = Dataset.create(Storage.open(path), panel.contract)
    per_day = DAY_MS // 300_000
    for day in range(len(panel.timestamps) // per_day):
        start = int(panel.timestamps[day * per_day]) // 1_000_000
        values = panel.values[:, day * per_day : (day + 1) * per_day].transpose(2, 0, 1)
        extent = Extent(start_ms=start, end_ms=start + DAY_MS, kind="node")
        dataset.write(Part(extent=extent, entities=panel.entities, values=np.ascontiguousarray(values)))


def test_collect_asks_for_the_range_and_logs_what_came(monkeypatch: pytest.MonkeyPatch, artifact: Make) -> None:
    asked: list[tuple[datetime, datetime, Shard]] = []

    def library(settings: Settings, *, start: datetime, end: datetime, progress: Any, shard: Shard) -> CollectReport:
        asked.append((start, end, shard))
        return CollectReport(
            path="d", contract_sha256="c", start=start, end=end, entities={"node": 3}, features=("f",),
            parts_written=2, parts_present=1, samples=5, bytes_written=7, seconds=0.5, findings=(),
        )  # fmt: skip

    monkeypatch.setattr("clusterheal.metrics.collect.collect", library)
    metrics = artifact("Metrics")
    found = call(collect, metrics=metrics, days=2.0, end="2026-01-05T12:34:56+02:00", shard="1/4")
    assert found == ("2026-01-03T10:34:00+00:00", "2026-01-05T10:34:00+00:00")
    start, end = datetime(2026, 1, 3, 10, 34, tzinfo=UTC), datetime(2026, 1, 5, 10, 34, tzinfo=UTC)
    assert asked == [(start, end, Shard(index=1, count=4))]
    assert metrics.metadata == {
        "samples": 5.0, "parts_written": 2.0, "parts_present": 1.0, "bytes_written": 7.0, "seconds": 0.5,
        "entities.node": 3.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("days", "end"), [(0.0, "now"), (-1.0, "now"), (1.0, "yesterday"), (1.0, "2026-01-05T00:00:00")]
)
def test_collect_refuses_ranges_that_mean_nothing(artifact: Make, days: float, end: str) -> None:
    with pytest.raises(InvalidInput):
        call(collect, metrics=artifact("Metrics"), days=days, end=end)


def test_build_dataset_freezes_exactly_the_range(
    registry: Registry, panel: FeaturePanel, artifact: Make, tmp_path: Path
) -> None:
    store(panel, tmp_path / "dataset")
    made = artifact("Dataset")
    call(build_dataset, start="2026-01-05T12:00:00Z", end="2026-01-11T00:00:00Z", dataset=made)
    back = thaw(Path(made.path))
    np.testing.assert_array_equal(back.panel.values, panel.values[:, 144:])
    assert made.metadata["sha256"] == back.sha256
    assert made.metadata["start"] == "2026-01-05T12:00:00+00:00"
    assert made.metadata["steps"] == len(panel.timestamps) - 144


def test_build_dataset_says_when_there_is_nothing(registry: Registry, artifact: Make) -> None:
    with pytest.raises(InvalidInput, match="clusterheal collect"):
        call(build_dataset, start="2026-01-05T00:00:00Z", end="2026-01-06T00:00:00Z", dataset=artifact("Dataset"))


@pytest.mark.parametrize(("component", "name"), [(train_detector, DETECTOR), (train_forecaster, FORECASTER)])
def test_training_seals_a_package_for_the_datasets_contract(
    component: Any, name: str, frozen: Path, contract: FeatureContract, artifact: Make
) -> None:
    model = artifact("Model")
    call(component, dataset=artifact("Dataset", frozen), model=model, device="cpu", max_seconds=2.0)
    package = ModelPackage.load(Path(model.path))
    assert package.name == name == model.metadata["name"]
    assert package.contract == contract
    assert model.metadata["package_sha256"] == package.sha256
    assert model.metadata["dataset_sha256"] == thaw(frozen).sha256


@pytest.mark.parametrize("component", [train_detector, train_forecaster])
def test_training_refuses_devices_that_are_not_there(component: Any, frozen: Path, artifact: Make) -> None:
    options = {"dataset": artifact("Dataset", frozen), "model": artifact("Model")}
    with pytest.raises(InvalidInput, match="device"):
        call(component, **options, device="tpu")
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(InvalidInput, match="1 accelerators were asked for"):
            call(component, **options, accelerators="1")


def evaluated(artifact: Make, frozen: Path, package: ModelPackage) -> tuple[Any, Any]:
    evaluation, metrics = artifact("Artifact"), artifact("Metrics")
    seen = {"roc": artifact("ClassificationMetrics"), "plots": artifact("HTML")}
    model = artifact("Model", package.path)
    call(evaluate, dataset=artifact("Dataset", frozen), model=model, evaluation=evaluation, metrics=metrics, **seen)
    return evaluation, metrics


def drawn(artifact: Make, frozen: Path, package: ModelPackage) -> tuple[Any, str]:
    """The curve's artifact and the page that the evaluation leaves."""
    roc, plots = artifact("ClassificationMetrics"), artifact("HTML")
    made = {"evaluation": artifact("Artifact"), "metrics": artifact("Metrics"), "roc": roc, "plots": plots}
    call(evaluate, dataset=artifact("Dataset", frozen), model=artifact("Model", package.path), **made)
    return roc, Path(plots.path).read_text()


def test_a_forecaster_is_drawn_beside_what_came(
    registry: Registry, frozen: Path, forecaster: ModelPackage, artifact: Make
) -> None:
    roc, page = drawn(artifact, frozen, forecaster)
    assert roc.metadata == {}
    assert page.startswith("<!doctype html>")
    assert page.count("<polygon") == 3  # one interval per feature
    assert "f0 of node/worker-" in page
    assert "http" not in page.replace("http-equiv", "")  # it opens where nothing else can be reached


def test_a_detectors_curve_separates_faults_from_untouched_windows(
    registry: Registry, frozen: Path, tmp_path: Path, artifact: Make
) -> None:
    model = artifact("Model")
    call(train_detector, dataset=artifact("Dataset", frozen), model=model, device="cpu")
    roc, page = drawn(artifact, frozen, ModelPackage.load(Path(model.path)))
    points = roc.metadata["confidenceMetrics"]
    rates = [(point["falsePositiveRate"], point["recall"]) for point in points]
    assert rates[0] == (0.0, 0.0)
    assert rates[-1] == (1.0, 1.0)
    assert rates == sorted(rates)
    assert all(math.isfinite(point["confidenceThreshold"]) for point in points)
    area = float(page.partition("area ")[2].partition("<")[0])
    assert area > 0.8  # faults of three robust scales are not subtle
    assert page.count("<polyline") == 2


def test_evaluate_compares_with_peers_when_nothing_is_in_service(
    registry: Registry, frozen: Path, forecaster: ModelPackage, artifact: Make
) -> None:
    evaluation, metrics = evaluated(artifact, frozen, forecaster)
    data = json.loads(Path(evaluation.path).read_text())
    assert data["incumbent"] is None
    assert "no version is in service" in data["incumbent_note"]
    assert data["candidate"]["package_sha256"] == forecaster.sha256
    assert metrics.metadata["score"] == data["candidate"]["score"]
    assert set(data["candidate"]["peers"]) >= {"persistence", "seasonal_naive"}


def test_evaluate_judges_the_version_in_service_on_the_same_data(
    registry: Registry, frozen: Path, forecaster: ModelPackage, artifact: Make
) -> None:
    version = registry.register(forecaster)
    registry.set_state(FORECASTER, version.version, State.SERVING)
    evaluation, _ = evaluated(artifact, frozen, forecaster)
    data = json.loads(Path(evaluation.path).read_text())
    assert data["incumbent_version"] == version.version
    assert data["incumbent"]["score"] == data["candidate"]["score"]
    assert data["incumbent"]["window"] == data["candidate"]["window"]


def test_evaluate_refuses_a_model_of_another_contract(
    registry: Registry, tmp_path: Path, packages: dict[str, ModelPackage], contract: FeatureContract, artifact: Make
) -> None:
    import dataclasses

    other = dataclasses.replace(contract, features=contract.features[:2])
    freeze(make_panel(other, days=6), tmp_path / "other", train=0.7, calibration=0.15)
    with pytest.raises(ContractMismatch):
        evaluated(artifact, tmp_path / "other", packages[FORECASTER])


def _evaluation(score: float | None, peer: float | None) -> dict[str, Any]:
    candidate = {
        "model": FORECASTER, "package_sha256": "p", "contract_sha256": "c", "window": {}, "primary": "scrps",
        "score": score, "peers": {"persistence": peer}, "blocks": {"model": [0.1] * 6}, "by_kind": {}, "figures": {},
        "checks": [],
    }  # fmt: skip
    return {"name": FORECASTER, "candidate": candidate, "incumbent": None, "incumbent_note": "peers only"}


@pytest.mark.parametrize(
    ("figure", "peer", "verdict"),
    [
        (0.1, 0.2, "passed"),
        (0.2, 0.1, "rejected"),
        (0.1, 0.1, "rejected"),
        (math.nan, 0.2, "rejected"),
        (0.1, math.nan, "rejected"),
        (None, 0.2, "rejected"),
        (math.inf, 0.2, "rejected"),
        (-math.inf, 0.2, "rejected"),
    ],
)
def test_the_gate_passes_only_what_is_clearly_better(
    artifact: Make, figure: float | None, peer: float | None, verdict: str
) -> None:
    evaluation, reasons = artifact("Artifact"), artifact("Markdown")
    Path(evaluation.path).write_text(json.dumps(_evaluation(figure, peer)))
    assert call(gate, evaluation=evaluation, reasons=reasons) == verdict
    assert Path(reasons.path).read_text().startswith(f"# {FORECASTER}: {verdict}")
    assert reasons.metadata["why"]


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"candidate": {}})])
def test_the_gate_stops_on_what_is_no_evaluation(artifact: Make, content: str) -> None:
    evaluation = artifact("Artifact")
    Path(evaluation.path).write_text(content)
    with pytest.raises(InvalidInput, match="no evaluation"):
        call(gate, evaluation=evaluation, reasons=artifact("Markdown"))


def registered(
    artifact: Make, frozen: Path, package: ModelPackage, *, verdict: str = "passed", run_id: str = "r1"
) -> str:
    evaluation = artifact("Artifact")
    peers = {"persistence": 0.7, "broken": math.nan}
    candidate = {
        "primary": "missed", "score": 0.5, "peers": peers, "figures": {"mase": 0.9}, "blocks": {"model": [0.5] * 6},
        "by_kind": {"node": {"model": 0.4, "persistence": 0.8}},
        "window": {"start_ns": 0, "end_ns": 86_400_000_000_000},
    }  # fmt: skip
    Path(evaluation.path).write_text(json.dumps({"candidate": candidate, "incumbent_version": None}))
    return str(
        call(
            register,
            dataset=artifact("Dataset", frozen),
            model=artifact("Model", package.path),
            evaluation=evaluation,
            reasons=artifact("Markdown", why="because"),
            verdict=verdict,
            run_id=run_id,
            run_name="train-1",
        )
    )


def test_register_keeps_verdict_figures_dataset_and_lineage(
    registry: Registry, frozen: Path, packages: dict[str, ModelPackage], artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERHEAL_BUILD__GIT_COMMIT", "abc123")
    monkeypatch.setenv("CLUSTERHEAL_BUILD__IMAGE", "quay.io/example/pipeline@sha256:1")
    name = registered(artifact, frozen, packages[DETECTOR])
    version = registry.get(DETECTOR, name)
    assert version.state is State.CANDIDATE
    assert version.lineage == Lineage(run_id="r1", run_name="train-1")
    expected = {
        "gate_verdict": "passed",
        "gate_reasons": "because",
        "compared_with": "naive peers only",
        "dataset_sha256": thaw(frozen).sha256,
        "metric.score": 0.5,
        "metric.peers.persistence": 0.7,
        "metric.figures.mase": 0.9,
        "git_commit": "abc123",
        "image": "quay.io/example/pipeline@sha256:1",
    }
    assert {key: version.properties.get(key) for key in expected} == expected
    assert "metric.peers.broken" not in version.properties


def test_what_is_registered_tells_its_results_on_its_card(
    registry: Registry, frozen: Path, forecaster: ModelPackage, artifact: Make, tmp_path: Path
) -> None:
    kept = registry.fetch(registry.get(FORECASTER, registered(artifact, frozen, forecaster)), tmp_path / "kept")
    card = (kept.path / "MODEL_CARD.md").read_text()
    assert NOT_EVALUATED not in card
    assert "`missed`, lower is better, on held-out time from 1970-01-01 00:00 UTC to 1970-01-02 00:00 UTC" in card
    assert "| all | 0.500 | 0.700 | - |\n| node | 0.400 | 0.800 | - |" in card
    assert kept.metrics["evaluation"]["peers"] == {"persistence": 0.7, "broken": None}
    assert "blocks" not in kept.metrics["evaluation"]
    assert NOT_EVALUATED in (forecaster.path / "MODEL_CARD.md").read_text(), "the step's input stays as it was"
    assert ModelPackage.load(forecaster.path).sha256 == forecaster.sha256


def test_register_keeps_the_calibrations_own_figures(
    registry: Registry, frozen: Path, forecaster: ModelPackage, artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERHEAL_BUILD__GIT_COMMIT", "")  # an image that was built without it
    version = registry.get(FORECASTER, registered(artifact, frozen, forecaster))
    assert version.properties["calibration.coverage80_after"] == forecaster.calibration["coverage80_after"]
    assert "git_commit" not in version.properties
    assert all(isinstance(value, bool | int | float | str) for value in version.properties.values())


def test_registering_again_after_a_lost_step_gives_the_same_version(
    registry: Registry, frozen: Path, packages: dict[str, ModelPackage], artifact: Make
) -> None:
    names = {registered(artifact, frozen, packages[DETECTOR]) for _ in range(2)}
    assert names == {"v000001"}


def test_a_rejected_model_is_registered_as_rejected(
    registry: Registry, frozen: Path, packages: dict[str, ModelPackage], artifact: Make
) -> None:
    name = registered(artifact, frozen, packages[DETECTOR], verdict="rejected")
    assert registry.get(DETECTOR, name).state is State.REJECTED
    with pytest.raises(InvalidInput, match="rejected"):
        call(stage, name=DETECTOR, version=name)
    with pytest.raises(InvalidInput, match="no candidate"):
        call(stage, name=DETECTOR)


def test_register_refuses_a_verdict_that_no_gate_gives(
    registry: Registry, frozen: Path, packages: dict[str, ModelPackage], artifact: Make
) -> None:
    with pytest.raises(InvalidInput, match="verdict"):
        registered(artifact, frozen, packages[DETECTOR], verdict="True")
    assert registry.versions(DETECTOR) == []


def test_stage_takes_the_newest_candidate_and_proves_its_package(
    registry: Registry, frozen: Path, packages: dict[str, ModelPackage], artifact: Make
) -> None:
    name = registered(artifact, frozen, packages[FORECASTER])
    assert call(stage, name=FORECASTER) == name
    path = registry.get(FORECASTER, name).path
    (path / "model.onnx").chmod(0o644)
    (path / "model.onnx").write_bytes(b"something else")
    with pytest.raises(PermanentError):
        call(stage, name=FORECASTER)


class Status:
    """What KFP hands to an exit task."""

    state = "FAILED"
    error_message = "step failed"


def test_notify_tells_the_outcome_and_where_the_runs_models_stand(
    registry: Registry, frozen: Path, packages: dict[str, ModelPackage], artifact: Make
) -> None:
    mine = registered(artifact, frozen, packages[DETECTOR], run_id="mine")
    registered(artifact, frozen, packages[FORECASTER], run_id="another")
    report = artifact("Markdown")
    said = call(notify, status=Status(), run_id="mine", report=report)
    assert said == f"Run mine: failed, step failed; {DETECTOR} {mine} candidate, gate passed"
    assert Path(report.path).read_text().startswith("# Run mine: failed, step failed")


@pytest.mark.parametrize(
    ("state", "word"), [("COMPLETE", "succeeded"), ("SUCCEEDED", "succeeded"), ("FAILED", "failed")]
)
def test_notify_knows_the_states_of_both_runners(registry: Registry, artifact: Make, state: str, word: str) -> None:
    class Ended:
        error_message = None

    Ended.state = state  # type: ignore[attr-defined]
    assert call(notify, status=Ended(), run_id="mine", report=artifact("Markdown")) == f"Run mine: {word}"


def test_notify_never_fails_a_run(artifact: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERHEAL_REGISTRY__URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CLUSTERHEAL_REGISTRY__ATTEMPTS", "1")
    monkeypatch.setenv("CLUSTERHEAL_TRAINING__NOTIFY_URL", "http://127.0.0.1:9/hook")
    said = call(notify, status=Status(), run_id="mine", report=artifact("Markdown"))
    assert "the registry could not be asked" in said


def test_notify_posts_where_the_settings_say(
    registry: Registry, artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    sent: list[tuple[str, dict[str, Any]]] = []

    def post(url: str, *, json: dict[str, Any], timeout: float) -> httpx.Response:
        sent.append((url, json))
        return httpx.Response(200, request=httpx.Request("POST", url))

    monkeypatch.setenv("CLUSTERHEAL_TRAINING__NOTIFY_URL", "http://hook.example/x")
    monkeypatch.setattr("httpx.post", post)
    said = call(notify, status=Status(), run_id="mine", report=artifact("Markdown"))
    assert sent == [("http://hook.example/x", {"run_id": "mine", "state": "FAILED", "text": said})]


def test_plan_backfill_names_every_shard_once() -> None:
    end = "2026-01-05T00:00:00+00:00"
    planned = call(plan_backfill, end="2026-01-05T00:00:00Z", shards=3)
    assert planned == [{"shard": f"{index}/3", "end": end} for index in range(3)]


@pytest.mark.parametrize("shards", [0, -1, 65])
def test_plan_backfill_refuses_counts_that_mean_nothing(shards: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 64 shards"):
        call(plan_backfill, end="2026-01-05T00:00:00Z", shards=shards)


def _serve(registry: Registry, package: ModelPackage) -> None:
    version = registry.register(package)
    registry.set_state(package.name, version.version, State.SERVING)


@pytest.mark.parametrize("name", [DETECTOR, FORECASTER])
def test_score_keeps_every_verdict(
    name: str, registry: Registry, frozen: Path, packages: dict[str, ModelPackage], artifact: Make
) -> None:
    import pyarrow.parquet as pq

    _serve(registry, packages[name])
    scores, metrics = artifact("Dataset"), artifact("Metrics")
    call(score_window, dataset=artifact("Dataset", frozen), name=name, scores=scores, metrics=metrics, hours=12.0)
    table = pq.read_table(scores.path)
    assert table.num_rows == metrics.metadata["scored"]
    if name == DETECTOR:
        assert table.num_rows == 4 * 144
        assert metrics.metadata["alarm_rate"] == pytest.approx(np.mean(table["alarm"].to_numpy()))
    else:
        assert table.num_rows == 4 * 3 * 120  # two whole horizons of 60 steps
        assert metrics.metadata["coverage80"] == pytest.approx(np.mean(table["inside"].to_numpy()))


def test_score_needs_a_version_in_service_and_a_window(
    registry: Registry, frozen: Path, packages: dict[str, ModelPackage], artifact: Make
) -> None:
    options = {"dataset": artifact("Dataset", frozen), "scores": artifact("Dataset"), "metrics": artifact("Metrics")}
    with pytest.raises(InvalidInput, match="release one first"):
        call(score_window, **options, name=DETECTOR)
    _serve(registry, packages[FORECASTER])
    with pytest.raises(InvalidInput, match="hours"):
        call(score_window, **options, name=FORECASTER, hours=0.0)
    with pytest.raises(InvalidInput, match="shorter than one forecast"):
        call(score_window, **options, name=FORECASTER, hours=1.0)
