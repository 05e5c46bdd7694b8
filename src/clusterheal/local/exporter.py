"""The process that plays the cluster's exporters and kubelets: live metrics of the pods that the emulator has.

`python -m clusterheal.local.exporter CONFIG.json`. It reads pods and Deployments from the Kubernetes API about once a
second, serves their metrics on `/metrics`, takes faults on `POST /faults`, and has the emulator's kubelets end
containers that run out of memory.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import orjson

from clusterheal.clock import Clock, SystemClock
from clusterheal.errors import ClusterhealError
from clusterheal.kube import resources
from clusterheal.kube.ports import Cluster, Manifest, PatchType
from clusterheal.local.exporter_recorded import RecordedWorld
from clusterheal.local.faults import Fault
from clusterheal.local.generator import state_from_dict
from clusterheal.local.kube.controllers.base import BEHAVIOUR
from clusterheal.local.replay import open_replay
from clusterheal.local.world import default_cluster, recorded_cluster
from clusterheal.local.world_live import LiveWorld, PodView
from clusterheal.settings import KubernetesSettings, LogSettings
from clusterheal.telemetry import configure_logging

log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
OOM = "OOMKilled"


@dataclass(frozen=True, kw_only=True)
class ExporterConfig:
    """What the process is started with. `state` is where the generated history ended, `data` the recording."""

    port: int
    kubeconfig: str
    seed: int
    state: str | None = None
    data: str | None = None
    series: str | None = None
    history_end: int = 0

    def write(self, path: Path) -> None:
        path.write_bytes(orjson.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> ExporterConfig:
        return cls(**orjson.loads(path.read_bytes()))


class World(Protocol):
    """Anything that turns the cluster's pods into metrics."""

    faults: list[Fault]
    pods: list[PodView]

    def observe(self, pods: list[Manifest], deployments: list[Manifest], *, now: float) -> None: ...

    def advance(self, now: float) -> None: ...

    def out_of_memory(self) -> list[PodView]: ...

    def render(self) -> str: ...


def make_world(config: ExporterConfig) -> World:
    """The generated cluster, or the recorded one."""
    if config.data is not None:
        replay = open_replay(Path(config.data), pattern=config.series)
        return RecordedWorld(spec=recorded_cluster(replay.instances), replay=replay, history_end=config.history_end)
    assert config.state is not None, "a generated world needs the state in which its history ended"
    state = state_from_dict(json.loads(Path(config.state).read_text()))
    return LiveWorld(spec=default_cluster(), seed=config.seed, state=state)


class Exporter:
    """One round: look at the cluster, advance the world, play the kubelet."""

    def __init__(self, world: World, cluster: Cluster, clock: Clock) -> None:
        self._world = world
        self._cluster = cluster
        self._clock = clock
        self._lock = threading.Lock()
        self._text = b""

    @property
    def text(self) -> bytes:
        """The newest exposition."""
        return self._text

    def inject(self, fault: Fault) -> None:
        """Begin a fault with the next round."""
        with self._lock:
            self._world.faults.append(fault)

    async def round(self) -> None:
        """Raises ClusterhealError when the Kubernetes API does not answer."""
        pods = (await self._cluster.list(resources.PODS)).items
        deployments = (await self._cluster.list(resources.DEPLOYMENTS)).items
        now = self._clock.now().timestamp()
        with self._lock:
            self._world.observe(pods, deployments, now=now)
            self._world.advance(now)
            self._text = self._world.render().encode()
        await self._kill({view.place.key: view for view in self._world.out_of_memory()}, pods)

    async def _kill(self, victims: dict[str, PodView], pods: list[Manifest]) -> None:
        """Let the emulator's kubelet end containers that are out of memory, once: then their pods are healthy again."""
        for pod in pods:
            meta = pod["metadata"]
            killed = (meta.get("annotations") or {}).get(BEHAVIOUR) == OOM
            wanted = f"{meta['namespace']}/{meta['name']}" in victims
            if wanted != killed:
                await self._cluster.patch(
                    resources.PODS,
                    meta["name"],
                    {"metadata": {"annotations": {BEHAVIOUR: OOM if wanted else None}}},
                    patch_type=PatchType.MERGE,
                    namespace=meta["namespace"],
                )

    async def run(self) -> None:
        """Rounds for ever; a round that fails is logged and the next one tries again."""
        while True:
            try:
                await self.round()
            except ClusterhealError as exc:
                log.warning("round failed", extra={"error": str(exc)})
            await self._clock.sleep(ROUND_SECONDS)


def serve_http(exporter: Exporter, port: int) -> ThreadingHTTPServer:
    """Start `/metrics` and `POST /faults` on 127.0.0.1 in a thread."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(exporter))
    threading.Thread(target=server.serve_forever, daemon=True, name="metrics").start()
    return server


def _handler(exporter: Exporter) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                self._answer(404, b"see /metrics\n")
            elif not exporter.text:
                self._answer(503, b"the first round is not done yet\n")
            else:
                self._answer(200, exporter.text)

        def do_POST(self) -> None:
            if self.path != "/faults":
                self._answer(404, b"see /faults\n")
                return
            body = orjson.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
            exporter.inject(fault_from_dict(body))
            self._answer(200, b"{}\n")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """One line per scrape would bury everything else."""

    return Handler


def fault_from_dict(data: dict[str, Any]) -> Fault:
    """Inverse of `fault_to_dict`."""
    return Fault(**{**data, "victims": frozenset(data.get("victims", ()))})


def fault_to_dict(fault: Fault) -> dict[str, Any]:
    """JSON form of a fault."""
    return {**asdict(fault), "victims": sorted(fault.victims)}


async def main(config: ExporterConfig) -> None:
    """Run until terminated."""
    from clusterheal.kube.http import HttpCluster

    configure_logging(LogSettings())
    world = make_world(config)
    async with HttpCluster.from_settings(KubernetesSettings(kubeconfig=Path(config.kubeconfig))) as cluster:
        exporter = Exporter(world, cluster, SystemClock())
        serve_http(exporter, config.port)
        await exporter.run()


if __name__ == "__main__":
    asyncio.run(main(ExporterConfig.read(Path(sys.argv[1]))))
