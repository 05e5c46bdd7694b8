"""A rollout ends in one of two states, whatever happens: the candidate serves, or what served before does."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from clusterheal.contracts import FeatureContract, ModelInputs, ModelPackage
from clusterheal.errors import InvalidInput, RetryableError
from clusterheal.kube.ports import ApiError, PatchType
from clusterheal.kube.resources import INFERENCE_SERVICES
from clusterheal.registry.versions import State
from clusterheal.rollout import RolloutOutcome, Step
from clusterheal.rollout.service import state_of
from clusterheal.rollout.state import VERSION_LABEL
from clusterheal.settings import Settings

from .conftest import Faults, World

Packages = dict[str, ModelPackage]
DETECTOR, FORECASTER = "anomaly-detector", "predictive-analytics"


async def in_service(world: World, settings: Settings, packages: Packages, version: str = "v000001") -> None:
    """`version` is in service; the other packages are candidates."""
    for package in packages.values():
        world.registry.add(package)
    result = await world.roll(settings, version)
    assert result.outcome is RolloutOutcome.PROMOTED, result


async def test_the_first_version_creates_the_service(world: World, settings: Settings, packages: Packages) -> None:
    await in_service(world, settings, packages)
    service = await world.service()
    assert service is not None
    assert service["metadata"]["labels"][VERSION_LABEL] == "v000001"
    assert service["metadata"]["labels"]["modelregistry.opendatahub.io/model-version-id"] == "1"
    assert state_of(service) is None
    assert service["spec"]["predictor"]["model"]["storageUri"].endswith("/v000001/")
    assert world.registry.states()["v000001"] == "serving"


async def test_a_good_candidate_is_staged_compared_promoted_and_watched(
    world: World, settings: Settings, packages: Packages
) -> None:
    await in_service(world, settings, packages)
    before = world.clock.now()
    result = await world.roll(settings, "v000002")
    assert result.outcome is RolloutOutcome.PROMOTED, result
    assert [s.name for s in result.steps] == ["stage", "shadow", "promote", "bake"]
    assert "100.0% agreement" in result.steps[1].detail
    assert (world.clock.now() - before).total_seconds() >= 12
    assert await world.served_version() == "v000002"
    assert await world.service("anomaly-detector-shadow") is None
    states = world.registry.states()
    assert (states["v000001"], states["v000002"]) == ("previous", "serving")


async def test_kserve_sees_nothing_to_copy_into_the_pods_but_the_version(
    world: World, settings: Settings, packages: Packages
) -> None:
    """KServe copies annotations and labels into the Deployment's pods: a change of one replaces them."""
    await in_service(world, settings, packages)
    seen: list[str] = []

    async def look() -> None:
        found = await world.service()
        assert found is not None
        copied = (found["metadata"].get("annotations") or {}, found["metadata"]["labels"], found["spec"])
        if (text := json.dumps(copied, sort_keys=True)) not in seen:
            seen.append(text)

    await look()
    world.clock.meanwhile.append(look)
    watched = {"bake": timedelta(minutes=3), "poll": timedelta(seconds=10)}
    long = settings.model_copy(update={"rollout": settings.rollout.model_copy(update=watched)})
    assert (await world.roll(long, "v000002")).outcome is RolloutOutcome.PROMOTED  # with several renewals of the lease
    await look()
    assert ["v000001" in text for text in seen] == [True, False]


async def test_rolling_out_what_is_in_service_changes_nothing(
    world: World, settings: Settings, packages: Packages
) -> None:
    await in_service(world, settings, packages)
    generation = (await world.service())["metadata"]["generation"]  # type: ignore[index]
    result = await world.roll(settings, "v000001")
    assert result.outcome is RolloutOutcome.PROMOTED
    assert [s.name for s in result.steps] == ["promote"]
    assert (await world.service())["metadata"]["generation"] == generation  # type: ignore[index]


