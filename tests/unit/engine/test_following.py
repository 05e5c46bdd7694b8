"""What the cache does about kinds that a server refuses, and what the engine writes that a server is strict about."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from engine_kit import CART, LEADER, NOW, record, snapshot, world

from clusterheal.engine.audit import Reporter
from clusterheal.engine.cache import REFUSED_AGAIN, Cache, Wanted
from clusterheal.engine.events import write_event
from clusterheal.engine.lease import Elector, LeaseTimes
from clusterheal.engine.metrics import EngineMetrics
from clusterheal.engine.reconcile import LONGEST_YIELD, YIELD_STEP, Reconciler
from clusterheal.engine.records import Record
from clusterheal.engine.signals.models import ModelVerdicts
from clusterheal.engine.silence_reader import SilenceReader
from clusterheal.engine.views import Key, Snapshot
from clusterheal.engine.world import Config, Leadership, World
from clusterheal.errors import ClusterhealError
from clusterheal.kube.ports import ApiError, ApiRetryable, Manifest, ObjectList, Resource
from clusterheal.kube.resources import INCIDENTS, MACHINE_CONFIG_POOLS, NODE_HEALTH_CHECKS, NODES
from clusterheal.settings import PrometheusSettings

RESYNC = timedelta(minutes=10)
FORBIDDEN = ApiError(403, "Forbidden", "no rule")
ABSENT = ApiError(404, "NotFound", "the server could not find the requested resource")


class Clock:
    """Notes for how long it is asked to sleep; the time passes at once."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Server:
    """Answers lists as told, then with an empty one; what is created is kept."""

    def __init__(self, *answers: ApiError, serves: bool | ClusterhealError = True) -> None:
        self.answers = list(answers)
        self.has = serves
        self.listed = asyncio.Event()
        self.created: list[Any] = []

    async def list(self, _: Resource, **__: Any) -> ObjectList:
        if self.answers:
            raise self.answers.pop(0)
        self.listed.set()
        return ObjectList(items=[], resource_version="7")

    async def serves(self, _: Resource) -> bool:
        if isinstance(self.has, ClusterhealError):
            raise self.has
        return self.has

    async def watch(self, _: Resource, **__: Any) -> Any:
        await asyncio.Event().wait()
        yield

    async def create(self, _: Resource, body: Any, **__: Any) -> Any:
        self.created.append(body)
        return body


def cache_of(server: Server, clock: Clock, *wanted: Wanted) -> Cache:
    return Cache(server, clock, namespace="platform", rng=random.Random(1), wanted=wanted, resync=RESYNC)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("resource", "required", "answer", "waits"),
    [
        (INCIDENTS, True, ABSENT, REFUSED_AGAIN),  # the definitions are applied in the same minute
        (INCIDENTS, True, FORBIDDEN, REFUSED_AGAIN),
        (MACHINE_CONFIG_POOLS, False, FORBIDDEN, REFUSED_AGAIN),  # holds up every action
        (NODE_HEALTH_CHECKS, False, ABSENT, RESYNC),  # a cluster without that operator: no hurry
    ],
)
async def test_what_is_refused_is_asked_for_again_in_time(
    resource: Resource, required: bool, answer: ApiError, waits: timedelta
) -> None:
    clock, server = Clock(), Server(answer, answer)
    cache = cache_of(server, clock, Wanted(resource=resource, required=required))
    following = asyncio.create_task(cache.run())
    await asyncio.wait_for(server.listed.wait(), 5)
    await asyncio.sleep(0)
    following.cancel()
    assert clock.slept == [waits.total_seconds()] * 2
    assert cache.missing == []
    assert resource in cache.snapshot().synced_at


