"""A registry over HTTP, a stored dataset and a frozen one, all small and real."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterheal_components.snapshot import Snapshot, freeze
from clusterheal_models.serving.toy import toy_detector, toy_forecaster

from clusterheal.contracts import EntityKind, FeatureContract, FeaturePanel, FeatureSpec, ModelPackage, default_window
from clusterheal.local.registry.server import create_app, now_ms, running
from clusterheal.local.registry.store import ResourceStore
from clusterheal.registry import Registry
from clusterheal.settings import RegistrySettings

STEP = timedelta(minutes=5)
STEPS_PER_DAY = 288
START_MS = 1_767_571_200_000  # 2026-01-05, a Monday


@pytest.fixture(scope="session")
def contract() -> FeatureContract:
    return FeatureContract(
        entity_kinds=(EntityKind(name="node", labels=("node",)),),
        features=tuple(FeatureSpec(name=f"f{i}", promql=f"f{i}", unit="1", entity_kind="node") for i in range(3)),
        step=STEP,
        window=default_window(STEP),
    )


def make_panel(contract: FeatureContract, *, days: int, seed: int = 0, shift: float = 0.0) -> FeaturePanel:
    """Four nodes with a daily season and slowly wandering noise, `shift` added to all."""
    rng = np.random.default_rng(seed)
    n = days * STEPS_PER_DAY
    season = np.sin(2 * np.pi * np.arange(n) / STEPS_PER_DAY)[None, :, None]
    noise = rng.normal(0, 0.1, (4, n, len(contract.features)))
    for i in range(1, n):
        noise[:, i] += 0.9 * noise[:, i - 1]
    values = (3 + season + noise + shift).astype(np.float32)
    times = (START_MS + np.arange(n, dtype=np.int64) * 300_000) * 1_000_000
    return FeaturePanel(
        values=values, timestamps=times, entities=tuple(f"node/worker-{i}" for i in range(4)), contract=contract
    )


@pytest.fixture(scope="session")
def panel(contract: FeatureContract) -> FeaturePanel:
    return make_panel(contract, days=6)


@pytest.fixture(scope="session")
def frozen(tmp_path_factory: pytest.TempPathFactory, panel: FeaturePanel) -> Path:
    folder = tmp_path_factory.mktemp("frozen") / "dataset"
    made = freeze(panel, folder, train=0.7, calibration=0.15)
    assert isinstance(made, Snapshot)
    return folder


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory, contract: FeatureContract) -> dict[str, ModelPackage]:
    root = tmp_path_factory.mktemp("packages")
    made = (toy_detector(root / "detector", contract), toy_forecaster(root / "forecaster", contract))
    return {package.name: package for package in made}


@pytest.fixture(scope="session")
def forecaster(tmp_path_factory: pytest.TempPathFactory, frozen: Path) -> ModelPackage:
    """A really trained one, if only for two seconds."""
    from clusterheal_components.training import train_forecaster

    folder = tmp_path_factory.mktemp("forecaster")
    train_forecaster(frozen, folder, seed=7, device="cpu", max_seconds=2.0)
    return ModelPackage.load(folder)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The registry that the components find by their environment."""
    store = ResourceStore(tmp_path / "registry.sqlite", now_ms=now_ms)
    with running(create_app(store)) as url:
        monkeypatch.setenv("CLUSTERHEAL_REGISTRY__URL", url)
        monkeypatch.setenv("CLUSTERHEAL_REGISTRY__STORAGE", str(tmp_path / "models"))
        monkeypatch.setenv("CLUSTERHEAL_DATASET__PATH", str(tmp_path / "dataset"))
        yield Registry(RegistrySettings.model_validate({"url": url, "storage": str(tmp_path / "models")}))
    store.close()


@pytest.fixture
def artifact(tmp_path: Path) -> Any:
    """Make an artifact of a KFP type, at a path of its own or a given one."""
    from kfp import dsl

    made: list[Path] = []

    def make(kind: str, path: Path | None = None, **metadata: Any) -> Any:
        made.append(path or tmp_path / f"artifact-{len(made)}")
        return getattr(dsl, kind)(name=kind, uri=str(made[-1]), metadata=dict(metadata))

    return make
