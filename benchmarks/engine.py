"""What a storm of alerts and a large cluster cost one engine process.

    .venv/bin/python -m benchmarks.engine [--quick] [--json FILE]

The engine is the real process, `clusterheal engine`, over an emulated API server in another process; this process plays
Alertmanager. Alerts come as webhooks of ten, sent at fixed times whether or not the last one was answered, so that an
answer that is late counts as late. The same load on a bare FastAPI handler that throws the body away tells how much of
the time is the web framework's. Everything shares this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from clusterheal.engine.names import ACTION
from clusterheal.kube.credentials import Credentials
from clusterheal.kube.http import HttpCluster
from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import DEPLOYMENTS, INCIDENTS

MIB = 2**20
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
NAMESPACE, SHOP = "self-healing-platform", "shop"
OBJECTS, ALERTS_PER_WEBHOOK, WEBHOOKS_PER_SECOND = 100, 10, 100
P99_MS, PER_HOUR, CONCURRENT = 200.0, 20, 3
DEVELOPMENT_MIB, PRODUCTION_MIB = 128, 512  # the container's memory limits in the two overlays
GROWTH = 1.10  # memory at the end against a quarter of the way, to be called flat
CRDS = Path(__file__).parents[1] / "manifests" / "cluster" / "crds"


@dataclass(frozen=True, kw_only=True)
class Load:
    """One target under the load. Times in milliseconds from the moment a webhook was due; memory is resident."""

    target: str
    seconds: float
    webhooks: int
    refused: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    cpu: float
    start_mib: float
    quarter_mib: float
    end_mib: float


@dataclass(frozen=True, kw_only=True)
class Storm:
    """What the engine made of the alerts."""

    alerts: int
    incidents: int
    actions: int


@dataclass(frozen=True, kw_only=True)
class Watching:
    """An engine that follows a cluster; `cpu` is cores in use, `churn` pod changes per second."""

    pods: int
    churn: int
    ready_seconds: float
    cpu: float
    mib: float
    peak_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 s of alerts and 1,000 pods instead of 60 s and 10,000")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    seconds, pods = (10.0, 1000) if args.quick else (60.0, 10_000)
    with tempfile.TemporaryDirectory() as scratch:
        bare = asyncio.run(_bare(min(seconds, 15.0)))
        engine, storm = asyncio.run(_storm(Path(scratch), seconds))
        watching = [asyncio.run(_watching(Path(scratch), pods, churn, seconds / 2)) for churn in (0, 20)]
    missed = _missed(engine, storm, watching)
    _print([bare, engine], storm, watching, missed)
    if args.json:
        rows = {"loads": [asdict(bare), asdict(engine)], "storm": asdict(storm)}
        args.json.write_text(
            json.dumps({**rows, "watching": [asdict(w) for w in watching], "missed": missed}, indent=1)
        )
    sys.exit(1 if missed else 0)


def _missed(engine: Load, storm: Storm, watching: list[Watching]) -> list[str]:
    """Which targets were not reached."""
    storm_mib = max(engine.start_mib, engine.quarter_mib, engine.end_mib)
    large_mib = max(w.peak_mib for w in watching)
    checks = {
        f"{engine.refused} of {engine.webhooks} webhooks were not answered with 200": engine.refused == 0,
        f"p99 {engine.p99_ms:.0f} ms, at most {P99_MS:.0f}": engine.p99_ms <= P99_MS,
        f"{storm.incidents} incidents, at most {OBJECTS}": 0 < storm.incidents <= OBJECTS,
        f"{storm.actions} actions, at most {PER_HOUR}": 0 < storm.actions <= PER_HOUR,
        f"memory grew from {engine.quarter_mib:.0f} to {engine.end_mib:.0f} MiB": engine.end_mib
        <= engine.quarter_mib * GROWTH,
        f"{storm_mib:.0f} MiB, development allows {DEVELOPMENT_MIB}": storm_mib <= DEVELOPMENT_MIB,
        f"{large_mib:.0f} MiB with many pods, production allows {PRODUCTION_MIB}": large_mib <= PRODUCTION_MIB,
    }
    return [text for text, held in checks.items() if not held]


async def _storm(scratch: Path, seconds: float) -> tuple[Load, Storm]:
    with _cluster(pods=0, churn=0) as url:
        async with _engine(scratch, url) as (process, address):
            load = await _load("engine", f"{address}/alerts", seconds, process)
            async with HttpCluster(Credentials(server=url)) as cluster:
                await _until_acted(cluster)
                incidents = (await cluster.list(INCIDENTS, namespace=NAMESPACE)).items
                deployed = (await cluster.list(DEPLOYMENTS, namespace=SHOP)).items
    return load, Storm(alerts=load.webhooks * ALERTS_PER_WEBHOOK, incidents=len(incidents), actions=_acted(deployed))


async def _until_acted(cluster: HttpCluster) -> None:
    """A short storm may be over before the first action; wait for it a little."""
    for _ in range(30):
        if _acted((await cluster.list(DEPLOYMENTS, namespace=SHOP)).items):
            return
        await asyncio.sleep(1)


def _acted(deployed: list[Manifest]) -> int:
    return sum(ACTION in (d["metadata"].get("annotations") or {}) for d in deployed)


async def _watching(scratch: Path, pods: int, churn: int, seconds: float) -> Watching:
    with _cluster(pods=pods, churn=churn) as url:
        began = time.perf_counter()
        async with _engine(scratch, url) as (process, _):
            ready = time.perf_counter() - began
            await asyncio.sleep(5)
            before = _cpu_seconds(process)
            peaks = []
            for _second in range(max(1, round(seconds))):
                await asyncio.sleep(1)
                peaks.append(_mib(process))
            cpu = (_cpu_seconds(process) - before) / len(peaks)
            return Watching(
                pods=pods, churn=churn, ready_seconds=ready, cpu=cpu, mib=_mib(process), peak_mib=_peak_mib(process)
            )


async def _bare(seconds: float) -> Load:
    """The same webhooks against a handler that only throws the body away."""
    port = _free_port()
    code = (
        "import fastapi, uvicorn\n"
        "app = fastapi.FastAPI()\n"
        "@app.post('/alerts')\n"
        "async def alerts(request: fastapi.Request) -> None:\n    await request.body()\n"
        f"uvicorn.run(app, port={port}, log_level='error', access_log=False, timeout_keep_alive=75)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        await _until_answered(f"http://127.0.0.1:{port}/docs", child)
        return await _load("bare handler", f"http://127.0.0.1:{port}/alerts", seconds, psutil.Process(child.pid))
    finally:
        child.terminate()
        child.wait(15)


async def _load(target: str, url: str, seconds: float, process: psutil.Process) -> Load:
    """Send for `seconds`, open loop."""
    times: list[float] = []
    codes: list[int] = []
    host, port, path = _address(url)
    count = round(seconds * WEBHOOKS_PER_SECOND)
    start_mib, cpu, quarter = _mib(process), _cpu_seconds(process), 0.0
    requests = [_request(host, port, path, body) for body in _bodies()]
    idle: list[Wire] = []
    began = time.perf_counter()

    async def send(number: int) -> None:
        due = began + number / WEBHOOKS_PER_SECOND
        try:
            wire = idle.pop() if idle else await asyncio.open_connection(host, port)
            codes.append(await _status(wire, requests[number % len(requests)]))
            idle.append(wire)
        except (OSError, asyncio.IncompleteReadError):
            codes.append(0)
        times.append(1000 * (time.perf_counter() - due))

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / WEBHOOKS_PER_SECOND - time.perf_counter()))
            group.create_task(send(number))
            if number == count // 4:
                quarter = _mib(process)
    for _, writer in idle:
        writer.close()
    elapsed = time.perf_counter() - began
    cuts = statistics.quantiles(times, n=100)
    return Load(
        target=target, seconds=elapsed, webhooks=count, refused=sum(c != 200 for c in codes), p50_ms=cuts[49],
        p99_ms=cuts[98], worst_ms=max(times), cpu=(_cpu_seconds(process) - cpu) / elapsed, start_mib=start_mib,
        quarter_mib=quarter, end_mib=_mib(process),
    )  # fmt: skip


def _address(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80, parts.path


def _request(host: str, port: int, path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _status(wire: Wire, request: bytes) -> int:
    """Send and read the whole answer. A general client would take more of the cores than what it measures."""
    reader, writer = wire
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


def _bodies() -> list[bytes]:
    """Webhooks that come round once a second: every alert of every object, ten alerts each of ten objects at a time."""
    started = datetime.now(UTC).isoformat()
    alerts = [
        {
            "status": "firing",
            "labels": {
                "alertname": "MemoryLeakPredicted" if kind == 0 else f"WorkloadSaturated{kind}",
                "namespace": SHOP,
                "workload": f"app-{number:03d}",
                "workload_type": "deployment",
                "severity": "warning",
            },
            "annotations": {"summary": f"something is the matter with app-{number:03d}"},
            "startsAt": started,
        }
        for kind in range(ALERTS_PER_WEBHOOK * WEBHOOKS_PER_SECOND // OBJECTS)
        for number in range(OBJECTS)
    ]
    groups = [alerts[i : i + ALERTS_PER_WEBHOOK] for i in range(0, len(alerts), ALERTS_PER_WEBHOOK)]
    return [json.dumps({"version": "4", "status": "firing", "alerts": group}).encode() for group in groups]


@asynccontextmanager
async def _engine(scratch: Path, cluster: str) -> AsyncIterator[tuple[psutil.Process, str]]:
    """The real process; it leads when this yields."""
    kubeconfig, port = scratch / "kubeconfig", _free_port()
    kubeconfig.write_text(json.dumps(_kubeconfig(cluster)))
    command = [sys.executable, "-m", "clusterheal.cli", "engine", "--port", str(port), "--mode", "auto"]
    command += ["--allow-anonymous", "--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE]
    log = (scratch / "engine.log").open("w")
    child = subprocess.Popen(command, stderr=log, env={**os.environ, "CLUSTERHEAL_LOG__FORMAT": "json"})
    address = f"http://127.0.0.1:{port}"
    try:
        await _until_answered(f"{address}/readyz", child, "leading")
        yield psutil.Process(child.pid), address
    finally:
        child.terminate()
        child.wait(15)
        log.close()


async def _until_answered(url: str, child: subprocess.Popen[bytes], field: str | None = None) -> None:
    """Until `url` answers with 200, and with a true `field` where one is named."""
    async with httpx.AsyncClient() as client:
        for _ in range(6000):
            if child.poll() is not None:
                raise SystemExit(f"the process behind {url} ended with code {child.returncode}")
            try:
                answer = await client.get(url)
                if answer.status_code == 200 and (field is None or answer.json()[field]):
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)
    raise SystemExit(f"{url} did not answer within two minutes")


@contextmanager
def _cluster(*, pods: int, churn: int) -> Iterator[str]:
    """An emulated API server in a process of its own: 100 Deployments, or `pods` pods on as many nodes as they need."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_serve_cluster, args=(pods, churn, theirs), daemon=True)
    child.start()
    try:
        yield ours.recv()
    finally:
        child.terminate()
        child.join(15)


