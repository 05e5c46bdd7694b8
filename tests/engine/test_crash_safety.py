"""Dying at any point loses no incident and repeats no action."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from platform_kit import CONFIG, Platform

from clusterheal.contracts import IncidentState
from clusterheal.engine import decide as decide_module
from clusterheal.engine.actions import apply as apply_module
from clusterheal.engine.names import LEASE_NAME
from clusterheal.engine.service import Service
from clusterheal.kube.ports import ApiRetryable, Resource
from clusterheal.kube.resources import DEPLOYMENTS, INCIDENTS, LEASES
from clusterheal.local.kube.adapter import SimulatedCluster
from clusterheal.local.simulation.run import run_seed
from clusterheal.local.simulation.scenario import NAMESPACE

Sim = Callable[[Callable[[Platform], Awaitable[None]]], None]


class Dying(SimulatedCluster):
    """Its process dies in the `at`-th write to incidents or Deployments: `before` it is applied, or after."""

    def __init__(self, api: Any, *, at: int, before: bool) -> None:
        super().__init__(api, manager="engine")
        self.at = at
        self.before = before
        self.writes = 0
        self.dead = asyncio.Event()

    async def _write(self, resource: Resource, dry_run: bool, operation: Callable[[], Awaitable[Any]]) -> Any:
        if self.dead.is_set():
            raise ApiRetryable("dead")
        counted = resource in (INCIDENTS, DEPLOYMENTS) and not dry_run
        self.writes += counted
        fatal = counted and self.writes == self.at
        if fatal and self.before:
            await self._die()
        answer = await operation()
        if fatal:
            await self._die()
        return answer

    async def _die(self) -> None:
        self.dead.set()
        await asyncio.Event().wait()

    async def create(self, resource, obj, *, namespace=None, dry_run=False):  # type: ignore[no-untyped-def]
        call = super().create
        return await self._write(resource, dry_run, lambda: call(resource, obj, namespace=namespace, dry_run=dry_run))

    async def update(self, resource, obj, *, namespace=None, subresource=None, dry_run=False):  # type: ignore[no-untyped-def]
        call = super().update
        return await self._write(
            resource,
            dry_run,
            lambda: call(resource, obj, namespace=namespace, subresource=subresource, dry_run=dry_run),
        )

    async def patch(self, resource, name, patch, *, dry_run=False, **options):  # type: ignore[no-untyped-def]
        call = super().patch
        return await self._write(resource, dry_run, lambda: call(resource, name, patch, dry_run=dry_run, **options))


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 7))
def test_death_in_any_write_neither_loses_nor_repeats(sim: Sim, at: int, before: bool) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        cluster = Dying(p.emulator.api, at=at, before=before)
        patient = replace(CONFIG, verify_timeout=timedelta(minutes=10))
        first = await p.engine("first", cluster=cluster, config=patient)
        post = asyncio.create_task(p.alert(first))
        await asyncio.wait({post, asyncio.create_task(cluster.dead.wait())}, timeout=120,
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        stored = post.done()
        await asyncio.sleep(20)
        await p.crash(first)
        second = await p.engine("second", config=patient)
        await asyncio.sleep(30)
        if not stored:  # Alertmanager had no answer, so it sends the notification again
            post.cancel()
        began = await p.alert(second) if not stored else post.result()
        await asyncio.sleep(90)
        await p.alert(second, "resolved", started=began)
        ended = await p.until(IncidentState.RESOLVED, IncidentState.SELF_HEALED)
        assert ended.state is IncidentState.RESOLVED, ended.message
        assert await p.restarts() == 1

    sim(test)


def test_a_standby_stores_alerts_and_takes_over(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        leader, standby = await p.engine("leader"), await p.engine("standby")
        assert (leader.elector.leading, standby.elector.leading) == (True, False)
        await p.alert(standby)
        await p.until(IncidentState.VERIFYING)
        await p.crash(leader)
        await asyncio.sleep(30)
        assert standby.elector.leading
        lease = await p.cluster.get(LEASES, LEASE_NAME, namespace=NAMESPACE)
        assert (lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]) == ("standby", 2)
        assert Service(standby).status().incidents == {"Verifying": 1}

    sim(test)


def test_a_released_lease_is_taken_at_once(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        leader, standby = await p.engine("leader"), await p.engine("standby")
        await leader.elector.release()
        assert not leader.elector.leading
        await standby.elector.try_once()
        assert standby.elector.leading

    sim(test)


def test_a_leader_that_cannot_renew_stops_before_its_lease_can_be_taken(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        from clusterheal.local.simulation.faults import FaultyCluster, Weather

        weather = Weather(latency=0.0)
        weather.calm()
        import random

        connection = FaultyCluster(p.emulator.cluster(manager="engine"), random.Random(1), weather)
        leader, standby = await p.engine("leader", cluster=connection), await p.engine("standby")
        connection.cut = True
        while not standby.elector.leading:
            assert not (leader.elector.leading and standby.elector.leading)
            await asyncio.sleep(0.25)
        assert not leader.elector.leading

    sim(test)


@pytest.mark.parametrize("seed", range(6))
def test_the_invariants_hold_in_a_storm(seed: int) -> None:
    result = run_seed(seed)
    assert result.broken is None
    assert result.incidents > 0


def test_a_seed_replays_exactly() -> None:
    first, second = run_seed(3), run_seed(3)
    assert first.digest == second.digest


def test_the_simulation_notices_an_action_that_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to every action's first write is lost: a whole engine finds its mark, one without it acts again."""
    send, lost = apply_module._send, set[str]()

    async def losing(cluster: Any, intent: Any, change: Any, *, dry_run: bool) -> Any:
        written = await send(cluster, intent, change, dry_run=dry_run)
        if not dry_run and intent.id not in lost:
            lost.add(intent.id)
            raise ApiRetryable("the answer is lost (planted)")
        return written

    async def always(*_: Any) -> bool:
        return True

    monkeypatch.setattr(apply_module, "_send", losing)
    assert run_seed(0).broken is None
    assert lost, "the seed acts"
    lost.clear()
    monkeypatch.setattr(apply_module, "_mark", lambda target: None)
    monkeypatch.setattr("clusterheal.engine.reconcile.Reconciler._still_wanted", always)
    assert "was carried out" in str(run_seed(0).broken)


