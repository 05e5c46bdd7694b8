"""A registry over HTTP with injected faults, and packages to register."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from clusterheal.contracts import (
    DETECTOR,
    EntityKind,
    FeatureContract,
    FeatureSpec,
    ModelPackage,
    default_window,
    seal_package,
)
from clusterheal.local.registry.server import create_app, running
from clusterheal.local.registry.store import ResourceStore
from clusterheal.registry import Registry
from clusterheal.settings import RegistrySettings


@dataclass
class Faults:
    """Answers `status` instead of (or, with `after=True`, as well as) doing what matches; `times` times each."""

    planned: list[tuple[str, str, int, bool]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def plan(self, method: str, suffix: str, status: int, *, times: int = 1, after: bool = False) -> None:
        self.planned += [(method, suffix, status, after)] * times

    def wrap(self, app: ASGIApp) -> ASGIApp:
        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            self.seen.append(f"{scope['method']} {scope['path']}")
            for fault in self.planned:
                method, suffix, status, after = fault
                if scope["method"] == method and scope["path"].endswith(suffix):
                    self.planned.remove(fault)
                    if after:
                        await app(scope, receive, _swallow)
                    return await JSONResponse({"message": "injected"}, status_code=status)(scope, receive, send)
            return await app(scope, receive, send)

        return faulty


async def _swallow(_: object) -> None:
    """Drop an answer: the write happened, the caller never hears of it."""


@dataclass
class Ticking:
    """A clock that moves one second per reading."""

    time: datetime = datetime(2026, 1, 5, tzinfo=UTC)

    def now(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time

    def monotonic(self) -> float:
        return self.now().timestamp()

    async def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def url(tmp_path: Path, faults: Faults) -> Iterator[str]:
    ticks = iter(range(1_700_000_000_000, 1_800_000_000_000))
    store = ResourceStore(tmp_path / "registry.sqlite", now_ms=lambda: next(ticks))
    with running(faults.wrap(create_app(store))) as address:
        yield address
    store.close()


@pytest.fixture
def settings(url: str, tmp_path: Path) -> RegistrySettings:
    return RegistrySettings.model_validate({"url": url, "storage": str(tmp_path / "models"), "attempts": 2})


@pytest.fixture
def registry(settings: RegistrySettings) -> Registry:
    return Registry(settings, clock=Ticking())


@pytest.fixture
def contract() -> FeatureContract:
    return FeatureContract(
        entity_kinds=(EntityKind(name="node", labels=("node",)),),
        features=(FeatureSpec(name="load", promql="node_load1", unit="1", entity_kind="node"),),
        step=timedelta(seconds=60),
        window=default_window(timedelta(seconds=60)),
    )


@pytest.fixture
def make_package(tmp_path: Path, contract: FeatureContract) -> Callable[..., ModelPackage]:
    """Seal a package whose model file holds `content`; the registry never looks inside it."""

    def make(content: str = "weights", name: str = DETECTOR) -> ModelPackage:
        path = tmp_path / "made" / f"{name}-{content}"
        path.mkdir(parents=True)
        (path / "model.onnx").write_text(content)
        (path / "MODEL_CARD.md").write_text("# Card\n")
        for file in ("calibration.json", "metrics.json", "sample_request.json"):
            (path / file).write_text(json.dumps({}))
        return seal_package(path, name=name, contract=contract)

    return make
