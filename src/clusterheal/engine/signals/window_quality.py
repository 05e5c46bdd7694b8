"""How good the data of one scoring round was: what the models saw, and how well they knew it beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from clusterheal.contracts import Detection, FeatureContract, ModelInputs, split_entity_key

NEWEST_STEPS = 3
"""A series without a sample in these steps is silent; one missed scrape is not worth a word."""


@dataclass(frozen=True, kw_only=True)
class WindowQuality:
    """Figures of one live window.

    `silent`: share of the series with samples in the window that have none in its newest steps.
    `implausible`: share of newest samples outside the contract's plausible range.
    `in_band`: share of newest samples inside the detector's 80 % band; `None` without a detector.
    """

    entities: int
    series: int
    silent: float
    implausible: float
    in_band: float | None = None


def window_quality(inputs: ModelInputs, contract: FeatureContract, detections: Iterable[Detection]) -> WindowQuality:
    """Judge `inputs.recent`; features of another entity kind than the row's do not count."""
    kinds = np.array([split_entity_key(entity)[0] for entity in inputs.entity])
    own = kinds[:, None] == np.array([f.entity_kind for f in contract.features])[None, :]
    known = ~np.isnan(inputs.recent)
    alive = known.any(axis=1) & own
    fresh = known[:, -NEWEST_STEPS:].any(axis=1) & alive
    values = _newest(inputs.recent[:, -NEWEST_STEPS:])
    low = np.array([-np.inf if f.low is None else f.low for f in contract.features], np.float32)
    high = np.array([np.inf if f.high is None else f.high for f in contract.features], np.float32)
    outside = fresh & ((values < low) | (values > high))
    series, samples = int(alive.sum()), int(fresh.sum())
    return WindowQuality(
        entities=len(inputs.entity),
        series=series,
        silent=1 - samples / series if series else 0.0,
        implausible=int(outside.sum()) / samples if samples else 0.0,
        in_band=share_in_band(detections),
    )


def _newest(steps: np.ndarray) -> np.ndarray:
    """The last number of each series, `(n_entities, n_features)`; NaN where there is none."""
    values = steps[:, 0].copy()
    for step in range(1, steps.shape[1]):
        known = ~np.isnan(steps[:, step])
        values[known] = steps[:, step][known]
    return values


def share_in_band(detections: Iterable[Detection]) -> float | None:
    """How many observed values lie in the band that 80 % of values should fall into; `None` when there are none."""
    inside = total = 0
    for detection in detections:
        for band in detection.expected.values():
            if band.observed is not None:
                total += 1
                inside += band.low <= band.observed <= band.high
    return inside / total if total else None
