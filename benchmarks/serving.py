"""What serving adds to a model: every transport next to a direct onnxruntime call, for both models' wire contracts.

    .venv/bin/python -m benchmarks.serving [--quick] [--json FILE] [--package DIR ...]

Without `--package`, untrained models of the same wire contract are served: what is measured is the way, not the model.
Client and server share this machine's cores; each row's time is what a caller waits, one request at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from clusterheal_models.serving.runtime import load_runtime
from clusterheal_models.serving.toy import toy_detector, toy_forecaster, toy_inputs
from rich.console import Console
from rich.table import Table

from clusterheal.contracts import EntityKind, FeatureContract, FeatureSpec, ModelPackage, default_window
from clusterheal.contracts.requests import Tensor
from clusterheal.inference.client import InferenceClient
from clusterheal.settings import InferenceSettings

TRANSPORTS = ("json", "binary", "grpc")
FEATURES = 12


@dataclass(frozen=True, kw_only=True)
class Row:
    """Times in milliseconds; `server_cpu` is the server's CPU time per request, None for the direct call."""

    model: str
    batch: int
    way: str
    requests: int
    p50: float
    p99: float
    server_cpu: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="fewer requests: under a minute")
    parser.add_argument("--package", type=Path, action="append", help="a sealed package to serve; one per model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        packages = [ModelPackage.load(p) for p in args.package] if args.package else _toys(Path(scratch))
        began = time.perf_counter()
        with _server(packages, Path(scratch)) as (process, ports):
            start = time.perf_counter() - began
            batches = (1, 64) if args.quick else (1, 64, 256)
            seconds = 1.0 if args.quick else 5.0
            rows = [row for p in packages for b in batches for row in _measure(p, b, seconds, process, ports)]
            memory = process.memory_info().rss / 2**20
    _print(rows, start, memory)
    if args.json:
        figures = {"start_seconds": start, "server_rss_mib": memory, "rows": [asdict(r) for r in rows]}
        args.json.write_text(json.dumps(figures, indent=1))


def _toys(root: Path) -> list[ModelPackage]:
    contract = FeatureContract(
        entity_kinds=(EntityKind(name="workload", labels=("namespace", "workload")),),
        features=tuple(
            FeatureSpec(name=f"f{i}", promql="up", unit="1", entity_kind="workload") for i in range(FEATURES)
        ),
        step=timedelta(seconds=60),
        window=default_window(timedelta(seconds=60)),
    )
    return [
        toy_detector(root / "anomaly-detector" / "v000001", contract),
        toy_forecaster(root / "predictive-analytics" / "v000001", contract),
    ]


@contextmanager
def _server(packages: Sequence[ModelPackage], scratch: Path) -> Iterator[tuple[psutil.Process, Mapping[str, int]]]:
    """The real server process and its ports."""
    ready = scratch / "ready.json"
    flags = [flag for p in packages for flag in ("--package", str(p.path))]
    ports = ["--http-port", "0", "--grpc-port", "0", "--ready-file", str(ready)]
    child = subprocess.Popen(
        [sys.executable, "-m", "clusterheal.cli", "serve", *flags, *ports], stdout=subprocess.DEVNULL
    )
    try:
        while not ready.exists():
            if child.poll() is not None:
                raise SystemExit("the server ended before it was ready")
            time.sleep(0.02)
        yield psutil.Process(child.pid), json.loads(ready.read_text())
    finally:
        child.terminate()
        child.wait(15)


def _measure(
    package: ModelPackage, batch: int, seconds: float, process: psutil.Process, ports: Mapping[str, int]
) -> Iterator[Row]:
    tensors = toy_inputs(package.contract, batch=batch)
    runtime = load_runtime(package, threads=1)

    async def direct() -> None:
        runtime.run(tensors)

    yield _row(package, batch, "onnxruntime", *asyncio.run(_repeat(direct, seconds)), None)
    for transport in TRANSPORTS:
        times, cpu = asyncio.run(_remote(package, tensors, transport, seconds, process, ports))
        yield _row(package, batch, transport, times, cpu)


async def _remote(
    package: ModelPackage,
    tensors: Mapping[str, Tensor],
    transport: str,
    seconds: float,
    process: psutil.Process,
    ports: Mapping[str, int],
) -> tuple[list[float], float]:
    settings = InferenceSettings.model_validate({"transport": transport, "timeout": 60})
    url, target = f"http://127.0.0.1:{ports['http_port']}", f"127.0.0.1:{ports['grpc_port']}"
    async with InferenceClient(url, package.contract, settings=settings, grpc_target=target) as client:

        async def ask() -> None:
            await client.infer(package.name, tensors)

        await ask()
        before = sum(process.cpu_times()[:2])
        (times,) = await _repeat(ask, seconds)
        return times, (sum(process.cpu_times()[:2]) - before) / len(times) * 1000


async def _repeat(call: Callable[[], Awaitable[Any]], seconds: float) -> tuple[list[float]]:
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 5:
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return (times,)


def _row(package: ModelPackage, batch: int, way: str, times: list[float], server_cpu: float | None) -> Row:
    p50, p99 = (float(x) * 1000 for x in np.quantile(times, [0.5, 0.99]))
    return Row(model=package.name, batch=batch, way=way, requests=len(times), p50=p50, p99=p99, server_cpu=server_cpu)


def _print(rows: Sequence[Row], start: float, memory: float) -> None:
    table = Table(title=f"serving on {os.cpu_count()} cores: ready in {start:.1f} s, {memory:.0f} MiB resident")
    for column in ("model", "batch", "way", "requests", "p50 ms", "p99 ms", "over direct", "server CPU ms"):
        table.add_column(column, justify="left" if column in ("model", "way") else "right")
    direct = {(r.model, r.batch): r.p50 for r in rows if r.way == "onnxruntime"}
    for r in rows:
        ratio = f"{r.p50 / direct[r.model, r.batch]:.1f}x"
        cpu = "" if r.server_cpu is None else f"{r.server_cpu:.2f}"
        table.add_row(r.model, str(r.batch), r.way, str(r.requests), f"{r.p50:.2f}", f"{r.p99:.2f}", ratio, cpu)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