def test_the_simulation_notices_a_budget_that_is_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide_module, "HOLDING", frozenset())
    blind = lambda world: []  # noqa: E731
    monkeypatch.setattr("clusterheal.engine.world.World.holding", property(blind))
    broken = [str(run_seed(seed).broken) for seed in range(6)]
    assert any("budget" in text or "both hold" in text for text in broken)


@pytest.mark.parametrize("after", [0.0, 0.4, 1.0, 2.5, 6.0, 15.0], ids=lambda s: f"{s}s")
def test_two_of_three_replicas_die_one_after_the_other(sim: Sim, after: float) -> None:
    """The leader dies `after` seconds into the incident and its successor as long into its own reign."""

    async def test(p: Platform) -> None:
        await p.policy()
        patient = replace(CONFIG, verify_timeout=timedelta(minutes=10))
        alive = [await p.engine(name, config=patient) for name in ("one", "two", "three")]
        assert [e.elector.leading for e in alive] == [True, False, False]
        began = await p.alert(alive[1])
        for _ in range(2):
            leader = next(e for e in alive if e.elector.leading)
            await asyncio.sleep(after)
            await p.crash(leader)
            alive.remove(leader)
            while not any(e.elector.leading for e in alive):
                await asyncio.sleep(0.25)
        await asyncio.sleep(90)
        await p.alert(alive[0], "resolved", started=began)
        ended = await p.until(IncidentState.RESOLVED, IncidentState.SELF_HEALED)
        assert ended.state is IncidentState.RESOLVED, ended.message
        assert await p.restarts() == 1

    sim(test)


def test_a_clock_that_jumps_neither_repeats_nor_ends_an_action(sim: Sim) -> None:
    """Wrong by an hour, either way: the lease and the action go by what passes, not by what the clock says."""

    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine(config=replace(CONFIG, verify_timeout=timedelta(hours=3)))
        began = await p.alert(engine)
        await p.until(IncidentState.VERIFYING)
        for jump in (timedelta(hours=1), timedelta(hours=-1), timedelta(0)):
            p.clock._skew = jump
            await asyncio.sleep(30)
            assert engine.elector.leading
            assert await p.restarts() == 1
        await p.alert(engine, "resolved", started=began)
        await p.until(IncidentState.RESOLVED)
        assert await p.restarts() == 1

    sim(test)
