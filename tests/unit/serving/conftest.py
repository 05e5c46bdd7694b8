"""A small contract and untrained packages for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from clusterheal_models.serving.toy import toy_detector, toy_forecaster

from clusterheal.contracts import (
    EntityKind,
    FeatureContract,
    FeatureSpec,
    ModelPackage,
    WindowSpec,
    seal_package,
)


@pytest.fixture(scope="session")
def contract() -> FeatureContract:
    return FeatureContract(
        entity_kinds=(EntityKind(name="workload", labels=("namespace", "workload")),),
        features=tuple(FeatureSpec(name=f"f{i}", promql="up", unit="1", entity_kind="workload") for i in range(3)),
        step=timedelta(seconds=60),
        window=WindowSpec(
            recent_steps=8, season_steps=24, season_lags=(1, 2), seasonal_before=0, seasonal_steps=5, horizon_steps=4
        ),
    )


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory, contract: FeatureContract) -> ModelPackage:
    return toy_detector(tmp_path_factory.mktemp("anomaly-detector") / "v000007", contract)


@pytest.fixture(scope="session")
def forecaster(tmp_path_factory: pytest.TempPathFactory, contract: FeatureContract) -> ModelPackage:
    return toy_forecaster(tmp_path_factory.mktemp("predictive-analytics") / "v000001", contract)


@pytest.fixture
def tampered(tmp_path: Path, detector: ModelPackage) -> Callable[[Callable[[Any], None]], ModelPackage]:
    """The detector's package with its ONNX graph changed and sealed again: an attacker can seal, too."""

    def tamper(change: Callable[[Any], None]) -> ModelPackage:
        import onnx

        path = tmp_path / "package"
        shutil.copytree(detector.path, path)
        model = onnx.load(str(path / "model.onnx"))
        change(model)
        (path / "model.onnx").write_bytes(model.SerializeToString())
        return seal_package(path, name=detector.name, contract=detector.contract)

    return tamper
