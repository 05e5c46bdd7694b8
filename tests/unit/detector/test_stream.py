"""Scoring long streams: causal, bounded in false alarms, and not to be dragged along by a flood of anomalies."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from clusterheal_models.detector import Detector, DetectorConfig, fit
from clusterheal_models.detector.stream import follow_baseline, hold, remove_drift, score_stream
from clusterheal_models.detector.tails import fit_tail, tail_score

from clusterheal.contracts import FeaturePanel, TimeSplit
from clusterheal.errors import DataQualityError

from .conftest import CONFIG, make_contract, make_panel, with_values


def test_what_comes_later_does_not_change_a_streamed_score(panel: FeaturePanel, split: TimeSplit) -> None:
    changed_from = 2600
    values = panel.values.copy()
    values[:, changed_from:] += 5.0
    results = []
    for version in (panel, with_values(panel, values)):
        steady = remove_drift(version, split, drift_steps=1000)
        results.append(score_stream(fit(steady, split, CONFIG), steady, 0, first=2450))
    before, after = results
    n = changed_from - 2450
    np.testing.assert_array_equal(before.score[:n], after.score[:n])
    np.testing.assert_array_equal(before.alarm[:n], after.alarm[:n])
    np.testing.assert_array_equal(before.contribution[:n], after.contribution[:n])
    assert (before.score[n:] != after.score[n:]).any()


def test_the_stream_adds_only_memory_to_the_served_score(detector: Detector, panel: FeaturePanel) -> None:
    """Before any memory has formed, the stream's first score is the graph's."""
    import torch
    from clusterheal_models.detector.windows import Windows

    first = 2500
    streamed = score_stream(detector, panel, 0, first=first)
    with torch.no_grad():
        served = detector.fitted.graph(*Windows(panel, 0).at(np.array([first])).arguments())[0]
    assert streamed.score[0] == pytest.approx(float(served[0]), abs=1e-4)


def test_streamed_contributions_add_up(detector: Detector, panel: FeaturePanel) -> None:
    scores = score_stream(detector, panel, 1, first=2450)
    np.testing.assert_allclose(scores.contribution.sum(1), scores.score, rtol=1e-3, atol=1e-6)


def test_clean_data_stays_within_the_stated_false_alarms() -> None:
    contract = make_contract(step=timedelta(minutes=5))
    false, days = 0, 0.0
    for seed in (11, 12, 13):
        panel = make_panel(seed, days=16, contract=contract)
        split = TimeSplit.by_fraction(panel.timestamps, train=0.4, calibration=0.2)
        detector = fit(panel, split, DetectorConfig(max_windows=6000, prototypes=40, false_alarms_per_day=1.0))
        first = int(np.searchsorted(panel.timestamps, split.calibration_end_ns))
        for entity in range(len(panel.entities)):
            alarm = score_stream(detector, panel, entity, first=first).alarm
            false += int((np.diff(alarm.astype(int), prepend=0) == 1).sum())
            days += len(alarm) / contract.window.season_steps
    assert days > 70
    assert false / days <= 1.0


def test_a_flood_of_anomalies_moves_the_baseline_no_faster_than_noise_could() -> None:
    calm = follow_baseline(np.full(500, 1.0), start=1.0, step=0.01)
    flood = np.r_[np.full(100, 1e9), np.full(400, 1.0)]
    after = follow_baseline(flood, start=1.0, step=0.01)
    assert np.abs(after[100:] - calm[100:]).max() <= 100 * 0.01 + 1e-9
    assert after[:100].min() > 1e8


def test_a_flood_of_anomalies_cannot_teach_the_drift_to_hide_it(panel: FeaturePanel, split: TimeSplit) -> None:
    start = 2500
    values = panel.values.copy()
    values[0, start : start + 60, 0] = 50.0
    steady = remove_drift(with_values(panel, values), split, drift_steps=1000)
    untouched = remove_drift(panel, split, drift_steps=1000)
    spread = np.nanstd(untouched.values[0, :, 0])
    assert steady.values[0, start : start + 60, 0].min() > 40
    assert np.abs(steady.values[0, start + 60 :, 0] - untouched.values[0, start + 60 :, 0]).max() < 0.3 * spread


def test_a_metric_that_settles_elsewhere_is_followed_in_the_end(panel: FeaturePanel, split: TimeSplit) -> None:
    values = panel.values.copy()
    values[0, 2100:, 0] += 0.05
    steady = remove_drift(with_values(panel, values), split, drift_steps=200)
    moved = np.nanmean(steady.values[0, -200:, 0]) - np.nanmean(
        remove_drift(panel, split, drift_steps=200).values[0, -200:, 0]
    )
    assert abs(moved) < 0.015


def test_held_scores_decay_by_half_and_never_hide_a_larger_one() -> None:
    held = hold(np.array([8.0, 0.0, 0.0, 5.0, 0.0]), half_life=1.0)
    np.testing.assert_allclose(held, [8.0, 4.0, 2.0, 5.0, 2.5])


def test_tails_are_calibrated_and_never_tie() -> None:
    import torch

    rng = np.random.default_rng(0)
    knots, tail = fit_tail(rng.exponential(size=(20_000, 1)))
    fresh = torch.from_numpy(rng.exponential(size=20_000))
    score = tail_score(fresh, torch.from_numpy(knots[0]), torch.from_numpy(tail)).numpy()
    for level in (0.5, 1.0, 2.0, 3.0):
        assert 0.4 < (score >= level).mean() / 10**-level < 1.6
    wild = tail_score(torch.tensor([1e2, 1e4, 1e6]).double(), torch.from_numpy(knots[0]), torch.from_numpy(tail))
    assert bool((wild.diff() > 0).all())


def test_too_little_history_is_said() -> None:
    panel = make_panel(days=0.3)
    with pytest.raises(DataQualityError, match="collect a longer history"):
        fit(panel, TimeSplit.by_fraction(panel.timestamps))


def test_history_without_a_sample_is_said(panel: FeaturePanel, split: TimeSplit) -> None:
    with pytest.raises(DataQualityError, match="NaN"):
        fit(with_values(panel, np.full_like(panel.values, np.nan)), split)


def test_unlabelled_trouble_in_training_does_not_blunt_the_detector(panel: FeaturePanel, split: TimeSplit) -> None:
    values = panel.values.copy()
    rng = np.random.default_rng(4)
    for start in rng.integers(200, 1900, 3):  # about one per cent of the training time
        values[0, start : start + 6, 1] = 0.95
    detector = fit(with_values(panel, values), split, CONFIG)
    late = values.copy()
    late[0, 2700:2712, 1] = 0.97
    scores = score_stream(detector, with_values(panel, late), 0, first=2450)
    assert scores.alarm[250:262].any()
