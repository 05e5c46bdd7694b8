"""What the fitted forecaster promises, whatever it is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clusterheal_models.evaluation import evaluate
from clusterheal_models.export import TOLERANCE, relative_difference, run_onnx, session
from clusterheal_models.forecaster import LEVELS, fit
from clusterheal_models.forecaster.model import band_width
from clusterheal_models.gate import decide
from clusterheal_models.package import inspect_graph

from clusterheal.contracts import FORECASTER, FeaturePanel, ModelInputs, ModelPackage, TimeSplit, model_inputs
from clusterheal.contracts.requests import golden_tensors
from clusterheal.errors import ContractMismatch, DataQualityError

from .conftest import SEASON, SMALL, WINDOW, Fitted, panel_of, planted


def one(values: np.ndarray, feature: int = 0) -> ModelInputs:
    """A request for a new entity whose `feature` has the history `values`, oldest first; other features are unknown."""
    full = np.full((2, len(values), 3), np.nan)
    full[0, :, feature] = values
    return model_inputs(panel_of(full))


T = np.arange(200)
ODD = {
    "constant": np.full(200, 7.0),
    "zero": np.zeros(200),
    "single point": np.where(T == 199, 3.0, np.nan),
    "single old point": np.where(T == 100, 3.0, np.nan),
    "spiky": np.where(T % 37 == 0, 1e6, 1.0),
    "regime change": np.where(T < 190, 1.0, 500.0),
    "counter reset": (T % 90) * 1e4,
    "gap": np.where((T > 120) & (T < 190), np.nan, np.sin(T / 8)),
    "all recent missing": np.where(T > 170, np.nan, np.sin(T / 8)),
    "negative": -1e3 - T,
    "huge": 1e15 * (1 + 0.1 * np.sin(T)),
    "tiny": 1e-9 * (1 + 0.1 * np.sin(T)),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("feature", [0, 1])
def test_odd_series_get_finite_ordered_forecasts_near_what_was_seen(fitted: Fitted, name: str, feature: int) -> None:
    history = ODD[name]
    quantiles = fitted.forecaster.predict(one(history, feature))[0, :, feature]
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    if feature == 0:
        seen = history[np.isfinite(history)]
        prior = float(fitted.forecaster.net.prior_scale[0])
        reach = 10 * (seen.max() - seen.min()) + 10 * prior + 1e-3 * np.abs(seen).max()
        assert quantiles.min() >= seen.min() - reach
        assert quantiles.max() <= seen.max() + reach


def test_a_series_without_samples_gets_no_forecast_instead_of_an_invented_one(fitted: Fitted) -> None:
    quantiles = fitted.forecaster.predict(one(np.full(200, np.nan)))
    assert np.isnan(quantiles).all()


def test_a_constant_series_is_expected_to_stay(fitted: Fitted) -> None:
    quantiles = fitted.forecaster.predict(one(np.full(200, 7.0)))[0, :, 0]
    np.testing.assert_allclose(quantiles, 7.0, atol=0.5)


def test_a_single_sample_leaves_more_doubt_than_a_steady_history(fitted: Fitted) -> None:
    steady = fitted.forecaster.predict(one(np.full(200, 7.0)))[0, :, 0]
    single = fitted.forecaster.predict(one(np.where(T == 199, 7.0, np.nan)))[0, :, 0]
    assert (single[:, -1] - single[:, 0]).mean() > 5 * (steady[:, -1] - steady[:, 0]).mean()


@pytest.mark.parametrize("factor", [16.0, 1024.0])
def test_the_forecast_scales_with_the_series(fitted: Fitted, factor: float) -> None:
    history = 20 * (3 + np.sin(2 * np.pi * T / SEASON))
    once = fitted.forecaster.predict(one(history))[0, :, 0]
    scaled = fitted.forecaster.predict(one(factor * history))[0, :, 0]
    np.testing.assert_allclose(scaled, factor * once, rtol=0.02)


def test_shifting_a_series_shifts_its_median(fitted: Fitted) -> None:
    history = 20 * np.sin(2 * np.pi * T / SEASON)
    once = fitted.forecaster.predict(one(history + 60))[0, :, 0, 4]
    moved = fitted.forecaster.predict(one(history + 75))[0, :, 0, 4]
    np.testing.assert_allclose(moved - once, 15.0, atol=3.0)


def test_the_plausible_range_of_the_contract_bounds_the_forecast(fitted: Fitted) -> None:
    falling = np.maximum(200.0 - 1.2 * T, 0.0)
    quantiles = fitted.forecaster.predict(one(falling, feature=1))[0, :, 1]
    assert quantiles.min() >= 0.0


def test_entities_do_not_influence_each_other(fitted: Fitted) -> None:
    inputs = model_inputs(fitted.panel, origin=700)
    alone = ModelInputs(
        recent=inputs.recent[1:2],
        seasonal=inputs.seasonal[1:2],
        timestamp=inputs.timestamp[1:2],
        entity=inputs.entity[1:2],
    )
    together = fitted.forecaster.predict(inputs)[1]
    np.testing.assert_allclose(fitted.forecaster.predict(alone)[0], together, rtol=1e-4)


def test_a_permuted_contract_is_refused(fitted: Fitted, tmp_path: Path) -> None:
    package = fitted.forecaster.export(tmp_path)
    order = [1, 0, 2]
    contract = replace(fitted.panel.contract, features=tuple(fitted.panel.contract.features[i] for i in order))
    permuted = FeaturePanel(
        values=np.ascontiguousarray(fitted.panel.values[:, :, order]),
        timestamps=fitted.panel.timestamps,
        entities=fitted.panel.entities,
        contract=contract,
    )
    with pytest.raises(ContractMismatch):
        evaluate(package, permuted, fitted.split)


def test_the_package_answers_what_the_model_answers_also_with_gaps(fitted: Fitted, tmp_path: Path) -> None:
    package = ModelPackage.load(fitted.forecaster.export(tmp_path).path)
    assert package.name == FORECASTER
    inspect_graph(package)
    inputs = model_inputs(fitted.panel, origin=700)
    holes = np.random.default_rng(0).random(inputs.recent.shape) < 0.4
    inputs = replace(inputs, recent=np.where(holes, np.nan, inputs.recent).astype(np.float32))
    answer = run_onnx(session(package.model_path), inputs.tensors())
    np.testing.assert_allclose(answer["quantiles"], fitted.forecaster.predict(inputs), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(answer["levels"], LEVELS, atol=1e-6)
    assert answer["quantiles"].shape == (5, WINDOW.horizon_steps, 3, 9)


def test_the_package_equals_torch_within_a_ten_thousandth_of_each_odd_series(fitted: Fitted, tmp_path: Path) -> None:
    """Also where a quantile lies near zero: there the two differ by what rounding leaves of the window's scale."""
    package = fitted.forecaster.export(tmp_path)
    rows = [one(history, feature) for history in ODD.values() for feature in (0, 1)]
    inputs = ModelInputs(
        recent=np.concatenate([r.recent[:1] for r in rows]),
        seasonal=np.concatenate([r.seasonal[:1] for r in rows]),
        timestamp=np.concatenate([r.timestamp[:1] for r in rows]),
        entity=tuple(r.entity[0] for r in rows),
    )
    want = fitted.forecaster.predict(inputs)
    have = run_onnx(session(package.model_path), inputs.tensors())["quantiles"]
    assert relative_difference(want, have, band_width(want)) < TOLERANCE


