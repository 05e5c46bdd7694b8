"""Training from a dataset that does not fit into memory: Parquet parts, a mapped file, windows."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from clusterheal_components.snapshot import PANEL, freeze, thaw
from clusterheal_models.forecaster import ForecasterConfig, MemberConfig, fit

from clusterheal.contracts import EntityKind, FeatureContract, FeatureSpec, TimeSplit, WindowSpec
from clusterheal.errors import PermanentError
from clusterheal.metrics.dataset import Dataset
from clusterheal.metrics.parts import DAY_MS, Extent, Part
from clusterheal.metrics.storage import Storage

ENTITIES, DAYS, FEATURES = 250, 32, 4
STEPS_PER_DAY = 1440
START_MS = 1_767_571_200_000
SPLIT = {"train": 0.7, "calibration": 0.15}
BRIEF = ForecasterConfig(members=(MemberConfig(hidden=8),), batch_rows=32, max_steps=4, evaluate_every=2)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """32 days of 250 entities, one part a day; as a panel they are 176 MiB."""
    contract = FeatureContract(
        entity_kinds=(EntityKind(name="pod", labels=("pod",)),),
        features=tuple(FeatureSpec(name=f"f{i}", promql="up", unit="1", entity_kind="pod") for i in range(FEATURES)),
        step=timedelta(seconds=60),
        window=WindowSpec(
            recent_steps=24, season_steps=48, season_lags=(1,), seasonal_before=4, seasonal_steps=16, horizon_steps=12
        ),
    )
    dataset = Dataset.create(Storage.open(tmp_path_factory.mktemp("stored")), contract)
    names = tuple(f"pod/{i:03}" for i in range(ENTITIES))
    wave = np.sin(2 * np.pi * np.arange(STEPS_PER_DAY, dtype=np.float32) / 48).round(2)
    for day in range(DAYS):
        values = np.empty((FEATURES, ENTITIES, STEPS_PER_DAY), np.float32)
        values[:] = (wave + np.float32(day)) * (1 + np.arange(ENTITIES, dtype=np.float32))[:, None]
        extent = Extent(start_ms=START_MS + day * DAY_MS, end_ms=START_MS + (day + 1) * DAY_MS, kind="pod")
        dataset.write(Part(extent=extent, entities=names, values=values))
    return dataset


class Peak:
    """Most memory that was the process's own, mapped files left out, above what there was; bytes."""

    def __init__(self) -> None:
        self._before = self._most = _own_bytes()

    def look(self) -> None:
        self._most = max(self._most, _own_bytes())

    @property
    def growth(self) -> int:
        return self._most - self._before


@contextmanager
def watched() -> Iterator[Peak]:
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            peak.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _own_bytes() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def test_memory_does_not_follow_the_dataset(
    stored: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    few = stored.panel(end_ns=(START_MS + 2 * DAY_MS) * 1_000_000, entities=["pod/001"])
    fit(few, TimeSplit.by_fraction(few.timestamps), BRIEF)  # what libraries take once is no part of the growth
    monkeypatch.setattr("clusterheal_models.compute.free_bytes", lambda device: 100 * 2**20)
    caplog.set_level(logging.INFO)
    with watched() as peak:
        snapshot = freeze(stored.panel(file=tmp_path / PANEL), tmp_path, **SPLIT)
        model = fit(snapshot.panel, snapshot.split, BRIEF)
    assert "they do not fit, windows are streamed from the panel" in caplog.text
    assert model.state.step == BRIEF.max_steps
    assert peak.growth < snapshot.panel.values.nbytes  # in memory, the panel alone would be as much


def test_a_panel_filled_in_its_file_is_the_one_of_memory(stored: Dataset, tmp_path: Path) -> None:
    few = ["pod/003", "pod/001"]
    first, last = ((START_MS + day * DAY_MS) * 1_000_000 for day in (1, 3))
    in_memory = stored.panel(first, last, few)
    mapped = stored.panel(first, last, few, file=tmp_path / "mapped" / PANEL)
    assert isinstance(mapped.values, np.memmap)
    frozen = [freeze(p, tmp_path / name, **SPLIT) for name, p in (("memory", in_memory), ("mapped", mapped))]
    assert frozen[0].sha256 == frozen[1].sha256
    assert stored.newest_ns() == stored.panel(entities=few).timestamps[-1]


def test_a_part_of_a_mapped_panel_can_be_frozen_in_its_place(stored: Dataset, tmp_path: Path) -> None:
    whole = stored.panel(entities=["pod/007"], file=tmp_path / PANEL)
    part = whole.between(int(whole.timestamps[1000]), None)
    expected = part.values.copy()
    freeze(part, tmp_path, **SPLIT)
    np.testing.assert_array_equal(thaw(tmp_path).panel.values, expected)


def test_a_disk_without_room_is_told_before_anything_is_filled(
    stored: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clusterheal.metrics.dataset.os.posix_fallocate", full)
    with pytest.raises(PermanentError, match=r"no room for 175\.8 MiB.*free space or choose another folder"):
        stored.panel(file=tmp_path / PANEL)
    assert not (tmp_path / PANEL).exists()
