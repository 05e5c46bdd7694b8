"""The played KServe controller with real model server processes, and a real rollout over it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from clusterheal_models.serving.runtime import version_of
from clusterheal_models.serving.toy import toy_inputs

from clusterheal.clock import SystemClock
from clusterheal.contracts import FeatureContract, ModelPackage
from clusterheal.inference.client import InferenceClient
from clusterheal.kube.ports import Manifest, PatchType
from clusterheal.kube.resources import INFERENCE_SERVICES, NAMESPACES
from clusterheal.local.kserve import LocalKServe
from clusterheal.local.kube.adapter import SimulatedCluster
from clusterheal.local.kube.api import ApiServer
from clusterheal.local.processes import ChildDied, marked_processes
from clusterheal.registry.versions import ModelVersion, State
from clusterheal.rollout import RolloutOutcome, roll_out
from clusterheal.rollout.state import VERSION_LABEL
from clusterheal.settings import load_settings

pytestmark = pytest.mark.local
NAMESPACE = "self-healing-platform"
NAME = "anomaly-detector"


class Platform:
    def __init__(self, cluster: SimulatedCluster, marker: str, deaths: list[str]) -> None:
        self.cluster = cluster
        self.marker = marker
        self.deaths = deaths

    async def place(self, package: ModelPackage | str, *, name: str = NAME) -> None:
        uri = package if isinstance(package, str) else f"file://{package.path}/"
        spec = {"predictor": {"model": {"modelFormat": {"name": "onnx"}, "storageUri": uri}}}
        manifest = {
            "apiVersion": INFERENCE_SERVICES.api_version,
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": spec,
        }
        await self.cluster.patch(
            INFERENCE_SERVICES,
            name,
            manifest,
            patch_type=PatchType.APPLY,
            namespace=NAMESPACE,
            field_manager="test",
            force=True,
        )

    async def get(self, name: str = NAME) -> Manifest:
        return await self.cluster.get(INFERENCE_SERVICES, name, namespace=NAMESPACE)

    async def until(self, wanted: Callable[[Manifest], Any], *, seconds: float = 60) -> Manifest:
        """The object once `wanted` holds for its newest generation."""
        async with asyncio.timeout(seconds):
            while True:
                item = await self.get()
                status = item.get("status") or {}
                if status.get("observedGeneration") == item["metadata"]["generation"] and wanted(status):
                    return item
                await asyncio.sleep(0.05)


def processes(marker: str) -> list[psutil.Process]:
    return [p for p in marked_processes(marker) if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def up_to_date(status: Manifest) -> bool:
    return bool(status["modelStatus"]["transitionStatus"] == "UpToDate")


def ready(status: Manifest) -> str:
    return next(str(c["status"]) for c in status["conditions"] if c["type"] == "Ready")


@asynccontextmanager
async def platform(workdir: Path) -> AsyncIterator[Platform]:
    cluster = SimulatedCluster(ApiServer(clock=SystemClock(), rng=random.Random(0)))
    await cluster.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
    deaths: list[str] = []

    def died(key: str, death: ChildDied) -> None:
        deaths.append(f"{key}: {death}")

    marker = f"test-{os.getpid()}-{workdir.name}"
    async with LocalKServe(cluster, workdir=workdir, marker=marker, on_death=died):
        yield Platform(cluster, marker, deaths)
    assert processes(marker) == []


async def test_a_service_keeps_its_address_and_never_stops_answering_while_rolling(
    tmp_path: Path, store: dict[str, ModelPackage], contract: FeatureContract
) -> None:
    async with platform(tmp_path) as local:
        await local.place(store["d1"])
        first = await local.until(up_to_date)
        url = first["status"]["url"]
        assert ready(first["status"]) == "True"
        answered: list[str] = []
        async with InferenceClient(url, contract) as client:

            async def ask() -> None:
                while True:
                    answer = await client.infer(NAME, toy_inputs(contract, batch=1))
                    answered.append(answer.model_version)
                    await asyncio.sleep(0.01)

            asking = asyncio.create_task(ask())
            await local.place(store["d2"])
            second = await local.until(up_to_date)
            async with asyncio.timeout(20):
                while answered[-1] != "v000002":
                    assert not asking.done(), asking.exception()
                    await asyncio.sleep(0.05)
            asking.cancel()
        assert second["status"]["url"] == url
        assert answered[0] == "v000001"
        assert answered == sorted(answered)
        assert local.deaths == []


async def test_a_package_that_does_not_load_leaves_the_old_one_serving_and_says_why(
    tmp_path: Path, store: dict[str, ModelPackage], contract: FeatureContract
) -> None:
    async with platform(tmp_path) as local:
        await local.place(store["d1"])
        await local.until(up_to_date)
        await local.place("file:///does/not/exist/")
        item = await local.until(lambda s: s["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad")
        status = item["status"]
        assert ready(status) == "True"  # as KServe has it: Ready speaks of replicas, not of the model
        assert "does not exist" in status["modelStatus"]["lastFailureInfo"]["message"]
        assert status["modelStatus"]["lastFailureInfo"]["exitCode"] == 2
        async with InferenceClient(status["url"], contract) as client:
            assert (await client.metadata(NAME)).version == "v000001"
        await local.place("s3://bucket/model/")
        item = await local.until(lambda s: s["modelStatus"]["transitionStatus"] == "InvalidSpec")
        await local.place(store["d1"])
        item = await local.until(up_to_date)
        assert "lastFailureInfo" not in item["status"]["modelStatus"]


async def test_closing_ends_the_old_process_too_while_it_is_on_its_way_out(
    tmp_path: Path, store: dict[str, ModelPackage]
) -> None:
    async with platform(tmp_path) as local:
        await local.place(store["d1"])
        await local.until(up_to_date)
        (old,) = marked_processes(local.marker)
        old.suspend()  # it will not hear SIGTERM
        await local.place(store["d2"])
        await local.until(up_to_date)
        assert old in processes(local.marker)


async def test_a_process_that_dies_is_reported_and_shown(tmp_path: Path, store: dict[str, ModelPackage]) -> None:
    async with platform(tmp_path) as local:
        await local.place(store["d1"])
        item = await local.until(up_to_date)
        (process,) = marked_processes(local.marker)
        process.send_signal(signal.SIGKILL)
        item = await local.until(lambda s: ready(s) == "False", seconds=10)
        assert "SIGKILL" in item["status"]["modelStatus"]["lastFailureInfo"]["message"]
        assert local.deaths[0].startswith(f"{NAMESPACE}/{NAME}: ")
        assert "was killed by SIGKILL" in local.deaths[0]


async def test_a_deleted_service_takes_its_process_along(tmp_path: Path, store: dict[str, ModelPackage]) -> None:
    async with platform(tmp_path) as local:
        await local.place(store["d1"])
        await local.until(up_to_date)
        await local.cluster.delete(INFERENCE_SERVICES, NAME, namespace=NAMESPACE)
        async with asyncio.timeout(15):
            while processes(local.marker):
                await asyncio.sleep(0.05)
        assert local.deaths == []


class Versions:
    """A registry's states in memory."""

    def __init__(self, *packages: ModelPackage) -> None:
        self.versions = {
            version_of(p): ModelVersion(
                name=p.name,
                version=version_of(p),
                state=State.CANDIDATE,
                state_since=datetime.now(UTC),
                uri=f"file://{p.path}/",
                package_sha256=p.sha256,
                contract_sha256=p.contract.sha256,
                registered_model_id="1",
                version_id="1",
            )
            for p in packages
        }

    def current(self, name: str) -> ModelVersion | None:
        return next((v for v in self.versions.values() if v.state is State.SERVING), None)

    def set_state(
        self, name: str, version: str, state: State, *, properties: Mapping[str, Any] | None = None
    ) -> ModelVersion:
        before = self.current(name)
        if state is State.SERVING and before is not None:
            self.versions[before.version] = replace(before, state=State.PREVIOUS)
        self.versions[version] = replace(self.versions[version], state=state)
        return self.versions[version]

    def fetch(self, version: ModelVersion, into: Path) -> ModelPackage:
        return ModelPackage.load(version.path)


