"""From a real Prometheus to arrays and datasets: time and memory, next to peers in the same run.

    .venv/bin/python -m benchmarks.metrics [--quick] [--json FILE] [--only parse,pull,sizes,incremental]

A Prometheus is started on loopback and filled first. Each measurement runs in a process of its own; where two are
compared they take turns and the better of each counts. Figures of a `--quick` run tell that it works, no more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.metrics_cases import STEP_MS
from benchmarks.real_prometheus import RealPrometheus, Written, settled

END_MS = 1_795_392_000_000  # a midnight, so that days are whole
DAY_STEPS = 1440
BATCH_STEPS = 50  # within the hour that the server still takes in order
BATCH_SERIES = 1500
PARTS = ("parse", "pull", "sizes", "incremental")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. `sizes` are the numbers of series of a collect over `size_days`."""

    pull_series: int
    pull_days: int
    parse_samples: int
    sizes: tuple[int, int, int]
    size_days: float
    rounds: int


FULL = Plan(pull_series=500, pull_days=30, parse_samples=1_000_000, sizes=(50, 500, 5000), size_days=7, rounds=5)
QUICK = Plan(pull_series=100, pull_days=3, parse_samples=200_000, sizes=(20, 100, 400), size_days=1, rounds=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="far less data: under a minute")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    args = parser.parse_args()
    plan, wanted = QUICK if args.quick else FULL, args.only.split(",")
    console = Console()
    figures: dict[str, Any] = {"quick": args.quick}
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), plan, wanted, console) as url:
        work = Path(folder)
        if "parse" in wanted:
            figures |= _parse(url, plan, work, console)
        if "pull" in wanted:
            figures |= _pull(url, plan, console)
        if "sizes" in wanted:
            figures |= _sizes(url, plan, work, console)
        if "incremental" in wanted:
            figures |= _incremental(url, plan, work, console)
    _summary(figures, console)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


@contextmanager
def _server(folder: Path, plan: Plan, wanted: list[str], console: Console) -> Iterator[str]:
    """A server with `sizes[2]` series of the short window, of which some reach back over the long one."""
    flags = ("--query.max-samples=100000000",)
    with RealPrometheus(folder / "prometheus", *flags) as server:
        began = time.perf_counter()
        short = round(plan.size_days * DAY_STEPS)
        long = max(short, plan.pull_days * DAY_STEPS) if {"pull", "parse"} & set(wanted) else short
        most = plan.sizes[2] if "sizes" in wanted else max(plan.pull_series, plan.sizes[1])
        rng = np.random.default_rng(7)
        samples = 0
        for first in range(0, long, BATCH_STEPS):
            steps = np.arange(first, min(first + BATCH_STEPS, long))
            times = END_MS - (long - steps) * STEP_MS
            count = most if long - first <= short else plan.pull_series
            values = rng.normal(50, 10, (count, len(steps)))
            for at in range(0, count, BATCH_SERIES):
                server.write(_series(i, plan, times, values[i]) for i in range(at, min(at + BATCH_SERIES, count)))
            samples += values.size
        settled(server)
        console.print(f"prometheus holds {samples:,} samples, filled in {time.perf_counter() - began:.0f} s")
        yield server.url


def _series(number: int, plan: Plan, times: Any, values: Any) -> Written:
    """`tier` is the smallest of the sizes that the series belongs to."""
    tier = next(size for size in plan.sizes if number < max(size, plan.pull_series * (size == plan.sizes[1])))
    labels = {
        "__name__": "recorded_metric",
        "job": "node-exporter",
        "instance": f"worker-{number:05d}.example",
        "metric": f"tier{tier}",
    }
    return Written(labels=labels, times_ms=times, values=values)


def _metrics(plan: Plan, size: int) -> list[str]:
    return [f"tier{s}" for s in plan.sizes if s <= size]


def _query(plan: Plan) -> str:
    return f'recorded_metric{{metric=~"tier({plan.sizes[0]}|{plan.sizes[1]})"}}'


