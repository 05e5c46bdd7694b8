"""What is still to be fetched, and how the work is shared."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterheal.errors import InvalidInput
from clusterheal.metrics.parts import DAY_MS, Extent
from clusterheal.metrics.plan import CELLS_PER_PART, coverage, merged, missing_extents
from clusterheal.metrics.shards import WHOLE, Shard, shard_of

STEP = 60_000
BASE = 20_000 * DAY_MS

steps = st.integers(0, 4000)
shards = st.sampled_from([WHOLE, Shard(index=0, count=2), Shard(index=1, count=2)])
have = st.lists(st.tuples(steps, st.integers(1, 900), shards), max_size=8)


def _extents(parts: list[tuple[int, int, Shard]]) -> list[Extent]:
    return [Extent(kind="k", start_ms=BASE + a * STEP, end_ms=BASE + (a + n) * STEP, shard=s) for a, n, s in parts]


@given(have, steps, st.integers(1, 4000), shards, st.integers(1, 20_000))
def test_missing_parts_fill_the_window_once_and_only_once(parts, first, count, shard, series) -> None:
    existing = _extents(parts)
    start, end = BASE + first * STEP, BASE + (first + count) * STEP
    window = {"start_ms": start, "end_ms": end, "step_ms": STEP}
    todo = missing_extents(existing, **window, cells={"k": series}, shard=shard)
    covered = {t for a, b in coverage(existing, shard) for t in range(a, b, STEP)}
    fetched = [t for e in todo for t in range(e.start_ms, e.end_ms, STEP)]
    assert len(fetched) == len(set(fetched))
    assert set(fetched) == set(range(start, end, STEP)) - covered
    for extent in todo:
        assert (extent.end_ms - extent.start_ms) // STEP * series <= max(CELLS_PER_PART, series)
        assert extent.start_ms // DAY_MS == (extent.end_ms - STEP) // DAY_MS
        assert extent.shard == shard
        assert Extent.of(extent.name) == extent
    assert missing_extents(existing + todo, **window, cells={"k": series}, shard=shard) == []


@given(st.lists(st.tuples(steps, st.integers(1, 500)), max_size=8))
def test_all_shards_together_cover_the_whole(parts) -> None:
    plain = [(a, n, WHOLE) for a, n in parts]
    split = [(a, n, Shard(index=i, count=3)) for a, n in parts for i in range(3)]
    assert coverage(_extents(split)) == coverage(_extents(plain))
    assert coverage(_extents(split[: len(split) - 1])) == merged(coverage(_extents(plain[:-1])))


@given(st.lists(st.text(max_size=20), unique=True, max_size=50), st.integers(1, 9))
def test_shards_partition_the_entities(entities, count) -> None:
    split = [[e for e in entities if Shard(index=i, count=count).keeps(e)] for i in range(count)]
    assert sorted(e for part in split for e in part) == sorted(entities)


def test_shards_are_the_same_in_every_process() -> None:
    code = "from clusterheal.metrics.shards import shard_of; print([shard_of(f'node/{i}', 4) for i in range(20)])"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {f"{[shard_of(f'node/{i}', 4) for i in range(20)]}\n"}


def test_shards_are_of_like_size() -> None:
    counts = [0] * 4
    for i in range(4000):
        counts[shard_of(f"workload/shop/app-{i}", 4)] += 1
    assert all(850 < c < 1150 for c in counts)


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/4", "0/0"])
def test_shards_that_make_no_sense(text: str) -> None:
    with pytest.raises(InvalidInput, match="shard"):
        Shard.parse(text)
