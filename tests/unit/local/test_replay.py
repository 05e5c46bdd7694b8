from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clusterheal.errors import InvalidInput
from clusterheal.local.exporter_recorded import RecordedWorld, shifts
from clusterheal.local.faults import Fault
from clusterheal.local.replay import LIVE_ROWS, open_replay, read_recording
from clusterheal.local.world import deployment, recorded_cluster


def write(
    path: Path, *, days: float = 4.0, step: int = 300, metrics: int = 3, offset: float = 0.0, drop: slice | None = None
) -> Path:
    rows = round(days * 86_400 / step) + LIVE_ROWS
    t = np.arange(rows) * step
    columns = {"t": t, "split": np.zeros(rows, np.int8), "label": np.zeros(rows, np.int8)}
    rng = np.random.default_rng(3)
    for i in range(metrics):
        wave = np.sin(t / 86_400 * 2 * np.pi) + offset + 0.1 * rng.normal(size=rows)
        columns[f"m{i:02d}"] = wave.astype(np.float32)
    keep = np.ones(rows, bool)
    if drop is not None:
        keep[drop] = False
    pq.write_table(pa.table({name: values[keep] for name, values in columns.items()}), path)
    return path


def test_the_history_ends_now_and_keeps_its_step(tmp_path: Path) -> None:
    replay = open_replay(write(tmp_path / "web-1.parquet"))
    series = list(replay.history(1_800_000_000))
    assert [s.labels["metric"] for s in series] == ["m00", "m01", "m02"]
    assert {s.labels["instance"] for s in series} == {"web-1"}
    assert series[0].times[-1] == 1_800_000_000
    assert set(np.diff(series[0].times)) == {300}
    assert len(series[0].times) == replay.rows == 4 * 288


def test_live_rows_go_on_where_the_history_ended(tmp_path: Path) -> None:
    replay = open_replay(write(tmp_path / "web-1.parquet"))
    recording = replay.recordings[0]
    first = next(iter(replay.history(1_800_000_000)))
    assert replay.live_row(recording, end=1_800_000_000, now=1_800_000_000.0)[0] == first.values[-1]
    following = recording.values[-LIVE_ROWS, 0]
    assert replay.live_row(recording, end=1_800_000_000, now=1_800_000_301.0)[0] == following
    last = replay.live_row(recording, end=1_800_000_000, now=1_800_000_000.0 + 10 * 86_400)[0]
    assert last == recording.values[-1, 0]


def test_steps_are_never_mixed_and_what_was_left_out_is_said(tmp_path: Path) -> None:
    for name in ("a-1", "a-2"):
        write(tmp_path / f"{name}.parquet")
    write(tmp_path / "b-1.parquet", step=3600, days=4, metrics=1)
    replay = open_replay(tmp_path)
    assert replay.instances == ("a-1", "a-2")
    assert replay.step_seconds == 300
    assert "a-1, a-2" in replay.notes[0]
    assert "1 series left out" in replay.notes[1]


def test_a_pattern_that_would_mix_steps_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a-1.parquet")
    write(tmp_path / "a-2.parquet", step=3600)
    with pytest.raises(InvalidInput, match=r"mixes 300 s x 3 metrics, 3600 s x 3 metrics; choose series of one kind"):
        open_replay(tmp_path, pattern="a-*")


def test_a_pattern_that_matches_nothing_says_what_there_is(tmp_path: Path) -> None:
    write(tmp_path / "a-1.parquet")
    with pytest.raises(InvalidInput, match=r"no Parquet file matches --series 'x\*'; it has a-1"):
        open_replay(tmp_path, pattern="x*")


def test_too_short_a_history_says_how_much_is_needed(tmp_path: Path) -> None:
    path = write(tmp_path / "short.parquet", days=1)
    with pytest.raises(InvalidInput, match=r"1\.0 days of history; expected at least 3 days"):
        open_replay(path)


def test_rows_that_are_missing_become_gaps_not_shifted_time(tmp_path: Path) -> None:
    recording = read_recording(write(tmp_path / "gap.parquet", drop=slice(100, 110)))
    assert recording.step_seconds == 300
    assert np.isnan(recording.values[100:110]).all()
    assert np.isfinite(recording.values[110:]).all()


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.parquet")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InvalidInput, match=r"cut\.parquet: cannot be read as Parquet"):
        open_replay(path)


def test_another_kind_of_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "people.parquet"
    pq.write_table(pa.table({"name": ["a"], "age": [1]}), path)
    with pytest.raises(InvalidInput, match=r"expected a column t .* and metrics m00"):
        open_replay(path)


def test_a_recording_without_a_single_sample_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dead.parquet"
    pq.write_table(pa.table({"t": np.arange(3) * 60, "m00": np.full(3, np.nan)}), path)
    with pytest.raises(InvalidInput, match="every metric is NaN throughout"):
        read_recording(path)


