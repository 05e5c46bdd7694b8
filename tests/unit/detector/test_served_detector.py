"""The exported graph: what a caller of the served detector may rely on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from clusterheal_models.detector import Detector, fit
from clusterheal_models.detector.graph import OUTPUT_NAMES
from clusterheal_models.detector.memory import no_memory
from clusterheal_models.detector.windows import Windows
from clusterheal_models.evaluation import evaluate
from clusterheal_models.export import run_onnx, session
from clusterheal_models.gate import decide

from clusterheal.contracts import FeaturePanel, ModelInputs, ModelPackage, TimeSplit, model_inputs
from clusterheal.errors import ContractMismatch

from .conftest import CONFIG, make_panel, with_values

Answer = Mapping[str, npt.NDArray[Any]]


def ask(package: ModelPackage, inputs: ModelInputs, *, unknown: bool = False) -> Answer:
    listed = {key: i for i, key in enumerate(package.calibration["entities"])}
    index = np.array([-1 if unknown else listed.get(key, -1) for key in inputs.entity], np.int64)
    tensors = {"recent": inputs.recent, "seasonal": inputs.seasonal, "timestamp": inputs.timestamp}
    memory = no_memory(len(index)).numpy()
    return run_onnx(loaded(package.path), {**tensors, "entity_index": index, "memory": memory})


@cache
def loaded(path: Path) -> Any:
    return session(path / "model.onnx")


def changed(panel: FeaturePanel, entity: int, rows: slice, feature: int, to: npt.ArrayLike) -> FeaturePanel:
    values = panel.values.copy()
    values[entity, rows, feature] = to
    return with_values(panel, values)


def test_onnx_answers_what_torch_answers(detector: Detector, package: ModelPackage, panel: FeaturePanel) -> None:
    for origin in (200, len(panel.timestamps) - 1):  # the first has gaps where days are missing
        inputs = model_inputs(panel, origin=origin)
        with torch.no_grad():
            expected = detector.fitted.graph(
                *(torch.from_numpy(x) for x in (inputs.recent, inputs.seasonal, inputs.timestamp)),
                torch.arange(len(panel.entities)),
                no_memory(len(panel.entities)),
            )
        answer = ask(package, inputs)
        for name, want in zip(OUTPUT_NAMES, expected, strict=True):
            np.testing.assert_allclose(answer[name], want.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_loaded_package_scores_like_the_one_that_was_saved(package: ModelPackage, panel: FeaturePanel) -> None:
    loaded = ModelPackage.load(package.path)
    inputs = model_inputs(panel)
    before, after = ask(package, inputs), ask(loaded, inputs)
    for name in OUTPUT_NAMES:
        np.testing.assert_array_equal(before[name], after[name])


def test_batch_size_does_not_change_an_answer(package: ModelPackage, panel: FeaturePanel) -> None:
    inputs = model_inputs(panel)
    one = replace(
        inputs,
        recent=inputs.recent[2:3],
        seasonal=inputs.seasonal[2:3],
        timestamp=inputs.timestamp[2:3],
        entity=inputs.entity[2:3],
    )
    np.testing.assert_allclose(ask(package, one)["score"], ask(package, inputs)["score"][2:3], rtol=1e-5)


def test_training_windows_are_the_requests_of_serving(panel: FeaturePanel) -> None:
    origins = np.array([5, 700, len(panel.timestamps) - 1])
    batch = Windows(panel, 1).at(origins)
    for i, origin in enumerate(origins):
        inputs = model_inputs(panel, origin=int(origin))
        np.testing.assert_array_equal(batch.recent[i].numpy(), inputs.recent[1])
        np.testing.assert_array_equal(batch.seasonal[i].numpy(), inputs.seasonal[1])
        assert int(batch.timestamp[i]) == inputs.timestamp[1]


def test_what_comes_later_does_not_change_a_score(package: ModelPackage, panel: FeaturePanel) -> None:
    origin = 2500
    values = panel.values.copy()
    values[:, origin + 1 :] = 99.0
    before = ask(package, model_inputs(panel, origin=origin))
    after = ask(package, model_inputs(with_values(panel, values), origin=origin))
    for name in OUTPUT_NAMES:
        np.testing.assert_array_equal(before[name], after[name])


def test_time_after_calibration_does_not_change_the_model(
    detector: Detector, panel: FeaturePanel, split: TimeSplit
) -> None:
    values = panel.values.copy()
    values[:, np.searchsorted(panel.timestamps, split.calibration_end_ns) :] = -7.0
    again = fit(with_values(panel, values), split, CONFIG)
    for name, table in detector.fitted.graph.state_dict().items():
        assert torch.equal(table, again.fitted.graph.state_dict()[name]), name


def test_contributions_add_up_to_the_score(package: ModelPackage, panel: FeaturePanel) -> None:
    for origin in (2100, 2500, 2879):
        answer = ask(package, model_inputs(panel, origin=origin))
        np.testing.assert_allclose(answer["contribution"].sum(1), answer["score"], rtol=1e-4)
        assert (answer["contribution"] >= 0).all()


def test_the_metric_that_broke_contributes_most_and_absent_ones_nothing(
    package: ModelPackage, panel: FeaturePanel
) -> None:
    answer = ask(package, model_inputs(changed(panel, 0, slice(-3, None), 2, 0.97)))
    assert answer["contribution"][0].argmax() == 2
    assert answer["contribution"][0, 2] > 0.5 * answer["score"][0]
    assert (answer["contribution"][0, 4:] == 0).all()  # features of nodes
    assert (answer["contribution"][3, :4] == 0).all()  # features of workloads


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_leak_alarms_confidently_within_two_steps_and_normal_operation_does_not(
    package: ModelPackage, panel: FeaturePanel, steps: int
) -> None:
    normal = ask(package, model_inputs(panel))
    ramp = np.linspace(float(panel.values[0, -steps - 1, 1]), 0.97, steps + 1)[1:]
    leaking = ask(package, model_inputs(changed(panel, 0, slice(-steps, None), 1, ramp)))
    assert not normal["alarm"].any()
    assert normal["confidence"].max() < 0.8
    assert leaking["alarm"].tolist() == [True, False, False, False]
    assert leaking["confidence"][0] >= 0.8
    assert leaking["score"][0] == pytest.approx(-np.log10(leaking["tail_probability"][0]), rel=1e-3)


def test_healthy_idle_and_saturated_are_told_apart(package: ModelPackage, panel: FeaturePanel) -> None:
    idle, saturated = panel.values.copy(), panel.values.copy()
    idle[0, -24:, :4] = 0.01
    saturated[0, -24:, :4] = 1.0
    scores = [float(ask(package, model_inputs(p))["score"][0]) for p in (panel, *map_panels(panel, idle, saturated))]
    assert scores[0] < 2 < 4 < min(scores[1:])


def map_panels(panel: FeaturePanel, *values: npt.NDArray[np.float32]) -> list[FeaturePanel]:
    return [with_values(panel, v) for v in values]


def test_an_unknown_entity_is_judged_by_its_own_window(package: ModelPackage, panel: FeaturePanel) -> None:
    elsewhere = with_values(panel, panel.values * 40 + 1000)  # another level and scale than anything in training
    normal = ask(package, model_inputs(elsewhere), unknown=True)
    values = elsewhere.values.copy()
    values[0, -2:, 1] += 30.0
    broken = ask(package, model_inputs(with_values(elsewhere, values)), unknown=True)
    assert not normal["alarm"].any()
    assert broken["alarm"][0]
    assert broken["contribution"][0].argmax() == 1


def test_the_band_holds_most_samples(package: ModelPackage, panel: FeaturePanel) -> None:
    inside = []
    for origin in range(2500, 2880, 10):
        inputs = model_inputs(panel, origin=origin)
        answer, newest = ask(package, inputs), inputs.recent[:, -1]
        seen = np.isfinite(newest)
        assert (answer["expected_low"][seen] <= answer["expected_median"][seen]).all()
        assert (answer["expected_median"][seen] <= answer["expected_high"][seen]).all()
        inside.append(((newest >= answer["expected_low"]) & (newest <= answer["expected_high"]))[seen].mean())
    assert 0.7 <= np.mean(inside) <= 0.9


def odd_series(panel: FeaturePanel) -> dict[str, npt.NDArray[np.float32]]:
    n = len(panel.timestamps)
    rng = np.random.default_rng(3)
    one = np.full(n, np.nan)
    one[n // 2] = 1.0
    spiky = rng.normal(size=n) + 1e4 * (rng.random(n) < 0.01)
    gaps = np.where(rng.random(n) < 0.5, np.nan, rng.normal(size=n))
    return {
        "constant": np.full(n, 3.0),
        "zero": np.zeros(n),
        "all NaN": np.full(n, np.nan),
        "single point": one,
        "spiky": spiky,
        "regime change": np.where(np.arange(n) < 0.6 * n, 1.0, 500.0) + rng.normal(size=n),
        "seasonal": np.sin(2 * np.pi * np.arange(n) / 288),
        "counter reset": np.arange(n) % 300.0,
        "huge": 1e30 * rng.random(n),
        "gaps": gaps,
    }  # type: ignore[return-value]


def test_odd_series_give_finite_answers(panel: FeaturePanel, split: TimeSplit, tmp_path: Path) -> None:
    series = list(odd_series(panel).values())
    values = panel.values.copy()
    for i, odd in enumerate(series):
        values[i % 3, :, i // 3 % 4] = odd
    changed_panel = with_values(values=values, panel=panel)
    package = fit(changed_panel, split, CONFIG).export(tmp_path)
    for origin in (0, 1, 100, 2200, 2879):
        answer = ask(package, model_inputs(changed_panel, origin=origin))
        for name in ("score", "tail_probability", "confidence", "contribution"):
            assert np.isfinite(answer[name]).all(), name
    nothing = with_values(panel, np.full_like(panel.values, np.nan))
    silent = ask(package, model_inputs(nothing))
    assert (silent["score"] == 0).all()
    assert not silent["alarm"].any()


def test_the_same_data_and_seed_give_the_same_bytes(
    panel: FeaturePanel, split: TimeSplit, package: ModelPackage, tmp_path: Path
) -> None:
    again = fit(panel, split, CONFIG).export(tmp_path)
    assert again.sha256 == package.sha256


def test_two_seeds_agree(package: ModelPackage, panel: FeaturePanel, split: TimeSplit, tmp_path: Path) -> None:
    other = fit(panel, split, replace(CONFIG, seed=8)).export(tmp_path)
    scores = [
        np.concatenate([ask(p, model_inputs(panel, origin=o))["score"] for o in range(2450, 2880, 8)])
        for p in (package, other)
    ]
    assert np.corrcoef(*scores)[0, 1] > 0.9
    assert np.median(np.abs(scores[0] - scores[1])) < 0.15


def test_a_rescaled_or_permuted_feature_is_refused_by_contract(
    package: ModelPackage, panel: FeaturePanel, split: TimeSplit
) -> None:
    first, *rest = panel.contract.features
    for features in ((replace(first, unit="percent"), *rest), (*rest, first)):
        other = FeaturePanel(
            values=panel.values,
            timestamps=panel.timestamps,
            entities=panel.entities,
            contract=replace(panel.contract, features=features),
        )
        with pytest.raises(ContractMismatch):
            evaluate(package, other, split)


def test_the_package_lists_its_entities_and_states_its_bound(package: ModelPackage, panel: FeaturePanel) -> None:
    assert package.calibration["entities"] == list(panel.entities)
    assert package.calibration["false_alarms_per_entity_day"] == 1.0
    assert package.calibration["alarm_ratio"] == pytest.approx(1.65)
    assert package.calibration["alarm_score"] == pytest.approx(5.0)
    card = (package.path / "MODEL_CARD.md").read_text()
    assert all(word in card for word in ("Use", "Out of scope", "Limits", "threshold"))
    json.dumps(dict(package.metrics), allow_nan=False)


def test_it_beats_the_naive_peers_on_injected_faults(
    package: ModelPackage, panel: FeaturePanel, split: TimeSplit
) -> None:
    result = evaluate(package, panel, split)
    assert result["score"] < min(result["peers"].values())
    assert set(result["by_kind"]) == {"workload", "node"}
    assert decide(result, None).passed
    (guard,) = result["guards"]
    assert guard["score"] < min(guard["peers"].values())
    assert 0.75 <= result["figures"]["band_coverage80"] <= 0.85
    assert result["figures"]["alarms_begun_per_entity_day"] <= 1.0


def test_a_detector_of_noise_is_refused_by_the_gate(panel: FeaturePanel, split: TimeSplit, tmp_path: Path) -> None:
    """Trained on another cluster's values under the same keys, it alarms at everything."""
    other = make_panel(9)
    stranger = fit(with_values(panel, other.values * 10 - 3), split, CONFIG).export(tmp_path)
    verdict = decide(evaluate(stranger, panel, split), None)
    assert not verdict.passed


@pytest.mark.parametrize("seed", [0, 1])
def test_a_detector_trained_on_shuffled_time_is_refused_by_the_gate_with_margin(seed: int, tmp_path: Path) -> None:
    """Also where it finds the planted faults: what it expects next is no better than a guess."""
    panel = make_panel(seed)
    split = TimeSplit.by_fraction(panel.timestamps)
    known = int(np.searchsorted(panel.timestamps, split.calibration_end_ns))
    values = panel.values.copy()
    values[:, :known] = values[:, np.random.default_rng(seed).permutation(known)]
    result = evaluate(fit(with_values(panel, values), split, CONFIG).export(tmp_path), panel, split)
    (guard,) = result["guards"]
    assert guard["score"] > 1.5 * guard["peers"]["persistence"]
    reasons = decide(result | {"score": 0.0, "blocks": zero(result["blocks"])}, None).reasons
    assert any(reason.startswith("band_loss is worse than persistence") for reason in reasons)
    assert not decide(result | {"score": 0.0, "blocks": zero(result["blocks"])}, None).passed


def zero(blocks: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """As if no fault had been missed."""
    return {**blocks, "model": [0.0] * len(blocks["model"])}
