"""The platform that pipelines run against on one machine: Prometheus, registry, Kubernetes emulator, KServe."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from clusterheal.local.registry.server import create_app, now_ms, running
from clusterheal.local.registry.store import ResourceStore
from clusterheal.registry import Registry
from clusterheal.settings import RegistrySettings

STEP_SECONDS = 300
DAYS = 10
NAMESPACE = "self-healing-platform"


@dataclass(frozen=True)
class Platform:
    """`env` are the addresses that the steps get; `registry` looks at the same registry."""

    env: dict[str, str]
    registry: Registry
    out: Path


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    with ExitStack() as stack:
        prometheus = stack.enter_context(_prometheus(folder / "prometheus"))
        store = ResourceStore(folder / "registry.sqlite", now_ms=now_ms)
        stack.callback(store.close)
        registry = stack.enter_context(running(create_app(store)))
        kubeconfig = stack.enter_context(_kubernetes(folder))
        env = {
            "CLUSTERHEAL_PROMETHEUS__URL": prometheus,
            "CLUSTERHEAL_DATASET__PATH": str(folder / "dataset"),
            "CLUSTERHEAL_DATASET__STEP": f"PT{STEP_SECONDS}S",
            "CLUSTERHEAL_REGISTRY__URL": registry,
            "CLUSTERHEAL_REGISTRY__STORAGE": str(folder / "models"),
            "CLUSTERHEAL_KUBERNETES__KUBECONFIG": str(kubeconfig),
            "CLUSTERHEAL_KUBERNETES__NAMESPACE": NAMESPACE,
            "CLUSTERHEAL_ROLLOUT__BAKE": "PT2S",
            "CLUSTERHEAL_ROLLOUT__POLL": "PT0.2S",
            "OMP_NUM_THREADS": "1",
        }
        settings = RegistrySettings.model_validate({"url": registry, "storage": str(folder / "models")})
        yield Platform(env=env, registry=Registry(settings), out=folder / "runs")


@contextmanager
def _prometheus(folder: Path) -> Iterator[str]:
    """A real server over some days of a small cluster's generated history."""
    from clusterheal.local.prometheus import PrometheusSpec, write_configuration
    from clusterheal.local.prometheus_backfill import BackfillConfig, backfill
    from clusterheal.local.world import default_cluster

    end = int(time.time()) // STEP_SECONDS * STEP_SECONDS
    pods = {
        w.key: [(f"{w.name}-{i}", f"worker-{i % 3}") for i in range(w.replicas)] for w in default_cluster().workloads
    }
    start = end - DAYS * 86_400
    backfill(BackfillConfig(folder=str(folder), start=start, end=end, step_seconds=STEP_SECONDS, pods=pods))
    port = _free_port()
    spec = PrometheusSpec(
        folder=folder, port=port, exporter_port=_free_port(), alertmanager_port=None, step_seconds=STEP_SECONDS
    )
    write_configuration(spec)
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={spec.data}",
        "--storage.tsdb.retention.time=5y",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--query.lookback-delta={STEP_SECONDS + 60}s",
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
        assert begun.wait(30)
        yield path
        loop.call_soon_threadsafe(end.set)
        thread.join(30)


@contextmanager
def _process(command: list[str], ready: str) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                assert process.poll() is None, f"{command[0]} ended before it was ready"
                assert time.monotonic() < deadline, f"{command[0]} was not ready within 60 s"
                try:
                    if httpx.get(ready, timeout=1).is_success:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
