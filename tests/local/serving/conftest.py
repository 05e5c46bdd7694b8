"""Untrained packages, and a real `clusterheal serve` process around them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from clusterheal_models.serving.toy import toy_detector, toy_forecaster

from clusterheal.contracts import EntityKind, FeatureContract, FeatureSpec, ModelPackage, WindowSpec


@dataclass(frozen=True)
class Served:
    """A running server's ports, process and packages."""

    http_port: int
    grpc_port: int
    process: subprocess.Popen[bytes]
    detector: ModelPackage
    forecaster: ModelPackage

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"


@pytest.fixture(scope="session")
def contract() -> FeatureContract:
    return FeatureContract(
        entity_kinds=(EntityKind(name="node", labels=("node",)),),
        features=tuple(FeatureSpec(name=f"f{i}", promql="up", unit="1", entity_kind="node") for i in range(3)),
        step=timedelta(seconds=60),
        window=WindowSpec(
            recent_steps=8, season_steps=24, season_lags=(1, 2), seasonal_before=0, seasonal_steps=5, horizon_steps=4
        ),
    )


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, contract: FeatureContract) -> dict[str, ModelPackage]:
    """`d1`, `d2` alike; `d3` alarms always; `f1`. Under the registry's kind of paths."""
    root = tmp_path_factory.mktemp("store")
    return {
        "d1": toy_detector(root / "anomaly-detector" / "v000001", contract, alarm_score=30.0),
        "d2": toy_detector(root / "anomaly-detector" / "v000002", contract, alarm_score=31.0),
        "d3": toy_detector(root / "anomaly-detector" / "v000003", contract, alarm_score=-1.0),
        "f1": toy_forecaster(root / "predictive-analytics" / "v000001", contract),
    }


def serve_command(*packages: Path, ready_file: Path) -> list[str]:
    flags = [flag for path in packages for flag in ("--package", str(path))]
    ports = ["--http-port", "0", "--grpc-port", "0", "--ready-file", str(ready_file)]
    return [sys.executable, "-m", "clusterheal.cli", "serve", *flags, *ports]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, store: dict[str, ModelPackage]) -> Iterator[Served]:
    ready_file = tmp_path_factory.mktemp("serve") / "ready.json"
    process = subprocess.Popen(serve_command(store["d1"].path, store["f1"].path, ready_file=ready_file))
    try:
        deadline = time.monotonic() + 60
        while not ready_file.exists():
            assert process.poll() is None, "the server ended before it was ready"
            assert time.monotonic() < deadline, "the server was not ready within 60 s"
            time.sleep(0.05)
        ports = json.loads(ready_file.read_text())
        yield Served(ports["http_port"], ports["grpc_port"], process, store["d1"], store["f1"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
