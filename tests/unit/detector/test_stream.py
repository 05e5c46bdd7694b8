"""Scoring long streams: causal, bounded in false alarms, and not to be dragged along by a flood of anomalies."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
import torch
from clusterheal_models.detector import Detector, DetectorConfig, fit
from clusterheal_models.detector.memory import MEMORY, Limit
from clusterheal_models.detector.stream import follow_baseline, hold, limit_alarms, score_stream
from clusterheal_models.detector.tails import fit_tail, tail_score
from clusterheal_models.serving.runtime import load_runtime

from clusterheal.contracts import FeaturePanel, ModelPackage, TimeSplit, model_inputs
from clusterheal.errors import DataQualityError

from .conftest import CONFIG, make_contract, make_panel, with_values


def test_what_comes_later_does_not_change_a_streamed_score(detector: Detector, panel: FeaturePanel) -> None:
    changed_from = 2600
    values = panel.values.copy()
    values[:, changed_from:] += 5.0
    before, after = (score_stream(detector, version, 0, first=2450) for version in (panel, with_values(panel, values)))
    n = changed_from - 2450
    np.testing.assert_array_equal(before.score[:n], after.score[:n])
    np.testing.assert_array_equal(before.alarm[:n], after.alarm[:n])
    np.testing.assert_array_equal(before.contribution[:n], after.contribution[:n])
    assert (before.score[n:] != after.score[n:]).any()


def test_the_stream_is_what_the_served_graph_answers_step_by_step(
    detector: Detector, package: ModelPackage, panel: FeaturePanel
) -> None:
    """The benchmark's figures are those of a server that is handed its memory: with events, a gap and calm."""
    first, last = 2450, 2800
    values = panel.values.copy()
    values[0, 2500:2512, 1] += 0.3
    values[0, 2600:2640] = np.nan
    values[0, 2700:2760, 2] -= 0.2
    changed = with_values(panel, values)
    streamed = score_stream(detector, changed.between(None, int(panel.timestamps[last])), 0, first=first)
    runtime = load_runtime(package)
    memory = np.full((1, len(MEMORY)), np.nan, np.float32)
    answers = []
    for origin in range(first, last):
        tensors = {name: array[:1] for name, array in model_inputs(changed, origin=origin).tensors().items()}
        answers.append(runtime.run({**tensors, "memory": memory}))
        memory = answers[-1]["memory_after"]
    served = np.concatenate([answer["score"] for answer in answers])
    np.testing.assert_allclose(served, streamed.score, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(np.concatenate([answer["alarm"] for answer in answers]), streamed.alarm)
    assert streamed.alarm[50:62].any()
    assert (streamed.score[155:185] == 0).all()


def test_a_request_without_memory_is_judged_as_the_first_of_a_stream(
    detector: Detector, package: ModelPackage, panel: FeaturePanel
) -> None:
    tensors = model_inputs(panel, origin=2500).tensors()
    answer = load_runtime(package).run(tensors)
    streamed = [score_stream(detector, panel, e, first=2500).score[0] for e in range(len(panel.entities))]
    np.testing.assert_allclose(answer["score"], streamed, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("nonsense", [np.inf, -np.inf, 1e30, -5.0])
def test_a_memory_that_is_nonsense_gives_finite_answers(
    package: ModelPackage, panel: FeaturePanel, nonsense: float
) -> None:
    tensors = model_inputs(panel, origin=2500).tensors()
    memory = np.full((len(panel.entities), len(MEMORY)), nonsense, np.float32)
    answer = load_runtime(package).run({**tensors, "memory": memory})
    for name in ("score", "confidence", "contribution", "memory_after"):
        assert np.isfinite(answer[name]).all(), name


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


@pytest.mark.parametrize("every", [10, 30, 200])
def test_an_entity_that_would_alarm_all_day_alarms_as_often_as_stated_in_the_long_run(every: int) -> None:
    """Events of random size, far more often than may alarm; a large one still does."""
    per_day, steps = 2.0, 1440
    rng = np.random.default_rng(0)
    loud = np.zeros(30 * steps)
    loud[::every] = 1.0 + rng.exponential(0.5, len(loud[::every]))
    limit = Limit(per_step=torch.tensor(per_day / steps), burst=2.0, bar_step=0.3)
    begun = np.diff(limit_alarms(loud, limit).astype(int), prepend=0) == 1
    assert begun[10 * steps :].sum() / 20 <= 1.2 * per_day
    loud[-1] = 50.0
    assert limit_alarms(loud, limit)[-1]


def test_alarms_within_the_limit_are_left_alone() -> None:
    loud = np.zeros(10 * 1440)
    loud[700::1440] = 1.01  # one a day, just over the threshold
    limit = Limit(per_step=torch.tensor(2.0 / 1440), burst=2.0, bar_step=0.3)
    np.testing.assert_array_equal(limit_alarms(loud, limit), loud >= 1)


def test_one_long_alarm_counts_as_one() -> None:
    loud = np.tile([2.0, 2.0, 0.0, 0.0, 2.0], 400)
    limit = Limit(per_step=torch.tensor(2.0 / 1440), burst=2.0, bar_step=0.3)
    np.testing.assert_array_equal(limit_alarms(loud, limit), loud >= 1)


def test_held_scores_decay_by_half_and_never_hide_a_larger_one() -> None:
    held = hold(np.array([8.0, 0.0, 0.0, 5.0, 0.0]), decay=0.5)
    np.testing.assert_allclose(held, [8.0, 4.0, 2.0, 5.0, 2.5])


def test_tails_are_calibrated_and_never_tie() -> None:
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
