"""A cluster whose InferenceServices are played: real packages, real API semantics, no process, no waiting.

`World.clock.sleep` moves time on and lets the played controller and the disturbances of a test happen. The API server
is the emulator with the CRD that it comes with (`emulated`), the emulator with KServe's own CRD (`kserve`), or the
server that CLUSTERHEAL_TEST_KUBECONFIG names (`real`), with the same tests unchanged. There, each world gets a
namespace of its own, which is deleted in the end; KServe's CRDs must be there, and its controller must not run, since
it would write the same status.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import re
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

import httpx
import orjson
import pytest
import yaml
from clusterheal_models.serving.runtime import Runtime, load_runtime, version_of
from clusterheal_models.serving.toy import toy_detector, toy_forecaster

from clusterheal.contracts import (
    EntityKind,
    FeatureContract,
    FeatureSpec,
    ModelPackage,
    WindowSpec,
)
from clusterheal.contracts.requests import decode_tensor, encode_tensor
from clusterheal.errors import ContractMismatch, InvalidInput
from clusterheal.inference.client import InferenceClient
from clusterheal.kube.credentials import from_kubeconfig
from clusterheal.kube.http import HttpCluster
from clusterheal.kube.ports import ApiError, Cluster, Manifest, PatchType
from clusterheal.kube.resources import CUSTOM_RESOURCE_DEFINITIONS, DEPLOYMENTS, INFERENCE_SERVICES, NAMESPACES
from clusterheal.local.kserve_status import PredictorStatus, build_status, inference_service_crd
from clusterheal.local.kube.adapter import SimulatedCluster
from clusterheal.local.kube.api import ApiServer
from clusterheal.registry.versions import ModelVersion, State
from clusterheal.rollout import RolloutResult, roll_out
from clusterheal.settings import InferenceSettings, Settings, load_settings

NAMESPACE = "self-healing-platform"
KUBECONFIG = "CLUSTERHEAL_TEST_KUBECONFIG"
REAL = [pytest.param("real", marks=pytest.mark.cluster)] if os.environ.get(KUBECONFIG) else []
FRONTS = ["emulated", pytest.param("kserve", marks=pytest.mark.shared_data), *REAL]
START = datetime(2026, 1, 1, tzinfo=UTC)


def make_contract(*, features: int = 2) -> FeatureContract:
    return FeatureContract(
        entity_kinds=(EntityKind(name="node", labels=("node",)),),
        features=tuple(FeatureSpec(name=f"f{i}", promql="up", unit="1", entity_kind="node") for i in range(features)),
        step=timedelta(seconds=60),
        window=WindowSpec(
            recent_steps=6, season_steps=12, season_lags=(1,), seasonal_before=0, seasonal_steps=4, horizon_steps=4
        ),
    )


class OpenWorld(Protocol):
    async def __call__(self, *, canary: bool | None = None) -> World: ...


class Clock:
    """Stands still but for `sleep`, which also runs what happens meanwhile."""

    def __init__(self) -> None:
        self.time = START
        self.meanwhile: list[Callable[[], Any]] = []

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - START).total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        for happen in self.meanwhile:
            await happen()
        await asyncio.sleep(0)


class Registry:
    """The registry's states in memory."""

    def __init__(self) -> None:
        self.versions: dict[str, ModelVersion] = {}

    def add(self, package: ModelPackage, state: State = State.CANDIDATE) -> ModelVersion:
        name = version_of(package)
        version = ModelVersion(
            name=package.name,
            version=name,
            state=state,
            state_since=START,
            uri=f"file://{package.path}/",
            package_sha256=package.sha256,
            contract_sha256=package.contract.sha256,
            registered_model_id="1",
            version_id=name.lstrip("v0"),
        )
        self.versions[name] = version
        return version

    def current(self, name: str) -> ModelVersion | None:
        return next((v for v in self.versions.values() if v.state is State.SERVING), None)

    def set_state(
        self, name: str, version: str, state: State, *, properties: Mapping[str, Any] | None = None
    ) -> ModelVersion:
        for other in self.versions.values():
            if state is State.SERVING and other.state is State.SERVING:
                self.versions[other.version] = replace(other, state=State.PREVIOUS)
        kept = {**self.versions[version].properties, **(properties or {})}
        self.versions[version] = replace(self.versions[version], state=state, properties=kept)
        return self.versions[version]

    def fetch(self, version: ModelVersion, into: Path) -> ModelPackage:
        return ModelPackage.load(version.path)

    def states(self) -> dict[str, str]:
        return {name: v.state.value for name, v in self.versions.items()}