def _parse(url: str, plan: Plan, work: Path, console: Console) -> dict[str, Any]:
    steps = min(10_000, plan.pull_days * DAY_STEPS)
    series = plan.parse_samples // steps
    start = END_MS - steps * STEP_MS
    body = work / "body.json"
    form = {"query": _some(series), "start": str(start // 1000), "end": str((END_MS - STEP_MS) // 1000), "step": "60"}
    answer = httpx.post(f"{url}/api/v1/query_range", data=form, timeout=600, trust_env=False)
    body.write_bytes(answer.raise_for_status().content)
    case = {"body": str(body), "start_ms": start, "n_steps": steps}
    names = {
        "clusterheal, streaming": "parse_ours",
        "prometheus-api-client, MetricRangeDataFrame": "parse_prometheus_api_client",
        "orjson + NumPy": "parse_orjson",
    }
    best = {name: _best([name_case], case, plan.rounds, "cpu")[0] for name, name_case in names.items()}
    table = _table(
        f"parse {series} series x {steps} steps, {len(answer.content) / 2**20:.0f} MiB", "CPU s", "extra MiB"
    )
    for name, figures in best.items():
        table.add_row(name, f"{figures['cpu']:.3f}", f"{figures['extra_mib']:.0f}")
    console.print(table)
    ours, peer, plain = best.values()
    return {
        "parse_cpu_ratio": peer["cpu"] / ours["cpu"],
        "parse_cpu_ratio_orjson": plain["cpu"] / ours["cpu"],
        "parse_extra_mib": ours["extra_mib"],
        "parse_result_mib": ours["result_mib"],
        "parse_bit_identical": ours["digest"] == peer["digest"],
        "parse_cpu_seconds": ours["cpu"],
        "parse_peer_cpu_seconds": peer["cpu"],
    }


def _some(series: int) -> str:
    """The first `series` series."""
    names = "|".join(f"worker-{i:05d}.example" for i in range(series))
    return f'recorded_metric{{instance=~"{names}"}}'


def _pull(url: str, plan: Plan, console: Console) -> dict[str, Any]:
    steps = plan.pull_days * DAY_STEPS
    case = {"url": url, "query": _query(plan), "end_ms": END_MS - STEP_MS, "n_steps": steps}
    _case("pull_bare", case | {"way": "httpx"})  # a server just filled is slow once, whoever asks
    ours, same, plain = _best(["pull_ours", "pull_bare httpx", "pull_bare threads"], case, plan.rounds, "wall")
    table = _table(f"pull {plan.pull_series} series x {plan.pull_days} days", "wall s", "CPU s", "peak MiB")
    for name, f in {"clusterheal, into an array": ours, "bare, httpx": same, "bare, http.client": plain}.items():
        table.add_row(name, f"{f['wall']:.1f}", f"{f['cpu']:.1f}", f"{f['peak_mib']:.0f}")
    console.print(table)
    assert ours["shape"] == [steps, plan.pull_series], ours["shape"]
    assert ours["missing"] == 0, "the grid has holes where the server has samples"
    return {
        "pull_wire_ratio": ours["wall"] / same["wall"],
        "pull_wire_ratio_http_client": ours["wall"] / plain["wall"],
        "pull_seconds": ours["wall"],
        "pull_bare_seconds": same["wall"],
        "pull_peak_mib": ours["peak_mib"],
        "pull_array_mib": ours["array_mib"],
        "pull_peak_ratio": max(0.0, ours["peak_mib"] - 200) / ours["array_mib"],
    }


def _sizes(url: str, plan: Plan, work: Path, console: Console) -> dict[str, Any]:
    start = END_MS - round(plan.size_days * DAY_STEPS) * STEP_MS
    table = _table(f"collect {plan.size_days:g} days into Parquet", "wall s", "us/sample", "extra MiB", "Parquet MiB")
    rows = []
    for size in plan.sizes:
        path = str(work / f"sizes-{size}")
        window = {"start_ms": start, "end_ms": END_MS}
        f = _case("collect", {"url": url, "metrics": _metrics(plan, size), "path": path, **window, "times": 1})
        written = size * round(plan.size_days * DAY_STEPS)
        assert f["samples"] == written, f"{f['samples']:,} samples collected of {written:,} in the server"
        row = {"series": size, "samples": f["samples"], "wall": f["wall"], "extra_mib": f["extra_mib"]}
        rows.append(row | {"us_per_sample": f["wall"] / f["samples"] * 1e6})
        table.add_row(
            f"{size} series",
            f"{f['wall']:.1f}",
            f"{rows[-1]['us_per_sample']:.2f}",
            f"{f['extra_mib']:.0f}",
            f"{f['mib']:.1f}",
        )
    console.print(table)
    return {"sizes": rows}


def _incremental(url: str, plan: Plan, work: Path, console: Console) -> dict[str, Any]:
    start = END_MS - round(plan.size_days * DAY_STEPS) * STEP_MS
    f = _case(
        "incremental",
        {
            "url": url,
            "metrics": _metrics(plan, plan.sizes[1]),
            "path": str(work / "incremental"),
            "start_ms": start,
            "end_ms": END_MS,
            "hour_ms": 60 * STEP_MS,
            "times": plan.rounds + 2,
        },
    )
    table = _table(f"one hour of {plan.sizes[1]} series", "wall ms")
    table.add_row(f"appended to a dataset of {plan.size_days:g} days", f"{f['appended'] * 1000:.0f}")
    table.add_row("collected into a new dataset", f"{f['fresh'] * 1000:.0f}")
    table.add_row("queried into arrays, nothing stored", f"{f['queried'] * 1000:.0f}")
    console.print(table)
    return {
        "incremental_ratio": f["appended"] / f["fresh"],
        "incremental_ratio_query": f["appended"] / f["queried"],
        "incremental_seconds": f["appended"],
    }


def _best(names: list[str], case: dict[str, Any], rounds: int, by: str) -> list[dict[str, Any]]:
    """The cases in turns; of each the round that took least."""
    runs: list[list[dict[str, Any]]] = [[] for _ in names]
    for _ in range(rounds):
        for results, name in zip(runs, names, strict=True):
            program, _, way = name.partition(" ")
            results.append(_case(program, case | ({"way": way} if way else {})))
    return [min(results, key=lambda f: float(f[by])) for results in runs]


def _case(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.metrics_cases", name, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _summary(figures: dict[str, Any], console: Console) -> None:
    wanted = {
        "parse_cpu_ratio": ">= 7",
        "parse_extra_mib": "<= 32",
        "parse_bit_identical": "True",
        "pull_wire_ratio": "<= 1.5",
        "pull_peak_ratio": "<= 1.6",
        "incremental_ratio": "<= 1.2",
    }
    table = _table("figures", "measured", "wanted")
    for name, limit in wanted.items():
        if name in figures:
            value = figures[name]
            table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value), limit)
    console.print(table)


if __name__ == "__main__":
    main()
