"""The local platform's metrics side with its real parts: Prometheus, Alertmanager, the emulator and the exporter."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from clusterheal.kube import resources
from clusterheal.kube.ports import PatchType
from clusterheal.local import demo_platform
from clusterheal.local.demo_config import DemoConfig, Ports, prepare_folder
from clusterheal.local.demo_incident import cause, pods_of
from clusterheal.local.demo_platform import Places, Platform, initial_settings
from clusterheal.local.faults import KINDS
from clusterheal.local.supervisor import Supervisor
from clusterheal.local.world import default_cluster

pytestmark = [pytest.mark.local, pytest.mark.timeout(180)]


class Webhook:
    """Stands where the engine will: keeps what Alertmanager posts, with its Authorization header."""

    def __init__(self, port: int) -> None:
        self.received: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.received.append(json.loads(body))
                outer.tokens.add(self.headers.get("Authorization"))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def alerts(self, name: str, status: str) -> list[dict[str, Any]]:
        return [
            alert
            for payload in self.received
            for alert in payload["alerts"]
            if alert["labels"]["alertname"] == name and alert["status"] == status
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@asynccontextmanager
async def metrics_platform(out: Path, *, days: float) -> AsyncIterator[Platform]:
    config = DemoConfig(out=out, days=days)
    prepare_folder(out)
    places, ports = Places(out=out), Ports.choose(0)
    async with Supervisor(logs=places.logs) as supervisor:
        platform = Platform(
            config=config,
            places=places,
            ports=ports,
            spec=default_cluster(),
            replay=None,
            supervisor=supervisor,
            settings=initial_settings(config, places, ports, step_seconds=60, days=config.days),
            step_seconds=60,
        )
        await demo_platform.start_kubernetes(platform)
        end = int(time.time()) // 60 * 60
        await demo_platform.fill_history(platform, end=end, on_line=lambda line: None)
        await demo_platform.start_exporter(platform, history_end=end)
        await demo_platform.start_alerting(platform)
        await demo_platform.start_metrics(platform)
        yield platform


async def query(platform: Platform, promql: str, at: float | None = None) -> dict[str, float]:
    """Value by the result's workload (or pod, or nothing)."""
    params = {"query": promql, **({"time": str(at)} if at is not None else {})}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{platform.ports.prometheus}") as client:
        answer = (await client.get("/api/v1/query", params=params)).json()
    assert answer["status"] == "success", answer
    return {
        r["metric"].get("workload") or r["metric"].get("pod") or "": float(r["value"][1])
        for r in answer["data"]["result"]
    }


async def until(condition: Any, *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.3)


OWNED = (
    "max by (workload) (sum by (namespace, pod) (container_memory_working_set_bytes) * on (namespace, pod) "
    "group_left (workload) max by (namespace, workload, pod) (namespace_workload_pod:kube_pod_owner:relabel))"
)
COUNT = "count by (workload) (max by (namespace, workload, pod) (namespace_workload_pod:kube_pod_owner:relabel))"


async def test_live_scrapes_continue_the_history_and_a_leak_is_seen_alerted_and_healed(tmp_path: Path) -> None:
    async with metrics_platform(tmp_path / "out", days=1.0) as platform:
        webhook = Webhook(platform.ports.engine)
        try:
            await _check_continuity(platform)
            await _leak_and_heal(platform, webhook)
        finally:
            webhook.close()


async def _check_continuity(platform: Platform) -> None:
    await until(lambda: _scraped(platform, 3), seconds=15)
    now = time.time()
    planned = {w.name: float(w.replicas) for w in platform.spec.workloads}
    assert await query(platform, COUNT) == planned  # history and live samples are one series per pod
    assert await query(platform, COUNT, now - 6 * 3600) == planned
    before, after = await query(platform, OWNED, now - 1800), await query(platform, OWNED)
    assert before.keys() == after.keys()
    assert all(0.8 < after[name] / before[name] < 1.25 for name in after)
    falls = await query(platform, "max(resets(node_cpu_seconds_total[1h]))")
    assert falls == {"": 0.0}
    assert await query(platform, 'count({job!="",job!="coordination-engine"}) - count({job="world"})') == {"": 0.0}


async def _scraped(platform: Platform, times: int) -> bool:
    counted = await query(platform, "count_over_time(up[30s])")
    return counted.get("", 0.0) >= times


async def _leak_and_heal(platform: Platform, webhook: Webhook) -> None:
    kind = KINDS["memory-leak"]
    async with platform.cluster() as cluster:
        fault = await cause(platform, kind, cluster)
        assert len(fault.victims) == 3

        async def alerted() -> bool:
            return bool(webhook.alerts("MemoryLeakPredicted", "firing"))

        await platform.supervisor.guard(until(alerted, seconds=60))
        (alert, *_) = webhook.alerts("MemoryLeakPredicted", "firing")
        assert (alert["labels"]["namespace"], alert["labels"]["workload"]) == ("shop", "cart")
        assert webhook.tokens == {f"Bearer {platform.places.alert_token.read_text()}"}
        assert {a["labels"]["workload"] for a in webhook.alerts("MemoryLeakPredicted", "firing")} == {"cart"}

        restart = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
        await cluster.patch(
            resources.DEPLOYMENTS,
            "cart",
            {"spec": {"template": {"metadata": {"annotations": restart}}}},
            patch_type=PatchType.MERGE,
            namespace="shop",
        )

        async def replaced() -> bool:
            views = await pods_of(cluster, platform, fault)
            return len(views) == 3 and all(v.ready and v.uid not in fault.victims for v in views)

        await platform.supervisor.guard(until(replaced, seconds=60))

    async def resolved() -> bool:
        return bool(webhook.alerts("MemoryLeakPredicted", "resolved"))

    await platform.supervisor.guard(until(resolved, seconds=60))
    assert (await query(platform, OWNED))["cart"] < 0.7 * default_cluster().workloads[0].memory_limit
