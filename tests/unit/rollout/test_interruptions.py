"""Kills, rivals and a bad API server: a rollout is resumed or refused, never left half-switched."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from clusterheal.contracts import ModelPackage
from clusterheal.errors import PermanentError
from clusterheal.kube.ports import ApiRetryable, PatchType
from clusterheal.kube.resources import INFERENCE_SERVICES
from clusterheal.registry.versions import ModelVersion, State
from clusterheal.rollout import RolloutBusy, RolloutOutcome, RolloutResult
from clusterheal.rollout.service import state_of
from clusterheal.settings import Settings, load_settings

from .conftest import REAL, OpenWorld, World

Packages = dict[str, ModelPackage]
DETECTOR = "anomaly-detector"


@pytest.fixture(params=["emulated", *REAL])
def front(request: pytest.FixtureRequest) -> str:
    """KServe's own CRD, whose schema is large, adds nothing here."""
    return str(request.param)


class Killed(BaseException):
    """SIGKILL of the process that rolls out: nothing of ours runs after it."""


class Disturbed:
    """The cluster as one process sees it; a write may be cut off before or after it took effect, or meet a rival."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.writes = 0
        self.kill_at: int | None = None
        self.applied_first = False
        self.conflicts = False
        self.flaky = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.cluster, name)

    async def patch(self, *args: Any, **kwargs: Any) -> Any:
        if self.conflicts:
            await self._rival_write()
        return await self._write(self._world.cluster.patch, args, kwargs)

    async def delete(self, *args: Any, **kwargs: Any) -> Any:
        return await self._write(self._world.cluster.delete, args, kwargs)

    async def _write(self, operation: Any, args: Any, kwargs: Any) -> Any:
        number = self.writes
        self.writes += 1
        if number == self.kill_at and not self.applied_first:
            raise Killed
        if self.flaky and number % 3 == 1:
            raise ApiRetryable("503: not applied")
        answer = await operation(*args, **kwargs)
        if number == self.kill_at:
            raise Killed
        if self.flaky and number % 3 == 2:
            raise ApiRetryable("504: applied, but the answer was lost")
        return answer

    async def _rival_write(self) -> None:
        """Somebody else writes the object between our read and our write, every other time."""
        if self.writes % 2 or await self._world.service() is None:
            return
        await self._world.cluster.patch(
            INFERENCE_SERVICES,
            DETECTOR,
            {"metadata": {"annotations": {"rival": str(self.writes)}}},
            patch_type=PatchType.MERGE,
            namespace=self._world.namespace,
            field_manager="rival",
        )


@pytest.fixture
def quick() -> Settings:
    rollout = {"poll": 1.0, "bake": 3.0, "ready_timeout": 30.0, "lease": 60.0}
    return load_settings(None, {"rollout": rollout})


async def fresh(open_world: OpenWorld, packages: Packages, settings: Settings) -> World:
    """v000001 in service."""
    world = await open_world()
    for package in packages.values():
        world.registry.add(package)
    assert (await world.roll(settings, "v000001")).outcome is RolloutOutcome.PROMOTED
    return world


async def assert_settled(world: World, version: str) -> None:
    """`version` is served, by the spec, by the predictor and by the registry, and nothing else is left."""
    service = await world.service()
    assert service is not None
    assert service["spec"]["predictor"]["model"]["storageUri"].endswith(f"/{version}/")
    assert await world.served_version() == version
    assert state_of(service) is None
    assert await world.service(f"{DETECTOR}-shadow") is None
    assert world.registry.states()[version] == "serving"
    assert list(world.registry.states().values()).count("serving") == 1


@pytest.mark.parametrize("applied_first", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("then", ["v000002", "v000001"])
async def test_a_kill_at_any_write_is_recovered_by_the_next_rollout(
    open_world: OpenWorld, packages: Packages, quick: Settings, applied_first: bool, then: str
) -> None:
    point = 0
    while True:
        world = await fresh(open_world, packages, quick)
        cluster = Disturbed(world)
        cluster.kill_at, cluster.applied_first = point, applied_first
        try:
            await world.roll(quick, "v000002", cluster=cluster)
        except Killed:
            pass
        else:
            break
        left = await world.service()
        if left is not None and state_of(left) is not None:
            with pytest.raises(RolloutBusy, match="is being rolled out by"):
                await world.roll(quick, then)
        world.clock.time += timedelta(seconds=61)
        result = await world.roll(quick, then)
        assert result.outcome is RolloutOutcome.PROMOTED, (point, result)
        await assert_settled(world, then)
        point += 1
    assert point >= 6  # lease, shadow, its end, promote, bake, finish


async def test_a_kill_while_rolling_back_goes_on_rolling_back(
    open_world: OpenWorld, packages: Packages, quick: Settings
) -> None:
    point = 0
    while True:
        world = await fresh(open_world, packages, quick)
        cluster = Disturbed(world)
        cluster.kill_at = point
        try:
            result = await world.roll(quick, "v000003", cluster=cluster)  # worse in shadow
        except Killed:
            world.clock.time += timedelta(seconds=61)
            result = await world.roll(quick, "v000003")
            point += 1
        else:
            break
        finally:
            assert await world.served_version() == "v000001"
        assert result.outcome is RolloutOutcome.ROLLED_BACK
        await assert_settled(world, "v000001")
    assert point >= 4


async def test_writes_of_others_in_between_are_no_obstacle(
    open_world: OpenWorld, packages: Packages, quick: Settings
) -> None:
    world = await fresh(open_world, packages, quick)
    cluster = Disturbed(world)
    cluster.conflicts = True
    assert (await world.roll(quick, "v000002", cluster=cluster)).outcome is RolloutOutcome.PROMOTED
    await assert_settled(world, "v000002")
    service = await world.service()
    assert service is not None
    assert service["metadata"]["annotations"]["rival"]


async def test_an_api_server_that_loses_answers_is_no_obstacle(
    open_world: OpenWorld, packages: Packages, quick: Settings
) -> None:
    world = await fresh(open_world, packages, quick)
    cluster = Disturbed(world)
    cluster.flaky = True
    assert (await world.roll(quick, "v000002", cluster=cluster)).outcome is RolloutOutcome.PROMOTED
    await assert_settled(world, "v000002")


async def test_two_rollouts_of_one_service_exclude_each_other(
    open_world: OpenWorld, packages: Packages, quick: Settings
) -> None:
    world = await fresh(open_world, packages, quick)
    refused: list[str] = []

    async def rival() -> None:
        if not refused and state_of(await world.service()) is not None:  # type: ignore[arg-type]
            with pytest.raises(RolloutBusy) as caught:
                await world.roll(quick, "v000003")
            refused.append(str(caught.value))

    world.clock.meanwhile.append(rival)
    result = await world.roll(quick, "v000002", holder="first")
    assert result.outcome is RolloutOutcome.PROMOTED
    assert "is being rolled out by first (v000002" in refused[0]
    await assert_settled(world, "v000002")


async def test_a_holder_that_overslept_its_lease_writes_nothing_more(
    open_world: OpenWorld, packages: Packages, quick: Settings
) -> None:
    world = await fresh(open_world, packages, quick)
    taken: list[RolloutResult] = []

    async def oversleep() -> None:
        if not taken and world.registry.states()["v000002"] == "shadow":
            world.clock.meanwhile.remove(oversleep)
            world.clock.time += timedelta(seconds=61)
            taken.append(await world.roll(quick, "v000001", holder="second"))

    world.clock.meanwhile.append(oversleep)
    with pytest.raises(RolloutBusy, match="the lease was lost"):
        await world.roll(quick, "v000002", holder="first")
    assert taken[0].outcome is RolloutOutcome.PROMOTED
    await assert_settled(world, "v000001")


async def test_a_registry_that_fails_at_the_end_is_asked_again_by_the_next_rollout(
    open_world: OpenWorld, packages: Packages, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await fresh(open_world, packages, quick)

    real = world.registry.set_state

    def down(name: str, version: str, state: State) -> ModelVersion:
        if state is State.SERVING:
            raise PermanentError("registry answered 500")
        return real(name, version, state)

    with monkeypatch.context() as patched:
        patched.setattr(world.registry, "set_state", down)
        with pytest.raises(PermanentError, match="500"):
            await world.roll(quick, "v000002")
    world.clock.time += timedelta(seconds=61)
    result = await world.roll(quick, "v000002")
    assert result.outcome is RolloutOutcome.PROMOTED
    assert result.steps == ()  # nothing but the end was left to do
    await assert_settled(world, "v000002")


async def test_a_deleted_service_is_reported(open_world: OpenWorld, packages: Packages, quick: Settings) -> None:
    world = await fresh(open_world, packages, quick)

    async def remove() -> None:
        if await world.service() is not None:
            await world.cluster.delete(INFERENCE_SERVICES, DETECTOR, namespace=world.namespace)

    world.clock.meanwhile.insert(0, remove)
    with pytest.raises(PermanentError, match="was deleted during the rollout"):
        await world.roll(quick, "v000002")
