"""Answers of requests that run side by side are read one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import pytest

from clusterheal.errors import RetryableError
from clusterheal.metrics import http
from clusterheal.metrics.http import Exchange
from clusterheal.settings import PrometheusSettings

LONGEST_SECONDS = 20
Make = Callable[..., AbstractAsyncContextManager[Exchange]]


@pytest.fixture
def make_exchange(clock) -> Make:
    @asynccontextmanager
    async def make(**settings) -> AsyncIterator[Exchange]:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, content=b"{}"))
        settings = {"url": "http://prometheus.test", **settings}
        exchange = Exchange(PrometheusSettings.model_validate(settings), clock=clock, transport=transport)
        yield exchange
        await exchange.aclose()

    return make


async def _read(exchange: Exchange, entered: asyncio.Event, leave: asyncio.Event, seconds: float = 0.0) -> None:
    async with exchange.post("/api/v1/query", {}):
        entered.set()
        await leave.wait()
        await asyncio.sleep(seconds)


async def test_one_answer_is_read_at_a_time(make_exchange: Make) -> None:
    leave = asyncio.Event()
    entered = [asyncio.Event() for _ in range(4)]
    async with make_exchange() as exchange, asyncio.timeout(LONGEST_SECONDS):
        readers = [asyncio.create_task(_read(exchange, event, leave)) for event in entered]
        await entered[0].wait()
        await asyncio.sleep(0.1)
        assert [event.is_set() for event in entered] == [True, False, False, False]
        readers[1].cancel()  # whoever gives up waiting does not keep the turn
        leave.set()
        await asyncio.gather(readers[0], *readers[2:])
        assert [event.is_set() for event in entered] == [True, False, True, True]


async def test_waiting_does_not_count_as_the_servers_time(make_exchange: Make) -> None:
    never, go_on = asyncio.Event(), asyncio.Event()
    first, second = asyncio.Event(), asyncio.Event()
    go_on.set()
    async with make_exchange(timeout=1.0) as exchange, asyncio.timeout(LONGEST_SECONDS):
        stuck = asyncio.create_task(_read(exchange, first, never))
        await first.wait()
        # waits until the other has run into its limit, then takes a tenth of its own
        behind = asyncio.create_task(_read(exchange, second, go_on, seconds=0.1))
        with pytest.raises(RetryableError, match="no complete answer within"):
            await stuck
        await behind
        assert second.is_set()


async def test_a_slow_answer_does_not_hold_up_the_others(make_exchange: Make, monkeypatch) -> None:
    monkeypatch.setattr(http, "TURN_SECONDS", 0.05)
    leave = asyncio.Event()
    entered = [asyncio.Event() for _ in range(3)]
    async with make_exchange() as exchange, asyncio.timeout(LONGEST_SECONDS):
        readers = [asyncio.create_task(_read(exchange, event, leave)) for event in entered]
        await asyncio.gather(*(event.wait() for event in entered))
        leave.set()
        await asyncio.gather(*readers)
        after = asyncio.Event()
        await _read(exchange, after, leave)
        assert after.is_set()