async def test_a_forbidden_kind_is_told_once_by_name(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(FORBIDDEN, FORBIDDEN)
    cache = cache_of(server, Clock(), Wanted(resource=MACHINE_CONFIG_POOLS))
    with caplog.at_level(logging.WARNING):
        await cache.sync()
        await cache.sync()
    (told,) = caplog.records
    assert "may not list machineconfigpools" in vars(told)["error"]
    assert MACHINE_CONFIG_POOLS in cache.snapshot().unreadable


@pytest.mark.parametrize(
    ("serves", "absent"), [(True, False), (False, True), (ApiRetryable("503"), False), (ApiError(403, "", ""), False)]
)
async def test_a_forbidden_kind_is_absent_only_where_discovery_says_so(
    serves: bool | ClusterhealError, absent: bool
) -> None:
    cache = cache_of(Server(FORBIDDEN, serves=serves), Clock(), Wanted(resource=MACHINE_CONFIG_POOLS))
    await cache.sync()
    seen = cache.snapshot()
    assert (MACHINE_CONFIG_POOLS in seen.absent) is absent
    assert (MACHINE_CONFIG_POOLS in seen.unreadable) is not absent


@pytest.mark.parametrize(("first", "then"), [(FORBIDDEN, ABSENT), (ABSENT, FORBIDDEN)])
async def test_the_newest_refusal_counts(first: ApiError, then: ApiError) -> None:
    cache = cache_of(Server(first, then), Clock(), Wanted(resource=NODE_HEALTH_CHECKS))
    await cache.sync()
    await cache.sync()
    seen = cache.snapshot()
    assert (NODE_HEALTH_CHECKS in seen.unreadable) is (then is FORBIDDEN)
    assert (NODE_HEALTH_CHECKS in seen.absent) is (then is ABSENT)


async def test_an_event_is_what_a_server_takes() -> None:
    """It counts a message's bytes, and wants a time with six digits beside two with none."""
    server = Server()
    await write_event(server, Clock(), "engine-0", record(), "Warning", "Escalated", "Ü" * 2000)  # type: ignore[arg-type]
    (event,) = server.created
    assert 900 < len(event["message"].encode()) <= 1024
    assert event["eventTime"] == "2026-01-05T12:00:00.000000Z"
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-01-05T12:00:00Z"
    assert all(0 < len(event[k]) <= 128 for k in ("reportingComponent", "reportingInstance", "action", "reason"))
    assert event["involvedObject"]["namespace"] == event["metadata"]["namespace"]


async def test_silences_that_cannot_be_read_are_told_once_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    answers = [httpx.ConnectTimeout(""), httpx.ConnectTimeout(""), httpx.Response(403), httpx.Response(200, json=[])]

    def answer(_: httpx.Request) -> httpx.Response:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    url = "http://alertmanager.example:9093"
    reader = SilenceReader(url, PrometheusSettings(), Clock(), transport=httpx.MockTransport(answer))
    metrics = EngineMetrics()
    reporter = Reporter(metrics, Clock())
    shown = []
    with caplog.at_level(logging.INFO, logger="clusterheal.engine.silence_reader"):
        for _ in range(4):
            reporter.world(world(silences=await reader.read()))
            shown.append(metrics.registry.get_sample_value("clusterheal_unreadable", {"source": "silences"}))
    await reader.aclose()
    assert shown == [1, 1, 1, 0]
    assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING", "INFO"]
    assert f"{url}: silences cannot be read: ConnectTimeout" in vars(caplog.records[0])["error"]
    assert reader.last.problem is None


def test_a_kind_that_is_forbidden_shows_as_unreadable_and_not_as_fresh() -> None:
    metrics = EngineMetrics()
    reporter = Reporter(metrics, Clock())
    seen = snapshot()
    reporter.world(world(snapshot=seen))
    left = {r: t for r, t in seen.synced_at.items() if r != NODES}
    reporter.world(world(snapshot=replace(seen, synced_at=left, unreadable={NODES: "no rule"})))
    value = metrics.registry.get_sample_value
    assert value("clusterheal_unreadable", {"source": "nodes"}) == 1
    assert value("clusterheal_cache_age_seconds", {"resource": "nodes"}) is None
    assert value("clusterheal_cache_age_seconds", {"resource": "pods"}) == 0


class Silent(Server):
    """Takes a request and never answers, as a connection whose other end is gone."""

    async def get(self, *_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()


async def test_a_lease_is_not_used_up_by_one_request_without_an_answer() -> None:
    times = LeaseTimes(duration=timedelta(seconds=0.3), margin=timedelta(seconds=0.1))
    elector = Elector(Silent(), Clock(), namespace="platform", identity="a", times=times)  # type: ignore[arg-type]
    assert await asyncio.wait_for(elector.try_once(), 5) is False
    assert not elector.leading


class Refusing:
    """The parts around a loop: a server that takes no status of one incident."""

    def __init__(self, refused: str) -> None:
        self.refused = refused
        self.written: list[str] = []
        self.namespace = "platform"
        self.being_stored: list[bool] = []

    @property
    def busy(self) -> bool:
        return self.being_stored.pop(0)

    def objects(self, resource: Resource) -> dict[Key, Manifest]:
        return {}

    def records(self) -> dict[str, Record]:
        other = replace(CART, name="checkout", uid="uid-checkout")
        return {r.name: r for r in (record(), record(target=other))}

    async def write_status(self, stored: Record) -> Record:
        if stored.name == self.refused:
            raise ApiError(422, "Invalid", "status.message: too long")
        self.written.append(stored.name)
        return stored

    def snapshot(self) -> Snapshot:
        return snapshot()

    def leadership(self) -> Leadership:
        return LEADER

    async def observe(self, _: World) -> ModelVerdicts:
        return ModelVerdicts()


def reconciler(parts: Any, metrics: EngineMetrics, clock: Clock) -> Reconciler:
    return Reconciler(
        cluster=parts,
        cache=parts,
        store=parts,
        elector=parts,
        clock=clock,
        config=Config(),
        observer=parts,
        reporter=Reporter(metrics, clock),
        interval=timedelta(seconds=1),
    )


async def test_a_status_that_a_server_refuses_holds_up_no_other_incident() -> None:
    parts: Any = Refusing("deployment-cart-1")
    metrics = EngineMetrics()
    loop = reconciler(parts, metrics, Clock())
    await loop.round()
    assert parts.written == ["deployment-checkout-1"]
    assert metrics.registry.get_sample_value("clusterheal_rounds_failed_total", {"error": "ApiError"}) == 1


async def test_a_round_waits_for_signals_that_are_being_stored_but_not_for_long() -> None:
    parts: Any = Refusing("none")
    clock = Clock()
    loop = reconciler(parts, EngineMetrics(), clock)
    parts.being_stored = [True, True, False]
    await loop._yield_to_signals()
    assert sum(clock.slept) == pytest.approx(2 * YIELD_STEP)
    parts.being_stored = [True] * 1000
    await loop._yield_to_signals()
    assert sum(clock.slept) == pytest.approx(2 * YIELD_STEP + LONGEST_YIELD, abs=YIELD_STEP)
