"""What the detector takes for usual: typical days, two scales, strangers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from clusterheal_models.detector import Detector, DetectorConfig, fit
from clusterheal_models.detector.calibrate import alarm_ratio
from clusterheal_models.detector.memory import no_memory
from clusterheal_models.detector.model import tenth_of_metric
from clusterheal_models.detector.stream import follow_rare
from clusterheal_models.detector.tails import fit_tail, fit_typical_tail
from clusterheal_models.detector.windows import Windows
from clusterheal_models.export import TOLERANCE, relative_difference, share_of_largest

from clusterheal.contracts import FeaturePanel, TimeSplit
from clusterheal.errors import InvalidInput

from .conftest import CONFIG


def test_a_day_of_unlabelled_trouble_does_not_stretch_the_typical_tail() -> None:
    rng = np.random.default_rng(0)
    days = [rng.exponential(size=(500, 1)) for _ in range(7)]
    clean, _ = fit_typical_tail(days)
    days[3] = days[3] * 50
    troubled, _ = fit_typical_tail(days)
    plain, _ = fit_tail(np.concatenate(days))
    assert troubled[0, -1] == pytest.approx(clean[0, -1], rel=0.2)
    assert plain[0, -1] > 3 * clean[0, -1]


def test_a_metric_that_is_absent_on_most_days_is_judged_by_the_others() -> None:
    rng = np.random.default_rng(0)
    days = [rng.exponential(size=(500, 1)) for _ in range(7)]
    for day in days[2:]:
        day[:] = np.nan
    knots, tail = fit_typical_tail(days)
    assert knots[0, -1] == pytest.approx(-np.log(0.01), rel=0.4)
    assert np.isfinite(tail).all()


def test_fewer_stated_false_alarms_need_a_rarer_event() -> None:
    ratios = [alarm_ratio(DetectorConfig(false_alarms_per_day=budget)) for budget in (10.0, 1.0, 0.1)]
    assert ratios == sorted(ratios)
    assert ratios[0] >= 1.0


def test_the_level_of_what_is_rare_is_not_dragged_by_a_wild_value() -> None:
    values = np.random.default_rng(0).exponential(size=20_000)
    level = follow_rare(values, start=1.0, step=0.05)
    assert (values[5000:] > level[5000:]).mean() == pytest.approx(0.02, abs=0.01)
    values[100] = 1e9
    wild = follow_rare(values, start=1.0, step=0.05)
    np.testing.assert_array_equal(wild[:101], level[:101])
    assert np.abs(wild - level).max() <= 0.05 + 1e-9


def test_a_device_that_is_absent_is_refused_and_a_batch_of_several_entities_changes_nothing(
    panel: FeaturePanel, split: TimeSplit, detector: Detector
) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(InvalidInput, match="device cuda was asked for"):
            fit(panel, split, replace(CONFIG, device="cuda"))
    for batch in (700, 16_000):  # an entity in several batches; all of them in one
        again = fit(panel, split, replace(CONFIG, device="cpu", batch=batch))
        for name, table in detector.fitted.graph.state_dict().items():
            torch.testing.assert_close(again.fitted.graph.state_dict()[name], table, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_fits_what_the_cpu_fits(panel: FeaturePanel, split: TimeSplit, detector: Detector) -> None:
    there = fit(panel, split, replace(CONFIG, device="cuda")).fitted.graph
    batch = Windows(panel, 0).at(np.arange(2500, 2600))
    with torch.no_grad():
        ours, theirs = (graph(*batch.arguments())[0] for graph in (detector.fitted.graph, there))
    assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.95  # sums differ in order, and k-means amplifies it


def test_an_event_raises_the_score_and_alarms_where_the_state_alone_would_not(detector: Detector) -> None:
    graph, row = detector.fitted.graph, torch.zeros(2, dtype=torch.int64)
    ratio = torch.tensor([0.0, float(graph.alarm_ratio)])
    calm, event = graph.score(torch.full((2,), 1.0), ratio, row).tolist()
    assert event > calm
    statistic = graph.event_middle[row] + graph.alarm_ratio * graph.event_rare[row]
    kept = graph.remember(graph.state_middle[row], statistic, torch.ones(2), no_memory(2), row)
    assert kept.ratio.tolist() == pytest.approx([float(graph.alarm_ratio)] * 2)
    assert (kept.above == 0).all()


def test_a_small_metric_beside_a_large_one_is_compared_on_its_own_scale() -> None:
    want = np.array([[2e9, 0.5, 0.0], [1e9, 0.4, 0.0]])
    wrong, rounded = (want + np.array(change) for change in ([1.0, 1e-3, 1e-9], [1.0, 1e-6, 1e-9]))
    assert relative_difference(want, wrong, share_of_largest(want)) < TOLERANCE  # what bytes hide
    assert relative_difference(want, wrong, tenth_of_metric(want)) > TOLERANCE
    assert relative_difference(want, rounded, tenth_of_metric(want)) < TOLERANCE
