"""The served detector on faults planted into held-out time: what the engine relies on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from clusterheal_models.detector import Detector
from clusterheal_models.detector.windows import Windows

from clusterheal.contracts import FeaturePanel, TimeSplit

from .conftest import with_values

STEPS = 20
SIZES = (3.0, 5.0, 8.0)
SHAPES = {"shift": np.ones(STEPS), "drop": -np.ones(STEPS), "ramp": np.linspace(1 / STEPS, 1.0, STEPS)}


def alarms(detector: Detector, panel: FeaturePanel, entity: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    with torch.no_grad():
        batch = Windows(panel, entity).at(rows)
        return np.asarray(detector.fitted.graph(*batch.arguments())[3].numpy())


@pytest.mark.parametrize(("shape", "least"), [("shift", 0.9), ("drop", 0.9), ("ramp", 0.7)])
def test_planted_faults_alarm(
    detector: Detector, panel: FeaturePanel, split: TimeSplit, shape: str, least: float
) -> None:
    rng = np.random.default_rng(1)
    first = int(np.searchsorted(panel.timestamps, split.calibration_end_ns))
    found = []
    for i in range(30):
        entity, metric = int(rng.integers(3)), int(rng.integers(4))
        start = int(rng.integers(first, len(panel.timestamps) - STEPS))
        low, high = np.nanquantile(panel.values[entity, :first, metric], [0.25, 0.75])
        values = panel.values.copy()
        values[entity, start : start + STEPS, metric] += SIZES[i % 3] * (high - low) / 1.349 * SHAPES[shape]
        rows = np.arange(start, start + STEPS)
        found.append(alarms(detector, with_values(panel, values), entity, rows).any())
    assert np.mean(found) >= least


def test_untouched_time_keeps_the_stated_false_alarms(
    detector: Detector, panel: FeaturePanel, split: TimeSplit
) -> None:
    first = int(np.searchsorted(panel.timestamps, split.calibration_end_ns))
    rows = np.arange(first, len(panel.timestamps))
    begun = [np.diff(alarms(detector, panel, e, rows).astype(int), prepend=0) == 1 for e in range(4)]
    days = 4 * len(rows) / panel.contract.window.season_steps
    assert np.sum(begun) / days <= detector.config.false_alarms_per_day
