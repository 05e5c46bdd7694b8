"""A real Prometheus with what the demo's parts give it: for the panels' test, and for the pictures in the docs.

The generated cluster has a day of history; the engine heals an incident; a KServe server answers it with toy models
(`clusterheal_models.serving.toy`: the full wire contract, untrained). Pods of the platform are stood in for by the
processes themselves. There is no GPU here: the three DCGM series are made up.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from clusterheal_models.serving.toy import toy_detector, toy_forecaster

from clusterheal.contracts import ModelPackage, seal_package
from clusterheal.errors import PermanentError
from clusterheal.local import demo_platform
from clusterheal.local.demo_config import NAMESPACE, DemoConfig, Ports, prepare_folder
from clusterheal.local.demo_platform import Places, Platform, initial_settings, python_module
from clusterheal.local.processes import ChildSpec
from clusterheal.local.supervisor import Supervisor, http_ready, require_port
from clusterheal.local.world import default_cluster
from clusterheal.metrics.catalogue import load_catalogue

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "manifests/base/monitoring"
MIB = 1024 * 1024
LIMITS = {"engine": 128 * MIB, "models": 1024 * MIB}  # bytes, as in the base manifests
ALARM_SCORE = 120.0  # a toy's z-scores over all features add up to tens on a good day


@asynccontextmanager
async def filled_prometheus(out: Path, *, days: float = 1.0) -> AsyncIterator[Platform]:
    """Everything started, models connected, our rules loaded; the caller causes the trouble.

    Raises:
        ClusterhealError: a part did not come up.
    """
    async with generated_platform(out, days=days) as platform:
        models = await _start_models(platform)
        await demo_platform.start_kubernetes(platform)
        end = int(time.time()) // 60 * 60
        await demo_platform.fill_history(platform, end=end, on_line=lambda line: None)
        await demo_platform.start_exporter(platform, history_end=end)
        await demo_platform.start_alerting(platform)
        stand_in = StandIn(platform)
        try:
            jobs = {"predictors-metrics": models, "stand-in": stand_in.port}
            await demo_platform.start_metrics(platform, jobs=jobs, rules=extracted_rules(out))
            url = f"http://127.0.0.1:{models}"
            platform.use("engine", detector_url=url, forecaster_url=url)
            await demo_platform.start_engine(platform)
            await until(lambda: _scored(platform), seconds=90, what="verdicts of the models")
            yield platform
        finally:
            stand_in.close()


@asynccontextmanager
async def generated_platform(out: Path, *, days: float = 1.0) -> AsyncIterator[Platform]:
    """A supervised platform over the generated cluster; nothing is started yet."""
    prepare_folder(out)
    config, places, ports = DemoConfig(out=out, days=days), Places(out=out), Ports.choose(0)
    async with Supervisor(logs=places.logs) as supervisor:
        yield Platform(
            config=config,
            places=places,
            ports=ports,
            spec=default_cluster(),
            replay=None,
            supervisor=supervisor,
            settings=initial_settings(config, places, ports, step_seconds=60, days=days),
            step_seconds=60,
        )


def extracted_rules(out: Path) -> tuple[Path, ...]:
    """The rules of our namespace as Prometheus reads them, with the label that user workload monitoring adds."""
    paths = []
    for source in sorted(RULES.glob("rules-*.yaml")):
        spec = yaml.safe_load(source.read_text())["spec"]
        for rule in (rule for group in spec["groups"] for rule in group["rules"]):
            rule["labels"] = {**rule.get("labels", {}), "namespace": NAMESPACE}
        path = out / source.name
        path.write_text(yaml.safe_dump(spec))
        paths.append(path)
    return tuple(paths)


async def _start_models(platform: Platform) -> int:
    """Serve two toys; returns the HTTP port."""
    contract = load_catalogue("default").contract(timedelta(minutes=1))
    packages = (
        toy_detector(platform.places.models / "anomaly-detector", contract, alarm_score=ALARM_SCORE),
        toy_forecaster(platform.places.models / "predictive-analytics", contract),
    )
    port = require_port(0, purpose="the model server")
    argv = [*python_module("clusterheal.cli"), "serve", "--http-port", str(port), "--grpc-port", "0"]
    for package in packages:
        argv += ["--package", str(_trained_until(package, time.time() - 3 * 86_400).path)]
    child = ChildSpec(name="models", argv=tuple(argv), env=platform.environment(threads=1))
    await platform.supervisor.start(
        child, ready=lambda: http_ready(f"http://127.0.0.1:{port}/v2/health/ready"), timeout_seconds=60
    )
    return port


def _trained_until(package: ModelPackage, when: float) -> ModelPackage:
    metrics = {"data": {"calibration_end_ns": int(when) * 1_000_000_000}}
    (package.path / "metrics.json").write_text(json.dumps(metrics))
    return seal_package(package.path, name=package.name, contract=package.contract)


async def _scored(platform: Platform) -> bool:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{platform.ports.engine}", timeout=5) as client:
        models = (await client.get("/api/v1/status")).json().get("models") or {}
    return bool(models.get("scored_at"))


async def until(condition: Callable[[], Any], *, seconds: float, what: str) -> None:
    """Poll until `await condition()`.

    Raises:
        PermanentError: it took longer.
    """
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise PermanentError(f"no {what} within {seconds:g} s")
        await asyncio.sleep(0.3)


async def post_alert(platform: Platform, name: str, workload: str, *, status: str, started: str) -> None:
    """What Alertmanager would post, at once."""
    labels = {"alertname": name, "namespace": "shop", "workload": workload, "severity": "warning"}
    payload = {"version": "4", "alerts": [{"status": status, "labels": labels, "startsAt": started}]}
    headers = {"Authorization": f"Bearer {platform.places.alert_token.read_text()}"}
    url = f"http://127.0.0.1:{platform.ports.engine}/alerts"
    async with httpx.AsyncClient(timeout=10) as client:
        (await client.post(url, json=payload, headers=headers)).raise_for_status()


class StandIn:
    """Exposes what a kubelet and a DCGM exporter would: our processes as pods, the disk as a volume, a made-up GPU."""

    def __init__(self, platform: Platform) -> None:
        children = {child.spec.name: child.pid for child in platform.supervisor.children}
        self._models = psutil.Process(children["models"])
        self._platform = platform
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True, name="stand-in").start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def render(self) -> str:
        pods = {"models": self._models}
        for child in self._platform.supervisor.children:
            if child.spec.name == "engine":
                pods["engine"] = psutil.Process(child.pid)
        lines: list[str] = []
        for name, process in pods.items():
            labels = f'pod="{name}",container="{name}"'
            cpu = process.cpu_times()
            lines += [
                f"container_memory_working_set_bytes{{{labels}}} {process.memory_info().rss}",
                f"container_cpu_usage_seconds_total{{{labels}}} {cpu.user + cpu.system}",
                f'kube_pod_container_resource_limits{{{labels},resource="memory"}} {LIMITS[name]}',
            ]
        disk = psutil.disk_usage(str(self._platform.places.out))
        volume = 'persistentvolumeclaim="metrics-dataset"'
        lines += [
            f"kubelet_volume_stats_available_bytes{{{volume}}} {disk.free}",
            f"kubelet_volume_stats_capacity_bytes{{{volume}}} {disk.total}",
        ]
        wave = 0.5 + 0.4 * math.sin(time.time() / 60)
        gpu = 'Hostname="gpu-0",gpu="0"'
        lines += [
            f"DCGM_FI_DEV_GPU_UTIL{{{gpu}}} {100 * wave:.0f}",
            f"DCGM_FI_DEV_FB_USED{{{gpu}}} {24_000 * wave:.0f}",
            f"DCGM_FI_DEV_FB_FREE{{{gpu}}} {24_000 * (1 - wave):.0f}",
            f"DCGM_FI_DEV_GPU_TEMP{{{gpu}}} {45 + 30 * wave:.0f}",
        ]
        return "\n".join(lines) + "\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = outer.render().encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


__all__ = ["NAMESPACE", "filled_prometheus", "post_alert", "until"]
