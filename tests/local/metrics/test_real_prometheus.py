"""The range client and the collector against a real Prometheus holding hostile data."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.real_prometheus import STALE_MARKER, RealPrometheus, Written
from clusterheal.errors import InvalidInput
from clusterheal.metrics.catalogue import recorded_catalogue
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.collect import collect
from clusterheal.metrics.dataset import Dataset
from clusterheal.metrics.windows import from_ms
from clusterheal.settings import Settings, load_settings

pytestmark = pytest.mark.local

NOW_MS = int(time.time()) // 86_400 * 86_400_000
MINUTE = 60_000
SLOW = 600_000
"""A step longer than the five minutes for which Prometheus repeats a sample, so that a gap is a gap."""

Make = Callable[..., Settings]

_runs = itertools.count()


def pull(config: Settings, query: str, start_ms: int, n_steps: int, step_ms: int) -> Any:
    async def run() -> Any:
        async with PrometheusClient(config.prometheus) as client:
            return await client.query_range(
                query,
                start=from_ms(start_ms),
                end=from_ms(start_ms + (n_steps - 1) * step_ms),
                step=timedelta(milliseconds=step_ms),
            )

    return asyncio.run(run())


numbers = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1e-30, 2.0**40])
nasty = st.text(st.sampled_from('"\\{}[]\n\t,:=é😀a') | st.characters(codec="utf-8"), min_size=1, max_size=10)
frames = st.dictionaries(nasty, st.lists(numbers | st.none(), min_size=10, max_size=10), min_size=1, max_size=5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames, st.integers(2, 7))
def test_any_frame_written_comes_back_equal_on_the_grid(
    prometheus: RealPrometheus, make_settings: Make, frame: dict[str, list[float | None]], limit: int
) -> None:
    run = next(_runs)
    start = NOW_MS - 20 * 86_400_000
    prometheus.write(
        Written(
            labels={"__name__": "frame", "run": str(run), "name": name},
            times_ms=np.array([start + k * SLOW for k, v in enumerate(values) if v is not None], np.int64),
            values=np.array([v for v in values if v is not None], np.float64),
        )
        for name, values in frame.items()
        if any(v is not None for v in values)
    )
    query = f'frame{{run="{run}"}}'
    back = pull(make_settings(prometheus={"max_points": limit}), query, start, 10, SLOW)
    held = {labels["name"]: back.values[:, i] for i, labels in enumerate(back.labels)}
    assert set(held) == {name for name, values in frame.items() if any(v is not None for v in values)}
    for name, values in held.items():
        expected = np.array([np.nan if v is None else v for v in frame[name]], np.float32)
        assert values.tobytes() == expected.tobytes() or np.array_equal(values, expected, equal_nan=True)
        present = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(values[present]), np.signbit(expected[present]))


def test_odd_samples_stay_what_they_are(prometheus: RealPrometheus, make_settings: Make, metric: str) -> None:
    values = np.array([np.inf, -np.inf, np.nan, 5e-324, 1.7976931348623157e308, -0.0])
    times = NOW_MS - SLOW * np.arange(6, 0, -1)
    prometheus.write([Written(labels={"__name__": metric}, times_ms=times, values=values)])
    back = pull(make_settings(), metric, int(times[0]), 6, SLOW).values[:, 0]
    np.testing.assert_array_equal(back, np.array([np.inf, -np.inf, np.nan, 0, np.inf, -0.0], np.float32))
    assert np.signbit(back[5])


def test_a_stale_marker_ends_a_series_at_once(prometheus: RealPrometheus, make_settings: Make, metric: str) -> None:
    times = NOW_MS - MINUTE * np.arange(6, 0, -1)
    values = np.array([1.0, 2.0, STALE_MARKER, 4.0, 5.0, 6.0])
    prometheus.write([Written(labels={"__name__": metric}, times_ms=times, values=values)])
    back = pull(make_settings(), metric, int(times[0]), 6, MINUTE).values[:, 0]
    np.testing.assert_array_equal(back, np.array([1, 2, np.nan, 4, 5, 6], np.float32))


def test_out_of_order_and_doubled_samples(prometheus: RealPrometheus, make_settings: Make, metric: str) -> None:
    times = NOW_MS - MINUTE * np.arange(40, 0, -1)
    values = np.arange(40.0)
    for part in (slice(30, 40), slice(0, 10), slice(20, 30), slice(10, 20), slice(5, 15)):
        prometheus.write([Written(labels={"__name__": metric}, times_ms=times[part], values=values[part])])
    back = pull(make_settings(prometheus={"max_points": 7}), metric, int(times[0]), 40, MINUTE)
    np.testing.assert_array_equal(back.values[:, 0], values.astype(np.float32))


def test_a_counter_reset_is_no_negative_rate(prometheus: RealPrometheus, make_settings: Make, metric: str) -> None:
    times = NOW_MS - MINUTE * np.arange(30, 0, -1)
    values = np.concatenate([np.arange(15.0) * 60, np.arange(15.0) * 60])
    prometheus.write([Written(labels={"__name__": metric}, times_ms=times, values=values)])
    rate = pull(make_settings(), f"rate({metric}[5m])", int(times[5]), 25, MINUTE).values[:, 0]
    assert (rate >= 0).all()

    async def resets() -> float:
        async with PrometheusClient(make_settings().prometheus) as client:
            return (await client.query(f"sum(resets({metric}[1h]))", from_ms(int(times[-1]))))[0].value

    assert asyncio.run(resets()) == 1


def test_ten_thousand_series(tmp_path: Path, metric: str) -> None:
    """On a server of its own: while one compacts its head, it may miss a sample for a moment."""
    times = NOW_MS - MINUTE * np.arange(12, 0, -1)
    rng = np.random.default_rng(3)
    values = rng.normal(size=(10_000, 12))
    with RealPrometheus(tmp_path / "large") as server:
        for at in range(0, 10_000, 1000):
            server.write(
                Written(labels={"__name__": metric, "pod": f"p{i:05d}"}, times_ms=times, values=values[i])
                for i in range(at, at + 1000)
            )
        config = load_settings(None, {"prometheus": {"url": server.url}})
        back = pull(config, metric, int(times[0]), 12, MINUTE)
    np.testing.assert_array_equal(back.values, values.T.astype(np.float32))
    assert [labels["pod"] for labels in back.labels] == [f"p{i:05d}" for i in range(10_000)]


def test_a_long_window_is_split_below_the_servers_limit(
    prometheus: RealPrometheus, make_settings: Make, metric: str
) -> None:
    n = 25_000
    times = NOW_MS - MINUTE * np.arange(n, 0, -1)
    values = np.random.default_rng(1).normal(size=n)
    for at in range(0, n, 5000):
        part = slice(at, at + 5000)
        prometheus.write([Written(labels={"__name__": metric}, times_ms=times[part], values=values[part])])
    back = pull(make_settings(prometheus={"max_points": 11_000}), metric, int(times[0]), n, MINUTE)
    np.testing.assert_array_equal(back.values[:, 0], values.astype(np.float32))


def test_a_server_that_refuses_the_amount_is_asked_for_less(tmp_path: Path) -> None:
    with RealPrometheus(tmp_path / "small", "--query.max-samples=2000") as server:
        times = NOW_MS - MINUTE * np.arange(100, 0, -1)
        server.write(
            Written(labels={"__name__": "m", "i": str(i)}, times_ms=times, values=times * 0.0 + i) for i in range(50)
        )
        config = load_settings(None, {"prometheus": {"url": server.url}})
        back = pull(config, "m", int(times[0]), 100, MINUTE)
        assert back.values.shape == (100, 50)
        assert not np.isnan(back.values).any()


def test_a_query_that_does_not_parse(make_settings: Make) -> None:
    with pytest.raises(InvalidInput, match="parse error"):
        pull(make_settings(), "sum(", NOW_MS - SLOW, 2, MINUTE)


def fill_recording(prometheus: RealPrometheus, metric: str, n: int, instances: int) -> Any:
    times = NOW_MS - MINUTE * np.arange(n, 0, -1)
    values = np.random.default_rng(5).normal(size=(instances, n))
    for at in range(0, n, 720):
        prometheus.write(
            Written(
                labels={"__name__": "recorded_metric", "metric": metric, "instance": f"i{i}"},
                times_ms=times[at : at + 720],
                values=values[i, at : at + 720],
            )
            for i in range(instances)
        )
    return times, values


def test_a_collector_killed_for_good_is_resumed_to_the_same_dataset(
    prometheus: RealPrometheus, make_settings: Make, metric: str, tmp_path: Path
) -> None:
    n = 4 * 1440
    times, values = fill_recording(prometheus, metric, n, 40)
    start, end = from_ms(int(times[0])), from_ms(NOW_MS)
    config = make_settings(dataset={"path": str(tmp_path / "killed")})
    program = (
        "import sys\nfrom datetime import datetime\nfrom clusterheal.metrics import plan\n"
        "from clusterheal.metrics.collect import collect\n"
        "from clusterheal.metrics.catalogue import recorded_catalogue\n"
        "from clusterheal.settings import load_settings\n"
        "plan.CELLS_PER_PART = 10_000\n"
        "url, path, metric, start, end = sys.argv[1:]\n"
        "config = load_settings(None, {'prometheus': {'url': url}, 'dataset': {'path': path}})\n"
        "collect(config, start=datetime.fromisoformat(start), end=datetime.fromisoformat(end),\n"
        "        catalogue=recorded_catalogue([metric]))\n"
    )
    arguments = [prometheus.url, config.dataset.path, metric, start.isoformat(), end.isoformat()]
    kills = 0
    for wanted in (1, 5, 12):
        child = subprocess.Popen([sys.executable, "-c", program, *arguments])
        deadline = time.monotonic() + 30
        while child.poll() is None and time.monotonic() < deadline:
            if len(list(Path(config.dataset.path).glob("day=*/*.parquet"))) >= wanted:
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        child.wait()
    assert kills == 3, "each run was killed in the middle"
    report = collect(config, start=start, end=end, catalogue=recorded_catalogue([metric]))
    assert report.parts_written > 0
    assert report.parts_present >= 12
    panel = Dataset.open(config.dataset.path).panel()
    np.testing.assert_array_equal(
        panel.values[:, :, 0], values.astype(np.float32)[np.argsort([f"i{i}" for i in range(40)])]
    )


def test_the_command_collects_and_appends(prometheus: RealPrometheus, metric: str, tmp_path: Path) -> None:
    times, _ = fill_recording(prometheus, metric, 300, 3)
    catalogue = tmp_path / "own.yaml"
    catalogue.write_text(
        "version: 1\nentity_kinds: {instance: {labels: [instance]}}\nfeatures:\n"
        "  - {name: own, kind: instance, unit: value, low: null, high: null, why: a test,\n"
        f"     promql: 'recorded_metric{{metric=\"{metric}\"}}'}}\n"
    )

    def run(start_ms: int, end_ms: int) -> subprocess.CompletedProcess[str]:
        window = [f"{_iso(t)}" for t in (start_ms, end_ms)]
        command = [sys.executable, "-m", "clusterheal.cli", "collect", "--prometheus-url", prometheus.url]
        command += ["--dataset", str(tmp_path / "d"), "--catalogue", str(catalogue), "--html"]
        return subprocess.run(
            [*command, "--start", window[0], "--end", window[1]], capture_output=True, text=True, check=False
        )

    first = run(int(times[0]), int(times[200]))
    assert first.returncode == 0, first.stderr
    assert "fetched 600 samples of 3 instance" in first.stdout
    second = run(int(times[0]), NOW_MS)
    assert "fetched 300 samples" in second.stdout
    assert len(list((tmp_path / "d" / "_reports").glob("*.html"))) == 2
    bad = run(NOW_MS, int(times[0]))
    assert bad.returncode == 2
    assert "holds no step" in bad.stderr


def _iso(time_ms: int) -> str:
    return datetime.isoformat(from_ms(time_ms).replace(tzinfo=None))
