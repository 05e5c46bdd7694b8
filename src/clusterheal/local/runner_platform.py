"""What pipelines run against on one machine, apart from the demo: Prometheus, registry, Kubernetes emulator, KServe."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from clusterheal.errors import PermanentError
from clusterheal.local.prometheus import PrometheusSpec, write_configuration
from clusterheal.local.registry.server import create_app, now_ms, running
from clusterheal.local.registry.store import ResourceStore
from clusterheal.registry import Registry
from clusterheal.settings import RegistrySettings

NAMESPACE = "self-healing-platform"
READY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class RunnerPlatform:
    """`env` are the addresses that the steps get; `registry` looks at the same registry; runs go below `out`."""

    env: Mapping[str, str]
    registry: Registry
    out: Path


def generate_history(folder: Path, *, days: int, step_seconds: int) -> None:
    """Days of a small generated cluster in `folder/prometheus/data`, up to now."""
    from clusterheal.local.prometheus_backfill import BackfillConfig, backfill
    from clusterheal.local.world import default_cluster

    pods = {
        w.key: [(f"{w.name}-{i}", f"worker-{i % 3}") for i in range(w.replicas)] for w in default_cluster().workloads
    }
    end, target = newest_step(step_seconds), str(folder / "prometheus")
    start = end - days * 86_400
    backfill(BackfillConfig(folder=target, start=start, end=end, step_seconds=step_seconds, pods=pods))


def newest_step(step_seconds: int) -> int:
    """The last boundary of a step at or before now, seconds since the epoch."""
    return int(time.time()) // step_seconds * step_seconds


@contextmanager
def runner_platform(folder: Path, *, step_seconds: int) -> Iterator[RunnerPlatform]:
    """Start everything over the history that lies in `folder/prometheus/data`, and end it on leaving.

    Bake time, polls and pauses are short: no traffic could show a fault later, and no server restarts.

    Raises:
        PermanentError: a part did not get ready.
    """
    with ExitStack() as stack:
        prometheus = stack.enter_context(_prometheus(folder / "prometheus", step_seconds))
        store = ResourceStore(folder / "registry.sqlite", now_ms=now_ms)
        stack.callback(store.close)
        registry = stack.enter_context(running(create_app(store)))
        kubeconfig = stack.enter_context(_kubernetes(folder))
        storage = str(folder / "models")
        env = {
            "CLUSTERHEAL_PROMETHEUS__URL": prometheus,
            "CLUSTERHEAL_DATASET__PATH": str(folder / "dataset"),
            "CLUSTERHEAL_DATASET__STEP": f"PT{step_seconds}S",
            "CLUSTERHEAL_REGISTRY__URL": registry,
            "CLUSTERHEAL_REGISTRY__STORAGE": storage,
            "CLUSTERHEAL_KUBERNETES__KUBECONFIG": str(kubeconfig),
            "CLUSTERHEAL_KUBERNETES__NAMESPACE": NAMESPACE,
            "CLUSTERHEAL_ROLLOUT__BAKE": "PT2S",
            "CLUSTERHEAL_ROLLOUT__POLL": "PT0.2S",
            "CLUSTERHEAL_PIPELINES__STEP_PAUSE": "PT0.5S",
            "OMP_NUM_THREADS": "1",
        }
        settings = RegistrySettings.model_validate({"url": registry, "storage": storage})
        yield RunnerPlatform(env=env, registry=Registry(settings), out=folder / "runs")


@contextmanager
def _prometheus(folder: Path, step_seconds: int) -> Iterator[str]:
    port = _free_port()
    spec = PrometheusSpec(
        folder=folder, port=port, exporter_port=_free_port(), alertmanager_port=None, step_seconds=step_seconds
    )
    write_configuration(spec)
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={spec.data}",
        "--storage.tsdb.retention.time=5y",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--query.lookback-delta={step_seconds + 60}s",
        "--log.level=warn",
    ]
    with _process(["prometheus", *arguments], f"{spec.url}/-/ready"):
        yield spec.url


@contextmanager
def _kubernetes(folder: Path) -> Iterator[Path]:
    """The emulator over HTTP, and what plays KServe's controller in a thread with an event loop of its own."""
    from clusterheal.kube.http import HttpCluster
    from clusterheal.kube.resources import NAMESPACES
    from clusterheal.local.demo_platform import kubeconfig
    from clusterheal.local.kserve import LocalKServe
    from clusterheal.settings import KubernetesSettings

    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    path = folder / "kubeconfig"
    path.write_text(kubeconfig(url))
    command = [sys.executable, "-m", "clusterheal.cli", "emulator", "--port", str(port)]
    with _process(command, f"{url}/readyz"):
        loop, begun, end = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

        async def serve() -> None:
            async with HttpCluster.from_settings(KubernetesSettings(kubeconfig=path)) as cluster:
                await cluster.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
                async with LocalKServe(cluster, workdir=folder / "kserve", marker=f"pipelines-{os.getpid()}"):
                    begun.set()
                    await end.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        if not begun.wait(READY_SECONDS):
            raise PermanentError("what plays KServe's controller did not start; see the log")
        yield path
        loop.call_soon_threadsafe(end.set)
        thread.join(READY_SECONDS)


@contextmanager
def _process(command: list[str], ready: str) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(process, command[0], ready)
            yield
        finally:
            process.terminate()


def _wait_until_ready(process: subprocess.Popen[bytes], name: str, ready: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        if process.poll() is not None:
            raise PermanentError(f"{name} ended with status {process.returncode} before it was ready")
        if time.monotonic() > deadline:
            raise PermanentError(f"{name} was not ready within {READY_SECONDS:g} s")
        try:
            if httpx.get(ready, timeout=1).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


__all__ = ["RunnerPlatform", "generate_history", "newest_step", "runner_platform"]
