"""Live windows: the same requests to the models as from a dataset, with few points asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from clusterheal.contracts import FeatureContract, model_inputs
from clusterheal.errors import InvalidInput, RetryableError
from clusterheal.metrics.catalogue import recorded_catalogue
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.collect import collect_async
from clusterheal.metrics.dataset import Dataset
from clusterheal.metrics.live import LiveWindow, needed_offsets

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
METRICS = ["m00", "m01"]


@pytest.fixture
def contract() -> FeatureContract:
    return recorded_catalogue(METRICS).contract(MINUTE)


def _points(prometheus: Any) -> float:
    return sum((float(r["end"]) - float(r["start"])) / float(r["step"]) + 1 for r in prometheus.range_requests())


async def test_live_requests_equal_those_from_a_dataset(
    record, make_client: Callable[..., PrometheusClient], make_settings, clock, start: datetime, contract
) -> None:
    record(["a", "b"], METRICS)
    end = start + 8 * DAY
    await collect_async(
        make_settings(dataset={"max_out_of_range": 1}),
        start=start,
        end=end,
        catalogue=recorded_catalogue(METRICS),
        clock=clock,
    )
    dataset = Dataset.open(make_settings().dataset.path)
    trained_on = model_inputs(dataset.panel())
    async with make_client() as client:
        window = LiveWindow(client, dataset.contract)
        live = await window.inputs(end - MINUTE)
        panel = model_inputs(await window.panel(end - MINUTE))
    for inputs in (live, panel):
        assert inputs.entity == trained_on.entity
        np.testing.assert_array_equal(inputs.timestamp, trained_on.timestamp)
        np.testing.assert_array_equal(inputs.recent, trained_on.recent)
        np.testing.assert_array_equal(inputs.seasonal, trained_on.seasonal)


async def test_only_new_steps_are_fetched(record, prometheus, make_client, start, contract) -> None:
    record(["a", "b"], METRICS)
    end = start + 8 * DAY
    async with make_client() as client:
        window = LiveWindow(client, contract)
        await window.inputs(end)
        assert _points(prometheus) == 2 * len(needed_offsets(contract.window))
        assert len(needed_offsets(contract.window)) < contract.window.history_steps / 10
        for minutes in (1, 2, 4, 4, 64):
            prometheus.requests.clear()
            moved = await window.inputs(end + minutes * MINUTE)
            fresh = await LiveWindow(client, contract).inputs(end + minutes * MINUTE)
            np.testing.assert_array_equal(moved.recent, fresh.recent)
            np.testing.assert_array_equal(moved.seasonal, fresh.seasonal)
        prometheus.requests.clear()
        await window.inputs(end + 65 * MINUTE)
        assert _points(prometheus) <= 2 * 8


async def test_following_moves_the_grid_to_the_newest_sample(record, make_client, start, contract, wave) -> None:
    record(["a"], METRICS)
    end = start + 8 * DAY + timedelta(seconds=37)
    async with make_client() as client:
        window = LiveWindow(client, contract, follow=timedelta(seconds=5))
        inputs = await window.inputs(end)
        assert inputs.timestamp[0] == int((end - timedelta(seconds=2)).timestamp()) * 10**9
        newest = int(inputs.timestamp[0]) // 10**9
        assert inputs.recent[0, -1, 0] == np.float32(wave(0.0)(newest))
        with pytest.raises(InvalidInput, match="multiple of follow"):
            LiveWindow(client, contract, follow=timedelta(seconds=7))


async def test_entities_come_and_go(record, prometheus, make_client, start, contract) -> None:
    record(["a", "b"], METRICS)
    end = start + 8 * DAY
    gone = int(end.timestamp())
    for rows in prometheus.series.values():
        labels, value = rows[1]
        rows[1] = (labels, lambda t, value=value: value(t) if t < gone else None)
        rows.append(({"instance": "new"}, lambda t, value=value: value(t) if t > gone else None))
    async with make_client() as client:
        window = LiveWindow(client, contract)
        assert (await window.inputs(end)).entity == ("instance/a", "instance/b")
        assert (await window.inputs(end + 10 * MINUTE)).entity == ("instance/a", "instance/b", "instance/new")
        assert (await window.inputs(end + 130 * MINUTE)).entity == ("instance/a", "instance/new")


async def test_a_failed_round_loses_nothing(record, prometheus, make_client, faults, start, contract) -> None:
    record(["a"], METRICS)
    end = start + 8 * DAY
    async with make_client(attempts=1) as client:
        window = LiveWindow(client, contract)
        await window.inputs(end)
        prometheus.faults = [faults.status(503)]
        with pytest.raises(RetryableError):
            await window.inputs(end + MINUTE)
        prometheus.faults = []
        prometheus.requests.clear()
        moved = await window.inputs(end + MINUTE)
        assert _points(prometheus) <= 2 * 8
        fresh = await LiveWindow(client, contract).inputs(end + MINUTE)
        np.testing.assert_array_equal(moved.recent, fresh.recent)


async def test_no_entities_is_an_empty_request(prometheus, make_client, start, contract) -> None:
    async with make_client() as client:
        inputs = await LiveWindow(client, contract).inputs(start + 8 * DAY)
    assert inputs.entity == ()
    assert inputs.recent.shape == (0, 120, 2)
