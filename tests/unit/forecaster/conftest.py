"""Small panels with a signal to learn, and a forecaster trained on one in a few seconds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pytest
import torch
from clusterheal_models.forecaster import Forecaster, ForecasterConfig, MemberConfig, fit

from clusterheal.contracts import EntityKind, FeatureContract, FeaturePanel, FeatureSpec, TimeSplit, WindowSpec

SEASON = 48
WINDOW = WindowSpec(
    recent_steps=24, season_steps=SEASON, season_lags=(1, 2), seasonal_before=4, seasonal_steps=16, horizon_steps=12
)
START_NS = 1_700_000_040_000_000_000
SMALL = ForecasterConfig(
    members=(MemberConfig(hidden=32), MemberConfig(anchor="wide_median", soft=True, hidden=32)),
    embedding=4,
    batch_rows=128,
    max_steps=240,
    evaluate_every=60,
    patience=10,
)


def contract() -> FeatureContract:
    return FeatureContract(
        entity_kinds=(EntityKind(name="pod", labels=("pod",)), EntityKind(name="node", labels=("node",))),
        features=(
            FeatureSpec(name="load", promql="load", unit="cores", entity_kind="pod"),
            FeatureSpec(name="bytes", promql="bytes", unit="bytes", entity_kind="pod", low=0.0, scale="log"),
            FeatureSpec(name="pressure", promql="pressure", unit="ratio", entity_kind="node"),
        ),
        step=timedelta(seconds=60),
        window=WINDOW,
    )


def panel_of(values: np.ndarray) -> FeaturePanel:
    """`values` `(n_entities, n_steps, 3)`; the last entity is a node, the others are pods."""
    n = len(values)
    return FeaturePanel(
        values=values.astype(np.float32),
        timestamps=START_NS + np.arange(values.shape[1], dtype=np.int64) * 60_000_000_000,
        entities=(*(f"pod/{i}" for i in range(n - 1)), "node/a"),
        contract=contract(),
    )


def planted(seed: int = 0, n_entities: int = 5, n_steps: int = 900) -> np.ndarray:
    """A season that a model can learn and persistence cannot, plus noise; features of another kind are NaN."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_steps)
    values = np.full((n_entities, n_steps, 3), np.nan)
    for e in range(n_entities):
        wave = np.sin(2 * np.pi * (t + rng.integers(SEASON)) / SEASON) + 0.15 * rng.normal(size=n_steps)
        size = rng.uniform(1, 50)
        if e < n_entities - 1:
            values[e, :, 0] = size * (3 + wave)
            values[e, :, 1] = np.exp(10 + wave)
        else:
            values[e, :, 2] = 0.5 + 0.1 * wave
    return values


@dataclass(frozen=True, kw_only=True)
class Fitted:
    panel: FeaturePanel
    split: TimeSplit
    forecaster: Forecaster


@pytest.fixture(scope="session")
def fitted() -> Fitted:
    torch.set_num_threads(1)
    panel = panel_of(planted())
    split = TimeSplit.by_fraction(panel.timestamps)
    return Fitted(panel=panel, split=split, forecaster=fit(panel, split, SMALL))