@dataclass
class Faults:
    """What the played cluster gets wrong, by model version where it applies."""

    never_loads: set[str] = field(default_factory=set)
    never_observed: bool = False
    ready_without_model: set[str] = field(default_factory=set)
    alters: dict[str, Callable[[dict[str, Any]], None]] = field(default_factory=dict)
    fails: set[str] = field(default_factory=set)
    """Versions that answer 500 to every request."""
    beside_never_loads: set[str] = field(default_factory=set)
    """Versions that get no pod as a shadow."""
    refuses: set[str] = field(default_factory=set)
    """Versions that are ready and answer 500 to every inference."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Version to the time that it takes for an answer."""
    canary_ready: bool = True


class World:
    """The API server, the played KServe and the predictors behind it."""

    def __init__(self, cluster: Cluster, clock: Clock, namespace: str) -> None:
        self.cluster = cluster
        self.clock = clock
        self.namespace = namespace
        self.clock.meanwhile.append(self.reconcile)
        self.faults = Faults()
        self.registry = Registry()
        self.requests: list[tuple[str, str]] = []
        self._runtimes: dict[str, Runtime] = {}
        self._serving: dict[str, str] = {}

    async def roll(
        self, settings: Settings, version: str, *, cluster: Cluster | None = None, **options: Any
    ) -> RolloutResult:
        """Roll `version` out in this world's namespace."""
        here = settings.kubernetes.model_copy(update={"namespace": self.namespace})
        return await roll_out(
            cluster or self.cluster,
            self.registry,
            self.registry.versions[version],
            settings.model_copy(update={"kubernetes": here}),
            self.clock,
            connect=self.connect,
            **options,
        )

    async def service(self, name: str = "anomaly-detector") -> Manifest | None:
        try:
            return await self.cluster.get(INFERENCE_SERVICES, name, namespace=self.namespace)
        except ApiError as exc:
            if exc.status == 404:
                return None
            raise

    async def served_version(self, name: str = "anomaly-detector") -> str | None:
        await self.reconcile()
        uri = self._serving.get(name)
        return None if uri is None else Path(urlparse(uri).path).name

    async def reconcile(self) -> None:
        """One round of the controller: serve what the specs ask for, when it loads."""
        items = (await self.cluster.list(INFERENCE_SERVICES, namespace=self.namespace)).items
        for gone in set(self._serving) - {i["metadata"]["name"] for i in items}:
            del self._serving[gone]
        for item in items:
            await self._reconcile(item)

    async def _reconcile(self, item: Manifest) -> None:
        name = item["metadata"]["name"]
        check_admitted(item)
        if self.faults.never_observed:
            return
        uri = (item["spec"]["predictor"].get("model") or {}).get("storageUri")
        failure = None
        if uri is not None:
            version = Path(urlparse(uri).path).name
            never = self.faults.never_loads | (self.faults.beside_never_loads if name.endswith("-shadow") else set())
            if version in never:
                failure = f"{version} does not load"
            elif version not in self.faults.ready_without_model:
                self._serving[name] = uri
        serving = name in self._serving or (uri is not None and failure is None)
        status = PredictorStatus(
            generation=1,  # in Standard mode it is the Deployment's, which knows nothing of the InferenceService's
            url=f"http://{name}.test",
            serving=serving,
            failure=failure,
            invalid_spec=uri is None,
        )
        built = build_status(status, item.get("status") or {}, self.clock.now())
        built["canaryStatuses"] = [
            {"name": c["predictor"]["name"], "ready": self.faults.canary_ready, "trafficPercent": c["trafficPercent"]}
            for c in item["spec"].get("canary") or []
        ]
        if {k: v for k, v in built.items() if v is not None} != (item.get("status") or {}):
            await self.cluster.patch(
                INFERENCE_SERVICES,
                name,
                {"status": built},
                patch_type=PatchType.MERGE,
                namespace=self.namespace,
                subresource="status",
                field_manager="kserve-controller",
            )

    def connect(self, url: str, contract: FeatureContract | None, settings: InferenceSettings) -> InferenceClient:
        plain = settings.model_copy(update={"transport": "json", "attempts": 1})
        return InferenceClient(url, contract, settings=plain, transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        name = request.url.host.removesuffix(".test")
        uri = self._serving.get(name)
        self.requests.append((name, request.url.path))
        if uri is None:
            return httpx.Response(404, json={"error": "no such model"})
        path = Path(urlparse(uri).path)
        self.clock.time += timedelta(seconds=self.faults.seconds.get(path.name, 0.0))
        refused = request.method == "POST" and path.name in self.faults.refuses
        if refused or path.name in self.faults.fails:
            return httpx.Response(500, json={"error": "out of memory"})
        runtime = self._runtimes.setdefault(str(path), load_runtime(ModelPackage.load(path)))
        if request.url.path.endswith("/ready"):
            return httpx.Response(200, json={"name": runtime.name, "ready": True})
        if request.method == "GET":
            parameters = {"contract_sha256": runtime.package.contract.sha256, "package_sha256": runtime.package.sha256}
            body: dict[str, Any] = {"name": runtime.name, "versions": [runtime.version], "parameters": parameters}
        else:
            body = _infer(runtime, json.loads(request.content))
            if "error" in body:
                return httpx.Response(400, json=body)
        self.faults.alters.get(path.name, lambda _: None)(body)
        return httpx.Response(200, json=body)


def check_admitted(item: Manifest) -> None:
    """What KServe's webhook refuses although its CRD's schema allows it (`validateInferenceService`)."""
    predictor = item["spec"]["predictor"]
    model = predictor.get("model") or {}
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", item["metadata"]["name"])
    assert not model.get("name"), "the 'name' field is not allowed in standard predictor"
    assert not ("storageUri" in model and predictor.get("storageUris")), "both storageUri and storageUris"
    assert len({"model", "containers"} & set(predictor)) <= 1, "exactly one implementation"


def _infer(runtime: Runtime, request: dict[str, Any]) -> dict[str, Any]:
    try:
        runtime.check_contract(request["parameters"].get("contract_sha256"))
        outputs = runtime.run({entry["name"]: decode_tensor(entry) for entry in request["inputs"]})
    except (InvalidInput, ContractMismatch) as exc:
        return {"error": str(exc)}
    parameters = {"contract_sha256": runtime.package.contract.sha256, "package_sha256": runtime.package.sha256}
    return {
        "model_name": runtime.name,
        "model_version": runtime.version,
        "parameters": parameters,
        "outputs": [{"name": name, **encode_tensor(array)} for name, array in outputs.items()],
    }


@pytest.fixture(params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def open_world(front: str, request: pytest.FixtureRequest) -> AsyncIterator[OpenWorld]:
    """Makes worlds; `canary` says whether their KServe has `spec.canary[]`, None where it does not matter."""
    async with AsyncExitStack() as stack:

        async def make(*, canary: bool | None = None) -> World:
            clock = Clock()
            if front == "real":
                cluster: Cluster = await stack.enter_async_context(_real())
                await _require_kserve(cluster, canary=canary)
                namespace = f"clusterheal-rollout-{uuid.uuid4().hex[:8]}"
                stack.push_async_callback(_remove, cluster, namespace)
            else:
                cluster, namespace = SimulatedCluster(ApiServer(clock=clock, rng=random.Random(1))), NAMESPACE
                crd = inference_service_crd(canary=bool(canary))
                if front == "kserve":
                    crd = _kserve_crd(request.getfixturevalue("shared_dir"), canary=canary is not False)
                await cluster.create(CUSTOM_RESOURCE_DEFINITIONS, crd)
            await cluster.create(NAMESPACES, {"metadata": {"name": namespace}})
            return World(cluster, clock, namespace)

        yield make


def _real() -> HttpCluster:
    return HttpCluster(from_kubeconfig(Path(os.environ[KUBECONFIG])), manager="clusterheal-test")


async def _remove(cluster: Cluster, namespace: str) -> None:
    for item in (await cluster.list(INFERENCE_SERVICES, namespace=namespace)).items:
        with suppress(ApiError):
            await cluster.delete(INFERENCE_SERVICES, item["metadata"]["name"], namespace=namespace)
    with suppress(ApiError):
        await cluster.delete(NAMESPACES, namespace)


async def _require_kserve(cluster: Cluster, *, canary: bool | None) -> None:
    """Skip where the server lacks what a test is about."""
    try:
        crd = await cluster.get(CUSTOM_RESOURCE_DEFINITIONS, "inferenceservices.serving.kserve.io")
    except ApiError as exc:
        pytest.skip(f"the API server has no CRD of InferenceServices ({exc}); apply KServe's")
    if canary is not None and ("canary" in _spec_properties(crd)) is not canary:
        pytest.skip(f"the test is about a KServe {'with' if canary else 'without'} spec.canary, this one is not")
    with suppress(ApiError):  # who may not look goes on
        for item in (await cluster.list(DEPLOYMENTS, label_selector="control-plane=kserve-controller-manager")).items:
            if item.get("status", {}).get("availableReplicas"):
                pytest.skip("KServe's controller runs here and writes the status that the tests play; scale it to 0")


def _spec_properties(crd: Manifest) -> dict[str, Any]:
    version = next(v for v in crd["spec"]["versions"] if v["name"] == INFERENCE_SERVICES.version)
    properties: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    return properties


@functools.cache
def _kserve_text(shared: Path) -> bytes:
    text = (shared / "crds" / "serving.kserve.io_inferenceservices.yaml").read_text()
    return orjson.dumps(yaml.load(text, Loader=yaml.CSafeLoader))


def _kserve_crd(shared: Path, *, canary: bool) -> Manifest:
    """KServe's own CRD; without `canary`, what one before 0.20 knows."""
    crd: Manifest = orjson.loads(_kserve_text(shared))
    if not canary:
        del _spec_properties(crd)["canary"]
    return crd


@pytest.fixture
async def world(open_world: OpenWorld) -> World:
    return await open_world()


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelPackage]:
    """Versions of the detector: v1 and v2 alike, v3 raises alarms everywhere, v4 was trained for another contract."""
    root = tmp_path_factory.mktemp("models")
    contract = make_contract()
    return {
        "v000001": toy_detector(root / "v000001", contract, alarm_score=30.0),
        "v000002": toy_detector(root / "v000002", contract, alarm_score=31.0),
        "v000003": toy_detector(root / "v000003", contract, alarm_score=-1.0),
        "v000004": toy_detector(root / "v000004", make_contract(features=3), alarm_score=30.0),
    }


@pytest.fixture(scope="session")
def forecasters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelPackage]:
    """Versions of the forecaster: v2 forecasts far from v1."""
    root = tmp_path_factory.mktemp("forecasters")
    contract = make_contract()
    return {
        "v000001": toy_forecaster(root / "v000001", contract),
        "v000002": toy_forecaster(root / "v000002", contract, shift=100.0),
    }


@pytest.fixture(scope="session")
def alike(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelPackage]:
    """Two versions of the forecaster that forecast nearly the same."""
    root = tmp_path_factory.mktemp("alike")
    contract = make_contract()
    return {
        "v000001": toy_forecaster(root / "v000001", contract),
        "v000002": toy_forecaster(root / "v000002", contract, shift=0.001),
    }


@pytest.fixture
def settings() -> Settings:
    return load_settings(
        None,
        {
            "rollout": {"poll": 1.0, "bake": 12.0, "ready_timeout": 60.0, "lease": 60.0},
        },
    )