async def test_a_rejected_version_is_never_rolled_out(world: World, settings: Settings, packages: Packages) -> None:
    version = world.registry.add(packages["v000001"], State.REJECTED)
    with pytest.raises(InvalidInput, match="rejected"):
        await world.roll(settings, version.version)
    assert await world.service() is None


def _alter_scores(body: dict[str, Any]) -> None:
    for output in body.get("outputs", []):
        if output["name"] == "score":
            output["data"] = [x * 1.01 for x in output["data"]]


def _drop_output(body: dict[str, Any]) -> None:
    if "outputs" in body:
        body["outputs"] = [o for o in body["outputs"] if o["name"] != "confidence"]


def _other_contract(body: dict[str, Any]) -> None:
    if "versions" in body:
        body["parameters"]["contract_sha256"] = "f" * 64


def _other_package(body: dict[str, Any]) -> None:
    body["parameters"]["package_sha256"] = "e" * 64


FAULTS: list[tuple[str, str, Callable[[World], None], str]] = [
    ("candidate never loads", "v000002", lambda w: w.faults.never_loads.add("v000002"), "does not load"),
    (
        "ready without a model",
        "v000002",
        lambda w: w.faults.ready_without_model.add("v000002"),
        "does not say ready",
    ),
    (
        "golden answer differs",
        "v000002",
        lambda w: w.faults.alters.update({"v000002": _alter_scores}),
        "output 'score' differs by 0.01",
    ),
    (
        "golden answer incomplete",
        "v000002",
        lambda w: w.faults.alters.update({"v000002": _drop_output}),
        "output 'confidence' has shape None",
    ),
    (
        "wrong contract",
        "v000002",
        lambda w: w.faults.alters.update({"v000002": _other_contract}),
        "contract ffffffffffff is served",
    ),
    (
        "another package answers",
        "v000002",
        lambda w: w.faults.alters.update({"v000002": _other_package}),
        "package eeeeeeeeeeee is served",
    ),
    ("worse in shadow", "v000003", lambda w: None, "worse in shadow: alarms on 100.0% of the rows"),
]


def _fail(faults: Faults) -> None:
    faults.fails.add("v000002")


def _refuse(faults: Faults) -> None:
    faults.refuses.add("v000002")


def _slow_down(faults: Faults) -> None:
    faults.seconds["v000002"] = 0.2


def _alarm_everywhere(body: dict[str, Any]) -> None:
    for output in body.get("outputs", []):
        if output["name"] == "alarm":
            output["data"] = [True] * len(output["data"])


def _forecast_elsewhere(body: dict[str, Any]) -> None:
    for output in body.get("outputs", []):
        if output["name"] == "quantiles":
            output["data"] = [None if x is None else x + 1000.0 for x in output["data"]]


IN_SERVICE: list[tuple[str, str, Callable[[Faults], None], str]] = [
    ("fails", DETECTOR, _fail, "/v2/models/anomaly-detector/ready does not say ready"),
    ("refuses", DETECTOR, _refuse, "100.0% of the requests failed, allowed are 1.0%"),
    ("slows down", DETECTOR, _slow_down, "p99 is 200 ms, allowed are 150 ms"),
    ("alarms", DETECTOR, lambda f: f.alters.update({"v000002": _alarm_everywhere}), "alarms on 100.0% of the rows"),
    (
        "disagrees with the version before",
        FORECASTER,
        lambda f: f.alters.update({"v000002": _forecast_elsewhere}),
        "candidate and incumbent agree on 0.0% of the verdicts, at least 80% must",
    ),
]


def _once_watched(world: World, name: str, happen: Callable[[Faults], None]) -> list[float]:
    """Let it happen five seconds after v000002 took over; the clock then is in the list that is returned."""
    since: list[float] = []
    happened: list[float] = []

    async def look() -> None:
        service = await world.service(name)
        state = None if service is None else state_of(service)
        if state is not None and state.step is Step.BAKE and not happened:
            since.append(world.clock.monotonic())
            if since[-1] - since[0] >= 5:
                happened.append(since[-1])
                happen(world.faults)

    world.clock.meanwhile.append(look)
    return happened


