"""A small cluster's worth of seeded metrics, and a detector trained on it once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from clusterheal_models.detector import Detector, DetectorConfig, fit

from clusterheal.contracts import (
    EntityKind,
    FeatureContract,
    FeaturePanel,
    FeatureSpec,
    ModelPackage,
    TimeSplit,
    default_window,
)

STEP = timedelta(minutes=5)
DAYS = 10
CONFIG = DetectorConfig(max_windows=6000, prototypes=40)
WORKLOADS = ("cart", "checkout", "catalog")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_contract(n_workload: int = 4, n_node: int = 2, *, step: timedelta = STEP) -> FeatureContract:
    kinds = (EntityKind(name="workload", labels=("namespace", "workload")), EntityKind(name="node", labels=("node",)))
    features = [
        FeatureSpec(name=f"{kind}_{i}", promql=f"{kind}_{i}", unit="ratio", entity_kind=kind)
        for kind, n in (("workload", n_workload), ("node", n_node))
        for i in range(n)
    ]
    return FeatureContract(entity_kinds=kinds, features=tuple(features), step=step, window=default_window(step))


def make_panel(seed: int = 0, *, days: float = DAYS, contract: FeatureContract | None = None) -> FeaturePanel:
    """Three workloads and a node: a daily season, correlated noise, features of the other kind NaN."""
    contract = contract or make_contract()
    rng = np.random.default_rng(seed)
    n = round(days * timedelta(days=1) / contract.step)
    entities = (*(f"workload/shop/{w}" for w in WORKLOADS), "node/worker-0")
    time = np.arange(n)
    values = np.full((len(entities), n, len(contract.features)), np.nan, np.float32)
    for e, key in enumerate(entities):
        for j, spec in enumerate(contract.features):
            if spec.entity_kind == key.split("/")[0]:
                season = rng.uniform(0.02, 0.15) * np.sin(2 * np.pi * time / contract.window.season_steps)
                values[e, :, j] = rng.uniform(0.3, 0.6) + season + 0.02 * correlated_noise(n, rng)
    times = 1_700_000_000_000_000_000 + contract.step_ns * time.astype(np.int64)
    return FeaturePanel(values=values, timestamps=times, entities=entities, contract=contract)


def correlated_noise(n: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    out, white = np.zeros(n), rng.normal(size=n)
    for i in range(1, n):
        out[i] = 0.6 * out[i - 1] + white[i]
    return out


def with_values(panel: FeaturePanel, values: npt.NDArray[np.float32]) -> FeaturePanel:
    return FeaturePanel(values=values, timestamps=panel.timestamps, entities=panel.entities, contract=panel.contract)


@pytest.fixture(scope="session")
def panel() -> FeaturePanel:
    return make_panel()


@pytest.fixture(scope="session")
def split(panel: FeaturePanel) -> TimeSplit:
    return TimeSplit.by_fraction(panel.timestamps)


@pytest.fixture(scope="session")
def detector(panel: FeaturePanel, split: TimeSplit) -> Detector:
    return fit(panel, split, CONFIG)


@pytest.fixture(scope="session")
def package(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return detector.export(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="session")
def package_path(package: ModelPackage) -> Path:
    return package.path
