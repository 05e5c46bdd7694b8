"""Collecting into datasets: complete, resumable, appended to, by one collector at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pytest

from clusterheal.clock import Clock
from clusterheal.errors import ContractMismatch, DataQualityError, InvalidInput, PermanentError
from clusterheal.metrics import plan
from clusterheal.metrics.catalogue import Catalogue, recorded_catalogue
from clusterheal.metrics.collect import CollectReport, collect
from clusterheal.metrics.dataset import Dataset
from clusterheal.metrics.lock import DatasetBusy, hold
from clusterheal.metrics.shards import Shard
from clusterheal.metrics.storage import Storage
from clusterheal.settings import Settings

HOUR = timedelta(hours=1)
METRICS = ("m00", "m01")
INSTANCES = ("db-1", "db-2", 'odd/"name"\\\n')


@pytest.fixture
def catalogue() -> Catalogue:
    return recorded_catalogue(METRICS)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(dataset={"step": 600, "html_report": False})


@pytest.fixture
def run(settings: Settings, catalogue: Catalogue, clock: Clock, start: datetime) -> Callable[..., CollectReport]:
    def call(hours: float = 48, *, skip: float = 0, into: Settings = settings, **options: Any) -> CollectReport:
        window = {"start": start + skip * HOUR, "end": start + hours * HOUR}
        return collect(into, **window, **{"catalogue": catalogue, "clock": clock, **options})

    return call


def _values(settings: Settings) -> Any:
    return Dataset.open(settings.dataset.path).panel()


def test_a_collect_gives_back_what_the_server_has(run, record, wave, settings, start) -> None:
    record(INSTANCES, METRICS)
    report = run()
    panel = _values(settings)
    assert report.samples == 3 * 2 * 48 * 6
    assert report.entities == {"instance": 3}
    assert panel.entities == ("instance/db-1", "instance/db-2", "instance/odd%2F%22name%22%5C%0A")
    assert panel.timestamps[0] == start.timestamp() * 1e9
    for i in range(3):
        for m in range(2):
            expected = [wave(i + m / 10)(int(t) // 10**9) for t in panel.timestamps]
            np.testing.assert_array_equal(panel.values[i, :, m], np.array(expected, np.float32))


def test_files_explain_themselves_to_other_tools(run, record, settings) -> None:
    record(INSTANCES, METRICS)
    run()
    root = Path(settings.dataset.path)
    assert sorted(p.name for p in root.glob("day=*")) == ["day=2026-11-01", "day=2026-11-02"]
    table = pyarrow.dataset.dataset(root, partitioning="hive").to_table()
    assert table.num_rows == 3 * 48 * 6
    assert set(table.column_names) == {"entity", "time", "m00", "m01", "day"}
    assert b"clusterheal.contract" in pyarrow.dataset.dataset(root).schema.metadata


def test_a_second_collect_fetches_only_what_is_new(run, record, settings, prometheus) -> None:
    record(INSTANCES, METRICS)
    run()
    prometheus.requests.clear()
    assert run().parts_written == 0
    assert prometheus.requests == []
    run(49)
    asked = prometheus.range_requests()
    assert len(asked) == len(METRICS)
    assert {float(r["end"]) - float(r["start"]) for r in asked} == {5 * 600}
    assert len(_values(settings).timestamps) == 49 * 6


def test_a_gap_is_filled_and_an_earlier_time_put_before(run, record, settings, make_settings, tmp_path) -> None:
    record(INSTANCES, METRICS)
    run(20, skip=10)
    run(48, skip=40)
    run(48)
    whole = make_settings(dataset={"step": 600, "path": str(tmp_path / "whole")})
    run(into=whole)
    np.testing.assert_array_equal(_values(settings).values, _values(whole).values)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_a_collect_killed_at_any_write_is_resumed_to_the_same_dataset(
    run, record, settings, make_settings, tmp_path, monkeypatch, prometheus
) -> None:
    record(INSTANCES, METRICS)
    monkeypatch.setattr(plan, "CELLS_PER_PART", 500)
    run()
    clean = _values(settings)
    write = Storage.write
    survived = 0
    while True:
        target = make_settings(dataset={"step": 600, "path": str(tmp_path / f"killed-{survived}")})
        left = [survived]

        def dying(self: Storage, name: str, data: Any, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            write(self, name, data)

        monkeypatch.setattr(Storage, "write", dying)
        try:
            run(into=target)
            break
        except Killed:
            monkeypatch.setattr(Storage, "write", write)
        prometheus.requests.clear()
        run(into=target)
        resumed = _values(target)
        np.testing.assert_array_equal(resumed.values, clean.values)
        assert resumed.contract.sha256 == clean.contract.sha256
        survived += 1
    assert survived >= 6, "contract, four parts and the report"


def test_shards_together_are_the_whole(run, record, settings, make_settings, tmp_path, prometheus) -> None:
    record([f"host-{i}" for i in range(12)], METRICS)
    run()
    split = make_settings(dataset={"step": 600, "path": str(tmp_path / "split")})
    sizes = [run(into=split, shard=Shard(index=i, count=3)).entities["instance"] for i in range(3)]
    assert sum(sizes) == 12
    assert min(sizes) > 0
    np.testing.assert_array_equal(_values(split).values, _values(settings).values)
    prometheus.requests.clear()
    assert run(into=split).parts_written == 0, "the shards cover the whole"
    assert run(into=settings, shard=Shard(index=1, count=3)).parts_written == 0, "the whole covers each shard"
    assert prometheus.requests == []


async def test_the_second_of_two_collectors_says_so(run, record, settings, clock) -> None:
    import random

    record(INSTANCES, METRICS)
    storage = Storage.open(settings.dataset.path)
    async with hold(storage, "collect", clock, random.Random()):
        with pytest.raises(DatasetBusy, match="is being collected by process"):
            await asyncio.to_thread(run)
        await asyncio.to_thread(run, shard=Shard(index=0, count=2))
    await asyncio.to_thread(run)


def test_another_step_or_query_does_not_fit_a_dataset(run, record, make_settings, prometheus) -> None:
    record(INSTANCES, METRICS)
    run()
    with pytest.raises(ContractMismatch, match=r"step 0:10:00 against 0:20:00"):
        run(into=make_settings(dataset={"step": 1200}))
    other = recorded_catalogue(["m02"])
    with pytest.raises(ContractMismatch, match=r"m00.*m02"):
        run(catalogue=other)


def test_features_without_series_are_left_out_and_told(run, record) -> None:
    record(INSTANCES, METRICS)
    report = run(catalogue=recorded_catalogue(["m00", "m01", "m09"]))
    assert report.features == METRICS
    assert [(f.code, f.subject) for f in report.findings if f.code == "feature-absent"] == [("feature-absent", "m09")]


def test_features_that_come_later_stay_outside_and_are_told(run, record) -> None:
    record(INSTANCES, METRICS)
    run(24)
    report = run(48, catalogue=recorded_catalogue(["m00", "m01", "m09"]))
    assert report.features == METRICS
    assert "feature-outside" in {f.code for f in report.findings}


def test_no_series_at_all_is_an_error_and_leaves_no_dataset(run, settings) -> None:
    with pytest.raises(DataQualityError, match=r"no series for any of the 2 features.*right Prometheus"):
        run()
    with pytest.raises(InvalidInput, match="no dataset here"):
        Dataset.open(settings.dataset.path)


def test_windows_that_make_no_sense(run, record, clock, start) -> None:
    record(INSTANCES, METRICS)
    with pytest.raises(InvalidInput, match="holds no step"):
        run(0)
    with pytest.raises(InvalidInput, match="holds no step"):
        run(-5)
    with pytest.raises(InvalidInput, match="in the future"):
        run((clock.now() - start) / HOUR + 2)


def test_two_series_of_one_entity_are_found(run, prometheus, record, wave) -> None:
    record(INSTANCES, METRICS)
    query = next(iter(prometheus.series))
    prometheus.series[query].append(({"instance": "db-1", "zone": "a"}, wave(9)))
    findings = run().findings
    assert [(f.code, f.subject) for f in findings if f.severity == "warning"] == [("entity-doubled", "m00")]


def test_warnings_of_the_server_reach_the_report(run, record, prometheus) -> None:
    record(INSTANCES, METRICS)
    prometheus.warnings = ["store eu-1 is missing"]
    report = run()
    assert any(f.code == "server-warning" and "eu-1" in f.detail for f in report.findings)
    saved = json.loads(Path(str(report.report)).read_text())
    assert any(f["code"] == "server-warning" for f in saved["findings"])


def test_a_failing_threshold_stops_with_a_reason_and_leaves_the_report(
    run, record, prometheus, make_settings, tmp_path
) -> None:
    record(INSTANCES, METRICS)
    for rows in prometheus.series.values():
        for i, (labels, value) in enumerate(rows):
            rows[i] = (labels, lambda t, value=value: value(t) if t // 600 % 4 == 0 else None)
    with pytest.raises(DataQualityError, match=r"coverage-low.*25\.\d% of samples present, 50% needed.*quality-"):
        run()
    lenient = make_settings(dataset={"step": 600, "min_coverage": 0.2, "path": str(tmp_path / "lenient")})
    report = run(into=lenient)
    assert report.quality is not None
    assert report.quality.coverage == pytest.approx(0.25, abs=0.01)


def test_a_server_whose_clock_is_wrong_stops_the_pipeline(run, record, prometheus, clock) -> None:
    record(INSTANCES, METRICS)
    prometheus.now = lambda: clock.now() + timedelta(seconds=90)
    with pytest.raises(DataQualityError, match=r"clock-skew.*\+9\d\.\d s from ours"):
        run()


def test_corrupt_and_foreign_files_are_named(run, record, settings) -> None:
    record(INSTANCES, METRICS)
    run()
    part = next(Path(settings.dataset.path).glob("day=2026-11-01/*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataQualityError, match=r"instance.*not readable as Parquet.*collect again"):
        _values(settings)
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), part)
    with pytest.raises(DataQualityError, match="carries no feature contract"):
        _values(settings)
    part.write_bytes(whole)
    renamed = part.with_name(part.name.replace("1793491200000", "1793491800000"))
    part.rename(renamed)
    with pytest.raises(DataQualityError, match="expected 3 entities x 143 steps"):
        _values(settings)


def test_a_contract_that_was_changed_does_not_pass(run, record, settings) -> None:
    record(INSTANCES, METRICS)
    run()
    contract = Path(settings.dataset.path) / "_contract.json"
    contract.write_text(contract.read_text().replace('"unit":"value"', '"unit":"bytes"'))
    with pytest.raises(ContractMismatch):
        _values(settings)


def test_a_full_disk_leaves_no_half_file(run, record, settings, monkeypatch) -> None:
    record(INSTANCES, METRICS)

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clusterheal.metrics.storage.os.fsync", full)
    with pytest.raises(PermanentError, match=r"No space left.*free space"):
        run()
    monkeypatch.undo()
    assert [p for p in Path(settings.dataset.path).rglob("*") if p.is_file() and "_locks" not in str(p)] == []
    run()


def test_panels_pick_times_and_entities(run, record, settings, start) -> None:
    record(INSTANCES, METRICS)
    run()
    dataset = Dataset.open(settings.dataset.path)
    first = int((start + 10 * HOUR).timestamp()) * 10**9
    last = int((start + 30 * HOUR).timestamp()) * 10**9
    part = dataset.panel(first, last, ["instance/db-2"])
    whole = dataset.panel()
    assert part.entities == ("instance/db-2",)
    np.testing.assert_array_equal(part.values[0], whole.between(first, last).values[1])
    np.testing.assert_array_equal(part.timestamps, whole.between(first, last).timestamps)
    with pytest.raises(InvalidInput, match="no entities"):
        dataset.panel(entities=["instance/none"])
    with pytest.raises(DataQualityError, match="nothing collected"):
        dataset.panel(start_ns=last * 2)