async def test_rollouts_over_real_servers_promote_compare_and_go_back(
    tmp_path: Path, store: dict[str, ModelPackage]
) -> None:
    registry = Versions(store["d1"], store["d2"], store["d3"])
    overrides = {"poll": 0.1, "bake": 1.0, "ready_timeout": 60.0}
    settings = load_settings(None, {"kubernetes": {"namespace": NAMESPACE}, "rollout": overrides})
    async with platform(tmp_path) as local:

        async def go(version: str) -> Any:
            return await roll_out(local.cluster, registry, registry.versions[version], settings, SystemClock())

        first = await go("v000001")
        assert first.outcome is RolloutOutcome.PROMOTED, first
        second = await go("v000002")
        assert second.outcome is RolloutOutcome.PROMOTED, second
        assert [s.name for s in second.steps] == ["stage", "shadow", "promote", "bake"]
        third = await go("v000003")
        assert third.outcome is RolloutOutcome.ROLLED_BACK
        assert "worse in shadow: alarms on 100.0%" in third.reason
        assert (await local.get())["metadata"]["labels"][VERSION_LABEL] == "v000002"
        async with asyncio.timeout(15):  # the shadow's process has its grace period
            while len(left := processes(local.marker)) > 1:
                await asyncio.sleep(0.05)
        assert str(store["d2"].path) in " ".join(left[0].cmdline())


async def test_a_breach_in_service_is_undone_within_a_minute(
    tmp_path: Path, store: dict[str, ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promoted directly, the version alarms on everything; watching it finds that, and the one before comes back."""
    registry = Versions(store["d1"], store["d3"])
    overrides = {"poll": 0.2, "bake": 60.0, "ready_timeout": 60.0, "strategy": "auto"}
    settings = load_settings(None, {"kubernetes": {"namespace": NAMESPACE}, "rollout": overrides})
    from clusterheal.rollout import asking

    monkeypatch.setattr(asking, "disagreement", lambda share, settings: [])
    real = asking.breaches
    promoted: list[float] = []

    def blind_in_shadow(measured: Any, baseline: Any, limits: Any) -> list[str]:
        """As if the windows that show the fault came only after the promotion."""
        return real(measured, baseline, limits) if promoted else []

    monkeypatch.setattr(asking, "breaches", blind_in_shadow)
    clock = SystemClock()
    async with platform(tmp_path) as local:
        await roll_out(local.cluster, registry, registry.versions["v000001"], settings, clock)

        def note(step: Any) -> None:
            if step.name == "promote":
                promoted.append(clock.monotonic())

        result = await roll_out(local.cluster, registry, registry.versions["v000003"], settings, clock, on_step=note)
        undone = clock.monotonic()
        assert result.outcome is RolloutOutcome.ROLLED_BACK, result
        assert "while watched: alarms on" in (result.reason or "")
        assert undone - promoted[0] < timedelta(seconds=60).total_seconds()
        async with InferenceClient((await local.get())["status"]["url"]) as client:
            assert (await client.metadata(NAME)).package_sha256 == store["d1"].sha256