@pytest.mark.parametrize(("version", "disturb", "reason"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
async def test_a_fault_leaves_the_version_before_in_service(
    world: World,
    settings: Settings,
    packages: Packages,
    version: str,
    disturb: Callable[[World], None],
    reason: str,
) -> None:
    await in_service(world, settings, packages)
    disturb(world)
    result = await world.roll(settings, version)
    assert result.outcome is RolloutOutcome.ROLLED_BACK, result
    assert result.serving == "v000001"
    assert reason in (result.reason or "")
    assert await world.served_version() == "v000001"
    service = await world.service()
    assert service is not None
    assert service["metadata"]["labels"][VERSION_LABEL] == "v000001"
    assert state_of(service) is None
    assert await world.service("anomaly-detector-shadow") is None
    states = world.registry.states()
    assert (states["v000001"], states[version]) == ("serving", "candidate")
    assert reason in str(world.registry.versions[version].properties["rollback_reason"])


@pytest.mark.parametrize(("name", "happen", "reason"), [f[1:] for f in IN_SERVICE], ids=[f[0] for f in IN_SERVICE])
async def test_a_breach_while_watched_is_undone_within_a_minute(
    world: World,
    settings: Settings,
    packages: Packages,
    alike: Packages,
    name: str,
    happen: Callable[[Faults], None],
    reason: str,
) -> None:
    await in_service(world, settings, alike if name == FORECASTER else packages)
    happened = _once_watched(world, name, happen)
    result = await world.roll(settings, "v000002")
    assert (result.outcome, result.serving) == (RolloutOutcome.ROLLED_BACK, "v000001"), result
    assert f"while watched: {reason}" in (result.reason or "")
    assert world.clock.monotonic() - happened[0] < 60
    assert await world.served_version(name) == "v000001"
    service = await world.service(name)
    assert service is not None
    assert state_of(service) is None
    assert await world.service(f"{name}-shadow") is None
    assert world.registry.states()["v000001"] == "serving"


async def test_the_version_before_runs_beside_the_new_one_while_that_is_watched(
    world: World, settings: Settings, packages: Packages
) -> None:
    await in_service(world, settings, packages)
    beside: list[tuple[str | None, str | None]] = []

    async def look() -> None:
        beside.append((await world.served_version(), await world.served_version(f"{DETECTOR}-shadow")))

    world.clock.meanwhile.append(look)
    result = await world.roll(settings, "v000002")
    assert result.outcome is RolloutOutcome.PROMOTED, result
    assert ("v000002", "v000001") in beside
    assert "agreed with the version before on 100.0% or more" in result.steps[-1].detail
    assert await world.service(f"{DETECTOR}-shadow") is None


class Full:
    """A cluster whose quota has no room for `version` beside what is in service."""

    def __init__(self, cluster: Any, version: str) -> None:
        self._cluster, self._version = cluster, version

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)

    async def patch(self, resource: Any, name: str, patch: Any, **options: Any) -> Any:
        if name.endswith("-shadow") and self._version in json.dumps(patch):
            raise ApiError(403, "Forbidden", "exceeded quota: models")
        return await self._cluster.patch(resource, name, patch, **options)


@pytest.mark.parametrize(
    ("disturb", "kept", "said"),
    [
        (lambda w: w.faults.beside_never_loads.add("v000001"), True, "did not answer beside it"),
        (lambda w: setattr(w, "cluster", Full(w.cluster, "v000001")), True, "did not answer beside it"),
        (lambda w: None, False, "did not run beside it"),
    ],
    ids=["no room for it", "refused", "not wanted"],
)
async def test_without_the_version_before_the_new_one_is_watched_alone(
    world: World, settings: Settings, packages: Packages, disturb: Callable[[World], None], kept: bool, said: str
) -> None:
    await in_service(world, settings, packages)
    disturb(world)
    rollout = settings.rollout.model_copy(update={"keep_previous": kept})
    result = await world.roll(settings.model_copy(update={"rollout": rollout}), "v000002")
    assert result.outcome is RolloutOutcome.PROMOTED, result
    assert said in result.steps[-1].detail
    assert await world.service(f"{DETECTOR}-shadow") is None


async def test_a_rollout_that_is_told_to_stops_after_a_step_and_goes_on_from_there(
    world: World, settings: Settings, packages: Packages
) -> None:
    await in_service(world, settings, packages)
    shadowed = await world.roll(settings, "v000002", holder="run-1", stop_after=Step.SHADOW)
    assert (shadowed.outcome, shadowed.serving) == (RolloutOutcome.PAUSED, "v000001")
    assert world.registry.states()["v000002"] == "shadow"
    for _ in range(2):  # a step that is repeated because its pod was lost finds its work done
        promoted = await world.roll(settings, "v000002", holder="run-1", stop_after=Step.PROMOTE)
        assert (promoted.outcome, promoted.serving) == (RolloutOutcome.PAUSED, "v000002")
        assert await world.served_version() == "v000002"
        assert world.registry.states()["v000001"] == "serving"  # not before it has been watched
    assert promoted.steps == ()
    watched = await world.roll(settings, "v000002", holder="run-1")
    assert watched.outcome is RolloutOutcome.PROMOTED
    assert [s.name for s in watched.steps] == ["bake"]
    assert world.registry.states()["v000002"] == "serving"


async def test_a_registry_that_is_down_does_not_keep_a_breach_from_being_undone(
    world: World, settings: Settings, packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_service(world, settings, packages)
    real = world.registry.set_state

    def down(name: str, version: str, state: State, **kwargs: Any) -> Any:
        if kwargs:
            raise RetryableError("registry answered 503")
        return real(name, version, state)

    monkeypatch.setattr(world.registry, "set_state", down)
    result = await world.roll(settings, "v000003")
    assert result.outcome is RolloutOutcome.ROLLED_BACK
    assert "the registry could not be told: registry answered 503" in (result.reason or "")
    assert await world.served_version() == "v000001"


def _newest(world: World, packages: Packages, asked: list[float]) -> Any:
    window = ModelInputs(
        recent=np.ones((1, 6, 2), np.float32),
        seasonal=np.ones((1, 1, 4, 2), np.float32),
        timestamp=np.array([1], np.int64),
        entity=("node/a",),
    )

    async def newest(contract: FeatureContract) -> ModelInputs:
        assert contract == packages["v000001"].contract
        asked.append(world.clock.monotonic())
        return window

    return newest


async def test_the_newest_window_is_compared_and_watched_too(
    world: World, settings: Settings, packages: Packages
) -> None:
    await in_service(world, settings, packages)
    asked: list[float] = []
    result = await world.roll(settings, "v000002", live=_newest(world, packages, asked))
    assert result.outcome is RolloutOutcome.PROMOTED, result
    assert "21 windows (one of them live), 100.0% agreement" in result.steps[1].detail
    assert len(asked) > 10  # once in shadow, then at every look of the twelve seconds


async def test_without_metrics_the_replayed_windows_do_and_the_report_says_so(
    world: World, settings: Settings, packages: Packages
) -> None:
    async def down(contract: FeatureContract) -> ModelInputs:
        raise RetryableError("prometheus does not answer")

    await in_service(world, settings, packages)
    result = await world.roll(settings, "v000002", live=down)
    assert result.outcome is RolloutOutcome.PROMOTED, result
    assert "20 windows (none of them live: prometheus does not answer)" in result.steps[1].detail


async def test_without_a_version_before_a_failed_candidate_leaves_nothing(
    world: World, settings: Settings, packages: Packages
) -> None:
    world.registry.add(packages["v000001"])
    world.faults.never_loads.add("v000001")
    result = await world.roll(settings, "v000001")
    assert result.outcome is RolloutOutcome.FAILED
    assert result.serving is None
    assert await world.service() is None


SHELL = {
    "apiVersion": INFERENCE_SERVICES.api_version,
    "kind": "InferenceService",
    "metadata": {"name": DETECTOR, "labels": {"app": "x"}},
    "spec": {"predictor": {"minReplicas": 2, "model": {"runtime": "ours", "modelFormat": {"name": "onnx"}}}},
}


async def gitops_applies(world: World, manifest: dict[str, Any]) -> None:
    await world.cluster.patch(
        INFERENCE_SERVICES,
        DETECTOR,
        manifest,
        patch_type=PatchType.APPLY,
        namespace=world.namespace,
        field_manager="argocd-controller",
    )


async def test_the_shell_that_gitops_made_keeps_its_fields(
    world: World, settings: Settings, packages: Packages
) -> None:
    await gitops_applies(world, SHELL)
    await in_service(world, settings, packages)
    await gitops_applies(world, SHELL)  # a later sync takes nothing back
    service = await world.service()
    assert service is not None
    assert service["spec"]["predictor"]["minReplicas"] == 2
    assert service["spec"]["predictor"]["model"]["runtime"] == "ours"
    assert service["spec"]["predictor"]["model"]["storageUri"].endswith("/v000001/")
    owners = {
        e["manager"]: str(e["fieldsV1"]) for e in service["metadata"]["managedFields"] if e["operation"] == "Apply"
    }
    assert "f:storageUri" in owners["clusterheal-rollout"]
    assert "f:storageUri" not in owners["argocd-controller"]
    assert "f:minReplicas" not in owners["clusterheal-rollout"]


async def test_a_failed_first_candidate_leaves_the_shell_as_it_was(
    world: World, settings: Settings, packages: Packages
) -> None:
    await gitops_applies(world, SHELL)
    world.registry.add(packages["v000001"])
    world.faults.never_loads.add("v000001")
    result = await world.roll(settings, "v000001")
    assert result.outcome is RolloutOutcome.FAILED
    service = await world.service()
    assert service is not None
    assert service["spec"] == SHELL["spec"]
    assert service["metadata"]["labels"] == {"app": "x"}
    assert not service["metadata"].get("annotations")


async def test_a_path_that_gitops_owns_is_not_taken(world: World, settings: Settings, packages: Packages) -> None:
    uri = f"file://{packages['v000001'].path}/"
    service = {
        "apiVersion": INFERENCE_SERVICES.api_version,
        "kind": "InferenceService",
        "metadata": {"name": DETECTOR},
        "spec": {"predictor": {"model": {"storageUri": uri, "modelFormat": {"name": "onnx"}}}},
    }
    await gitops_applies(world, service)
    for package in packages.values():
        world.registry.add(package)
    await world.reconcile()
    result = await world.roll(settings, "v000002")
    assert result.outcome is RolloutOutcome.ROLLED_BACK
    assert "let GitOps ignore" in (result.reason or "")
    assert await world.served_version() == "v000001"


async def test_a_forecaster_far_from_the_incumbent_is_held_back(
    world: World, settings: Settings, forecasters: Packages
) -> None:
    await in_service(world, settings, forecasters)
    result = await world.roll(settings, "v000002")
    assert result.outcome is RolloutOutcome.ROLLED_BACK
    assert "agree on 0.0%" in (result.reason or "")


async def test_a_new_contract_is_rolled_out_without_comparing_answers(
    world: World, settings: Settings, packages: Packages
) -> None:
    await in_service(world, settings, packages)
    result = await world.roll(settings, "v000004")
    assert result.outcome is RolloutOutcome.PROMOTED, result
    assert "another contract" in result.steps[1].detail