def _serve_cluster(pods: int, churn: int, connection: Connection) -> None:
    from clusterheal.local.kube.emulator import Emulator, serve
    from clusterheal.local.kube.platform import worker_nodes

    emulator = Emulator(seed=1)
    emulator.load_files(CRDS)
    emulator.load(worker_nodes(pods // 100 or 3))
    emulator.load([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, POLICY])
    emulator.load(_pod(n) for n in range(pods))
    if not pods:
        emulator.load(_deployment(n) for n in range(OBJECTS))

    async def run() -> None:
        async with serve(emulator, controllers=not pods) as url:
            connection.send(url)
            cluster, number = emulator.cluster(), 0
            while True:
                await asyncio.sleep(1 / churn if churn else 3600)
                number += 1
                await _touch(cluster, number % pods)

    asyncio.run(run())


async def _touch(cluster: Any, number: int) -> None:
    from clusterheal.kube.ports import PatchType
    from clusterheal.kube.resources import PODS

    patch = {"metadata": {"annotations": {"touched": str(time.time_ns())}}}
    await cluster.patch(PODS, f"pod-{number:05d}", patch, patch_type=PatchType.MERGE, namespace=SHOP)


POLICY: Manifest = {
    "apiVersion": "clusterheal.io/v1alpha1",
    "kind": "RemediationPolicy",
    "metadata": {"name": "benchmark", "namespace": NAMESPACE},
    "spec": {
        "mode": "auto",
        "limits": {"concurrent": CONCURRENT, "perHour": PER_HOUR, "perNamespacePerHour": PER_HOUR},
    },
}


def _deployment(number: int) -> Manifest:
    labels = {"app": f"app-{number:03d}"}
    containers = [{"name": "main", "image": "registry.example/shop:1"}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": labels["app"], "namespace": SHOP},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
    }


def _pod(number: int) -> Manifest:
    """A pod as large as they are: about 4 KiB of JSON."""
    variables = [{"name": f"SETTING_{n}", "value": "x" * 40} for n in range(30)]
    container = {"name": "main", "image": "registry.example/shop:1", "env": variables}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": now}
        for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    running = {
        "name": "main", "image": container["image"], "ready": True, "restartCount": 0, "started": True,
        "state": {"running": {"startedAt": now}},
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"pod-{number:05d}", "namespace": SHOP,
            "labels": {"app": f"app-{number // 10:04d}", "pod-template-hash": f"{number // 10:08x}"},
        },
        "spec": {"nodeName": f"worker-{number // 100}", "containers": [container]},
        "status": {"phase": "Running", "conditions": conditions, "containerStatuses": [running]},
    }  # fmt: skip


def _kubeconfig(server: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / MIB


def _peak_mib(process: psutil.Process) -> float:
    """The highest resident size so far, from the kernel."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _print(loads: list[Load], storm: Storm, watching: list[Watching], missed: list[str]) -> None:
    console = Console()
    table = Table(title=f"{ALERTS_PER_WEBHOOK * WEBHOOKS_PER_SECOND:,} alerts per second over {OBJECTS} objects")
    for name in ("target", "webhooks", "not 200", "p50 ms", "p99 ms", "worst ms", "cores", "MiB start, 1/4, end"):
        table.add_column(name, justify="left" if name == "target" else "right")
    for r in loads:
        memory = f"{r.start_mib:.0f}, {r.quarter_mib:.0f}, {r.end_mib:.0f}"
        times = (f"{t:.1f}" for t in (r.p50_ms, r.p99_ms, r.worst_ms))
        table.add_row(r.target, f"{r.webhooks}", f"{r.refused}", *times, f"{r.cpu:.2f}", memory)
    console.print(table)
    console.print(f"{storm.alerts:,} alerts became {storm.incidents} incidents and {storm.actions} actions")
    for w in watching:
        console.print(
            f"{w.pods:,} pods, {w.churn} changes a second: ready after {w.ready_seconds:.1f} s, {w.cpu:.3f} cores, "
            f"{w.mib:.0f} MiB, at most {w.peak_mib:.0f} MiB"
        )
    for text in missed:
        console.print(f"missed: {text}", style="bold red")
    console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
