"""What training learns about each feature before any network is trained: units, scales, range."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from clusterheal.contracts import FeaturePanel, Float32, split_entity_key
from clusterheal_models.forecaster.network import FeatureTables

LOG_UNIT_QUANTILE = 0.1
FLOOR_SHARE = 1e-2
TINY = 1e-9
MOST_CELLS = 2_000_000  # of a feature: scales of more entities are those of every so many of them

Float64 = npt.NDArray[np.float64]


def feature_tables(panel: FeaturePanel) -> FeatureTables:
    """From the training part of a panel. A feature without data gets scale one and its contract's range."""
    features = panel.contract.features
    unit = np.zeros(len(features), np.float32)
    prior = np.ones(len(features), np.float32)
    floor = np.full(len(features), FLOOR_SHARE, np.float32)
    kinds = np.array([split_entity_key(key)[0] for key in panel.entities])
    for index, feature in enumerate(features):
        rows = np.flatnonzero(kinds == feature.entity_kind)
        rows = rows[:: max(1, -(-len(rows) * len(panel.timestamps) // MOST_CELLS))]
        values = panel.values[rows, :, index]
        if feature.scale == "log":
            magnitude = np.abs(values[np.isfinite(values) & (values != 0)].astype(np.float64))
            unit[index] = max(float(np.quantile(magnitude, LOG_UNIT_QUANTILE)), TINY) if len(magnitude) else 1.0
        scales = _deviations(values, float(unit[index]), panel.contract.window.recent_steps)
        if len(scales):
            prior[index] = np.median(scales)
            floor[index] = FLOOR_SHARE * np.quantile(scales, 0.1)
    return FeatureTables(
        log_unit=torch.from_numpy(unit),
        prior_scale=torch.from_numpy(np.maximum(prior, TINY)),
        floor_scale=torch.from_numpy(np.maximum(floor, TINY)),
        low=torch.tensor([-np.inf if f.low is None else f.low for f in features], dtype=torch.float32),
        high=torch.tensor([np.inf if f.high is None else f.high for f in features], dtype=torch.float32),
    )


def _deviations(values: Float32, unit: float, block: int) -> Float64:
    """Positive mean absolute deviations of blocks of `block` steps of each entity, transformed if `unit`; `(n,)`."""
    block = max(1, min(block, values.shape[1]))
    found = [np.empty(0)]
    for entity in values:  # one at a time: as float64, all of them would be several times the panel's size
        cut = entity[: len(entity) // block * block].reshape(-1, block).astype(np.float64)
        cut = np.arcsinh(cut / unit) if unit else cut
        known = np.isfinite(cut)
        count = np.maximum(known.sum(-1), 1)
        mean = np.where(known, cut, 0.0).sum(-1) / count
        deviation = (np.abs(np.where(known, cut, 0.0) - mean[:, None]) * known).sum(-1) / count
        found.append(deviation[deviation > 0])
    return np.concatenate(found)