def test_a_wrong_ratio_is_noticed_beside_right_bytes() -> None:
    want = np.stack([np.full((1, 4, 9), 1e9), np.linspace(0.4, 0.5, 9) * np.ones((1, 4, 1))], axis=2)
    have = want.copy()
    have[0, 2, 1, 4] += 0.001
    assert relative_difference(want, have, band_width(want)) == pytest.approx(0.001 / 0.45)
    near_zero = want - np.array([0.0, 0.45])[:, None]
    have = near_zero.copy()
    have[0, 2, 1, 4] += 0.001
    assert relative_difference(near_zero, have, band_width(near_zero)) == pytest.approx(0.001 / 0.1)


def test_the_golden_request_has_an_entity_of_each_kind(fitted: Fitted, tmp_path: Path) -> None:
    inputs, outputs = golden_tensors(fitted.forecaster.export(tmp_path).sample_request)
    assert np.isfinite(inputs["recent"]).any((0, 1)).all()
    assert np.isfinite(outputs["quantiles"]).any((0, 1, 3)).all()


def test_the_golden_request_is_answered_by_the_package(fitted: Fitted, tmp_path: Path) -> None:
    package = fitted.forecaster.export(tmp_path)
    inputs, outputs = golden_tensors(package.sample_request)
    answer = run_onnx(session(package.model_path), inputs)
    np.testing.assert_allclose(answer["quantiles"], outputs["quantiles"], rtol=1e-5)


def test_packages_are_reproducible_to_the_byte(fitted: Fitted, tmp_path: Path) -> None:
    quick = replace(SMALL, max_steps=20, evaluate_every=10)
    shas = {fit(fitted.panel, fitted.split, quick).export(tmp_path / str(i)).sha256 for i in range(2)}
    assert len(shas) == 1
    other = fit(fitted.panel, fitted.split, replace(quick, seed=8)).export(tmp_path / "other")
    assert other.sha256 not in shas


def test_training_leaves_the_global_generator_alone(fitted: Fitted) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fit(fitted.panel, fitted.split, replace(SMALL, max_steps=2, evaluate_every=1))
    assert torch.equal(torch.rand(3), expected)


