"""Datasets on S3, against moto's server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from clusterheal.errors import InvalidInput, PermanentError
from clusterheal.metrics.catalogue import recorded_catalogue
from clusterheal.metrics.collect import CollectReport, collect
from clusterheal.metrics.dataset import Dataset
from clusterheal.metrics.lock import TTL, DatasetBusy, hold
from clusterheal.metrics.storage import Storage
from clusterheal.settings import Settings

CATALOGUE = recorded_catalogue(["m00"])


@pytest.fixture
def s3(monkeypatch) -> Iterator[str]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket="data")
    yield url
    server.stop()


@pytest.fixture
def settings(s3: str, make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(dataset={"path": "s3://data/team/train", "s3_endpoint": s3, "step": 600})


def _collect(settings: Settings, clock, start: datetime, hours: int) -> CollectReport:
    end = start + timedelta(hours=hours)
    return collect(settings, start=start, end=end, catalogue=CATALOGUE, clock=clock)


class RealTime:
    """The clock of the tests, whose sleeps do not end by themselves: the lease is not renewed."""

    def __init__(self, clock) -> None:
        self.now, self.monotonic = clock.now, clock.monotonic

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.05) if seconds < 5 else 3600)


async def test_a_dataset_on_s3_is_written_read_and_appended(record, settings, clock, start, wave) -> None:
    record(["a", "b"], ["m00"])
    clock = RealTime(clock)
    first = await asyncio.to_thread(_collect, settings, clock, start, 24)
    second = await asyncio.to_thread(_collect, settings, clock, start, 30)
    assert first.samples == 2 * 24 * 6
    assert second.samples == 2 * 6 * 6
    panel = Dataset.open(settings.dataset.path, settings.dataset).panel()
    expected = [wave(1)(int(t) // 10**9) for t in panel.timestamps]
    np.testing.assert_array_equal(panel.values[1, :, 0], np.array(expected, np.float32))
    storage = Storage.open(settings.dataset.path, settings.dataset)
    assert [e.name for e in storage.list("_locks")] == []


async def test_of_two_collectors_on_s3_one_wins(settings, clock) -> None:
    storage = Storage.open(settings.dataset.path, settings.dataset)
    clock = RealTime(clock)
    async with hold(storage, "collect", clock, random.Random(1)):
        with pytest.raises(DatasetBusy, match="is being collected by process"):
            async with hold(storage, "collect", clock, random.Random(2)):
                raise AssertionError("both have it")
    async with hold(storage, "collect", clock, random.Random(3)):
        pass


async def test_collectors_that_start_at_once_never_both_win(settings, clock) -> None:
    storage = Storage.open(settings.dataset.path, settings.dataset)
    inside, most, won = 0, 0, 0

    async def contend(seed: int) -> None:
        nonlocal inside, most, won
        try:
            async with hold(storage, "collect", RealTime(clock), random.Random(seed)):
                inside, won = inside + 1, won + 1
                most = max(most, inside)
                await asyncio.sleep(0.1)
                inside -= 1
        except DatasetBusy:
            return

    for round_ in range(4):
        await asyncio.gather(*(contend(10 * round_ + i) for i in range(3)))
    assert most == 1
    assert won >= 1


def test_a_file_deleted_while_it_is_read_is_not_there(settings) -> None:
    storage = Storage.open(settings.dataset.path, settings.dataset)
    storage.write("who", b"a collector")
    filesystem = storage.filesystem

    class DeletedAfterOpening:
        get_file_info = filesystem.get_file_info

        def open_input_stream(self, path: str) -> Any:
            stream = filesystem.open_input_stream(path)
            filesystem.delete_file(path)
            return stream

    assert storage.read("who") == b"a collector"
    storage.filesystem = DeletedAfterOpening()
    assert storage.read("who") is None


async def test_the_lease_of_a_dead_collector_ends(settings, clock, monkeypatch) -> None:
    storage = Storage.open(settings.dataset.path, settings.dataset)
    storage.write("_locks/collect/00000000000000000000000000000000.held", b"process 1 on a dead host")
    with pytest.raises(DatasetBusy, match="a dead host"):
        async with hold(storage, "collect", RealTime(clock), random.Random(1)):
            pass
    monkeypatch.setattr("clusterheal.metrics.lock.TTL", TTL * 0 + timedelta(seconds=1))
    await asyncio.sleep(2.1)
    async with hold(storage, "collect", RealTime(clock), random.Random(1)):
        pass


def test_a_bucket_that_is_not_there_is_named(s3, make_settings, clock, start, record) -> None:
    record(["a"], ["m00"])
    settings = make_settings(dataset={"path": "s3://nowhere/x", "s3_endpoint": s3, "step": 600})
    with pytest.raises(PermanentError, match=r"nowhere/x.*(endpoint|credentials)"):
        _collect(settings, clock, start, 1)


@pytest.mark.parametrize("path", ["s3://", "gs://bucket/x", "http://host/x"])
def test_other_addresses_are_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="expected a local path or s3://"):
        Storage.open(path)
