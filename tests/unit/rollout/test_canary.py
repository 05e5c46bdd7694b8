"""What the cluster's KServe can do is looked up, not assumed; a field that is dropped is noticed."""

from __future__ import annotations

from typing import Any

import pytest

from clusterheal.contracts import ModelPackage
from clusterheal.kube.ports import PatchType
from clusterheal.kube.resources import CUSTOM_RESOURCE_DEFINITIONS, INFERENCE_SERVICES
from clusterheal.local.kserve_status import inference_service_crd
from clusterheal.rollout import RolloutOutcome
from clusterheal.rollout.shadow import CRD, has_canary
from clusterheal.settings import Settings, load_settings

from .conftest import OpenWorld, World

Packages = dict[str, ModelPackage]


@pytest.fixture
def steps() -> Settings:
    rollout = {"poll": 1.0, "bake": 3.0, "ready_timeout": 20.0, "canary_steps": [10, 50]}
    return load_settings(None, {"rollout": rollout})


async def in_service(
    open_world: OpenWorld, settings: Settings, packages: Packages, *, canary: bool, mode: str = "Standard"
) -> World:
    """v000001 serves in an InferenceService of the given deployment mode."""
    world = await open_world(canary=canary)
    shell = {
        "apiVersion": INFERENCE_SERVICES.api_version,
        "kind": "InferenceService",
        "metadata": {"name": "anomaly-detector", "annotations": {"serving.kserve.io/deploymentMode": mode}},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "onnx"}}}},
    }
    await world.cluster.patch(
        INFERENCE_SERVICES,
        "anomaly-detector",
        shell,
        patch_type=PatchType.APPLY,
        namespace=world.namespace,
        field_manager="argocd-controller",
    )
    for package in packages.values():
        world.registry.add(package)
    assert (await world.roll(settings, "v000001")).outcome is RolloutOutcome.PROMOTED
    return world


def watch_percents(world: World) -> list[Any]:
    """The canary entries that the object has had, in order, as (percent, name)."""
    seen: list[Any] = []

    async def look() -> None:
        service = await world.service()
        for entry in (service or {}).get("spec", {}).get("canary") or []:
            at = (entry["trafficPercent"], entry["predictor"]["name"])
            if at not in seen:
                seen.append(at)

    world.clock.meanwhile.append(look)
    return seen


async def test_traffic_moves_in_steps_where_kserve_has_canaries(
    open_world: OpenWorld, steps: Settings, packages: Packages
) -> None:
    world = await in_service(open_world, steps, packages, canary=True)
    seen = watch_percents(world)
    result = await world.roll(steps, "v000002")
    assert result.outcome is RolloutOutcome.PROMOTED, result
    name = "anomaly-detector-v000002"
    assert seen == [(10, name), (50, name)]
    assert [s.name for s in result.steps] == ["stage", "shadow", "canary 10 %", "canary 50 %", "promote", "bake"]
    service = await world.service()
    assert service is not None
    assert not service["spec"].get("canary")
    assert await world.served_version() == "v000002"


@pytest.mark.parametrize(
    ("canary", "mode"), [(False, "Standard"), (True, "RawDeployment")], ids=["older KServe", "older mode"]
)
async def test_without_canaries_the_shadow_is_all(
    open_world: OpenWorld, steps: Settings, packages: Packages, canary: bool, mode: str
) -> None:
    world = await in_service(open_world, steps, packages, canary=canary, mode=mode)
    seen = watch_percents(world)
    result = await world.roll(steps, "v000002")
    assert result.outcome is RolloutOutcome.PROMOTED, result
    assert seen == []
    assert [s.name for s in result.steps] == ["stage", "shadow", "promote", "bake"]


async def test_a_canary_that_never_gets_ready_is_taken_back(
    open_world: OpenWorld, steps: Settings, packages: Packages
) -> None:
    world = await in_service(open_world, steps, packages, canary=True)
    world.faults.canary_ready = False
    result = await world.roll(steps, "v000002")
    assert result.outcome is RolloutOutcome.ROLLED_BACK
    assert "canary anomaly-detector-v000002 was not ready" in (result.reason or "")
    service = await world.service()
    assert service is not None
    assert not service["spec"].get("canary")
    assert await world.served_version() == "v000001"


async def test_a_canary_field_dropped_by_an_old_crd_is_noticed(
    open_world: OpenWorld, steps: Settings, packages: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CRD that was looked at has the field, the one that stores does not (a conversion, or a downgrade)."""
    world = await in_service(open_world, steps, packages, canary=False)
    real = world.cluster.get

    async def get(resource: Any, name: str, **kwargs: Any) -> Any:
        if resource == CUSTOM_RESOURCE_DEFINITIONS and name == CRD:
            return inference_service_crd(canary=True)
        return await real(resource, name, **kwargs)

    monkeypatch.setattr(world.cluster, "get", get)
    result = await world.roll(steps, "v000002")
    assert result.outcome is RolloutOutcome.PROMOTED, result
    assert "dropped spec.canary" in next(s.detail for s in result.steps if s.name == "canary 10 %")
    assert await world.served_version() == "v000002"


async def test_who_may_not_read_crds_gets_the_shadow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from clusterheal.kube.ports import ApiError

    async def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise ApiError(403, "Forbidden", "no")

    monkeypatch.setattr(world.cluster, "get", forbidden)
    standard = {"metadata": {"annotations": {"serving.kserve.io/deploymentMode": "Standard"}}}
    assert await has_canary(world.cluster, standard) is False
