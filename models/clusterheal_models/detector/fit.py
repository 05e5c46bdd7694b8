"""Fitting: scaling and predictors on the training time, tails on the time up to the held-back slice, no labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from clusterheal.contracts import FeaturePanel, TimeSplit
from clusterheal.errors import DataQualityError
from clusterheal_models.detector.calibrate import Calibration
from clusterheal_models.detector.config import DetectorConfig
from clusterheal_models.detector.graph import DetectorGraph, Layout, empty_tables
from clusterheal_models.detector.predictors import fit_predictors
from clusterheal_models.detector.scaling import fit_scaling

Report = Callable[[str, float], None]
MIN_STEPS = 64


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted graph and what the calibration slice showed."""

    graph: DetectorGraph
    calibration_days: float
    calibration_alarm_steps: int


@torch.no_grad()
def fit_graph(
    panel: FeaturePanel, split: TimeSplit, config: DetectorConfig, report: Report, device: torch.device
) -> Fitted:
    """Fit everything in the graph, with the large sums and all windows on `device`.

    Raises:
        DataQualityError: too few steps before either boundary, or no feature with a single sample.
    """
    train = panel.between(None, split.train_end_ns)
    n_train, n_known = len(train.timestamps), len(panel.between(None, split.calibration_end_ns).timestamps)
    if n_train < MIN_STEPS or n_known - n_train < MIN_STEPS // 4:
        raise DataQualityError(
            f"the detector needs at least {MIN_STEPS} steps to train and {MIN_STEPS // 4} to calibrate, "
            f"got {n_train} and {n_known - n_train}; collect a longer history or move the split"
        )
    if not np.isfinite(train.values).any():
        raise DataQualityError("every feature of the training time is NaN; check the collection and its catalogue")
    layout = Layout.of(config, panel.contract.window)
    tables = empty_tables(len(panel.entities), len(panel.contract.features))
    tables["event_prior"] = torch.tensor(config.event_prior)
    report("scaling", 0.0)
    fit_scaling(train, tables)
    report("predictors", 0.1)
    fit_predictors(train, tables, config, layout, device)
    graph = DetectorGraph(tables, layout).eval()
    report("calibration", 0.4)
    calibration = Calibration(graph, panel, n_train, n_known, config, device)
    report("tails", 0.8)
    calibration.run()
    return Fitted(
        graph=graph,
        calibration_days=calibration.days(),
        calibration_alarm_steps=calibration.alarm_steps(),
    )