@pytest.mark.parametrize("t", [[0, 60, 60], [0, 60, 30], [0.0, np.nan, 60.0]])
def test_time_has_to_rise(tmp_path: Path, t: list[float]) -> None:
    path = tmp_path / "odd.parquet"
    pq.write_table(pa.table({"t": t, "m00": [1.0, 2.0, 3.0]}), path)
    with pytest.raises(InvalidInput, match="t must rise"):
        read_recording(path)


def write_columns(path: Path, **metrics: np.ndarray) -> Path:
    rows = len(next(iter(metrics.values())))
    pq.write_table(pa.table({"t": np.arange(rows) * 300, **metrics}), path)
    return path


def test_a_recording_in_which_nothing_changes_is_refused(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "flat.parquet", m00=np.ones(2000), m01=np.full(2000, np.nan))
    with pytest.raises(InvalidInput, match="no metric ever changes"):
        read_recording(path)


def test_metrics_that_tell_nothing_are_named_and_the_others_replayed(tmp_path: Path) -> None:
    dead = np.full(2000, np.nan)
    replay = open_replay(write_columns(tmp_path / "some.parquet", m00=np.arange(2000.0), m01=np.ones(2000), m02=dead))
    assert replay.metrics == ("m00", "m01", "m02")
    assert "some: no sample at all: m02; the models cannot judge these" in replay.notes
    assert "some: never change: m01; the models cannot judge these" in replay.notes


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file or folder"):
        open_replay(tmp_path / "nothing")


def world_of(tmp_path: Path) -> RecordedWorld:
    for name in ("host-1", "host-2"):
        write(tmp_path / f"{name}.parquet")
    replay = open_replay(tmp_path)
    return RecordedWorld(spec=recorded_cluster(replay.instances), replay=replay, history_end=1_800_000_000)


def pods(world: RecordedWorld, *uids: str) -> list[dict[str, object]]:
    workload = world.spec.workloads[0]
    return [
        {
            "metadata": {
                "namespace": workload.namespace,
                "name": uid,
                "uid": uid,
                "labels": {"app.kubernetes.io/name": workload.name},
            },
            "spec": {"nodeName": "worker-0", "containers": [{"image": workload.image}]},
            "status": {"phase": "Running"},
        }
        for uid in uids
    ]


def value(world: RecordedWorld, instance: str, metric: str) -> float:
    wanted = f'recorded_metric{{instance="{instance}",metric="{metric}"}} '
    (line,) = [line for line in world.render().splitlines() if line.startswith(wanted)]
    return float(line.removeprefix(wanted))


def test_a_shift_lasts_as_long_as_the_pods_that_have_it(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    start = float(world.history_end)
    world.observe(pods(world, "a", "b"), [], now=start)
    world.advance(start)
    normal = value(world, "host-1", "m01")
    other = value(world, "host-2", "m01")
    world.faults.append(
        Fault(
            kind="level-shift",
            namespace="recorded",
            workload="host-1",
            started_at=start,
            ramp_seconds=5,
            victims=frozenset({"a", "b"}),
            instance="host-1",
            metrics={"m01": 10.0},
        )
    )
    world.advance(start + 10)
    assert value(world, "host-1", "m01") == pytest.approx(normal + 10.0)
    assert value(world, "host-2", "m01") == pytest.approx(other)
    world.observe(pods(world, "a", "new-1"), [], now=start + 20)
    world.advance(start + 20)
    assert value(world, "host-1", "m01") == pytest.approx(normal + 5.0)
    world.observe(pods(world, "new-1", "new-2"), [], now=start + 30)
    world.advance(start + 30)
    assert value(world, "host-1", "m01") == pytest.approx(normal)


def test_shifts_leave_the_range_the_metric_had_and_are_the_same_for_a_seed(tmp_path: Path) -> None:
    recording = read_recording(write(tmp_path / "host.parquet", metrics=12))
    chosen = shifts(recording, seed=5)
    assert chosen == shifts(recording, seed=5)
    assert chosen != shifts(recording, seed=6)
    for metric, size in chosen.items():
        values = recording.values[:, recording.metrics.index(metric)]
        assert abs(size) > values.max() - values.min()


def test_constant_and_dead_metrics_are_never_shifted(tmp_path: Path) -> None:
    recording = read_recording(write(tmp_path / "host.parquet", metrics=3))
    recording.values[:, 0] = 1.0
    recording.values[:, 1] = np.nan
    assert set(shifts(recording, seed=5)) == {"m02"}


def test_each_instance_is_mapped_to_a_deployment_of_its_own() -> None:
    spec = recorded_cluster(["SMD__machine-1-2", "SMD__machine-1-7"])
    found = [deployment(w)["metadata"] for w in spec.workloads]
    assert [m["annotations"] for m in found] == [
        {"clusterheal.io/instance": "SMD__machine-1-2"},
        {"clusterheal.io/instance": "SMD__machine-1-7"},
    ]
    assert len({m["name"] for m in found}) == 2
    assert all(m["name"] == m["name"].lower() and "_" not in m["name"] for m in found)