def test_nothing_after_the_calibration_slice_is_looked_at(fitted: Fitted, tmp_path: Path) -> None:
    quick = replace(SMALL, max_steps=10, evaluate_every=5)
    changed = fitted.panel.values.copy()
    changed[:, np.searchsorted(fitted.panel.timestamps, fitted.split.calibration_end_ns) :] = 1e5
    other = replace(fitted.panel, values=changed)
    first, second = (
        fit(p, fitted.split, quick).export(tmp_path / name) for p, name in ((fitted.panel, "a"), (other, "b"))
    )
    assert first.sha256 == second.sha256


def test_two_seeds_agree(fitted: Fitted) -> None:
    other = fit(fitted.panel, fitted.split, replace(SMALL, seed=99))
    inputs = model_inputs(fitted.panel, origin=800)
    medians = [f.predict(inputs)[0, :, 0, 4] for f in (fitted.forecaster, other)]
    spread = np.nanstd(fitted.panel.values[0, :, 0])
    assert np.abs(medians[0] - medians[1]).mean() < 0.2 * spread


def test_learning_a_planted_season_beats_the_naive_peers_and_passes_the_gate(fitted: Fitted, tmp_path: Path) -> None:
    figures = evaluate(fitted.forecaster.export(tmp_path), fitted.panel, fitted.split)
    assert figures["score"] < 0.6 * figures["peers"]["persistence"]
    assert decide(figures, None).passed, decide(figures, None).reasons
    assert 0.6 <= figures["figures"]["coverage80"] <= 0.97
    assert set(figures["by_kind"]) == {"pod", "node"}


def test_a_model_trained_on_shuffled_time_fails_the_gate(fitted: Fitted, tmp_path: Path) -> None:
    walk = np.cumsum(np.random.default_rng(5).normal(size=(5, 900, 3)), axis=1) + 500
    honest = panel_of(walk)
    end = int(np.searchsorted(honest.timestamps, fitted.split.calibration_end_ns))
    shuffled = walk.copy()
    shuffled[:, :end] = walk[:, np.random.default_rng(0).permutation(end)]
    package = fit(panel_of(shuffled), fitted.split, SMALL).export(tmp_path)
    verdict = decide(evaluate(package, honest, fitted.split), None)
    assert not verdict.passed
    assert any("does not beat persistence" in reason for reason in verdict.reasons)


def test_a_season_that_training_never_saw_does_not_sway_the_forecast(fitted: Fitted) -> None:
    short = panel_of(planted(n_steps=100))
    split = TimeSplit.by_fraction(short.timestamps, train=0.65, calibration=0.2)
    model = fit(short, split, replace(SMALL, max_steps=10, evaluate_every=5))
    assert model.net.usable_lag.tolist() == [1.0, 0.0]
    inputs = model_inputs(fitted.panel, origin=700)
    wild = inputs.seasonal.copy()
    wild[:, 1] = 1e6
    np.testing.assert_array_equal(model.predict(inputs), model.predict(replace(inputs, seasonal=wild)))


def test_too_short_a_history_is_refused_with_the_numbers() -> None:
    panel = panel_of(planted(n_steps=40))
    split = TimeSplit.by_fraction(panel.timestamps, train=0.5, calibration=0.2)
    with pytest.raises(DataQualityError, match="expected at least 24 and 12"):
        fit(panel, split, SMALL)


def test_the_forecast_is_no_shifted_copy_of_the_newest_samples(fitted: Fitted) -> None:
    """A model trained without a time shift repeats its input; this one has to be far nearer to what came."""
    window = fitted.panel.contract.window
    origins = range(780, 880, 10)
    answer = np.stack([fitted.forecaster.predict(model_inputs(fitted.panel, origin=o))[0, :, 0, 4] for o in origins])
    came = np.stack([fitted.panel.values[0, o + 1 : o + 1 + window.horizon_steps, 0] for o in origins])
    seen = np.stack([fitted.panel.values[0, o + 1 - window.horizon_steps : o + 1, 0] for o in origins])
    assert np.abs(answer - came).mean() < 0.5 * np.abs(answer - seen).mean()
    assert np.corrcoef(answer.ravel(), came.ravel())[0, 1] > 0.9


def test_an_entity_that_training_never_saw_is_forecast_nearly_as_well(fitted: Fitted) -> None:
    def error(values: np.ndarray) -> float:
        panel = panel_of(values)
        answer = np.concatenate(
            [fitted.forecaster.predict(model_inputs(panel, origin=o))[:-1, :, 0, 4] for o in (700, 800)]
        )
        came = np.concatenate([panel.values[:-1, o + 1 : o + 13, 0] for o in (700, 800)])
        return float((np.abs(answer - came) / came.std(1, keepdims=True)).mean())

    assert error(planted(seed=77)) < 1.3 * error(planted(seed=0))


def test_nothing_in_a_package_is_a_pickle(fitted: Fitted, tmp_path: Path) -> None:
    fitted.forecaster.export(tmp_path)
    for file in tmp_path.iterdir():
        assert file.suffix in {".json", ".onnx", ".md"}
        assert not file.read_bytes().startswith(b"\x80")
