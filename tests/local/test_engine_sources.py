"""The engine's polls against a real Prometheus and a real Alertmanager: alerts, their start, GPU errors, silences."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import AnyHttpUrl

from clusterheal.clock import SystemClock
from clusterheal.engine.measure import Measurements
from clusterheal.engine.signals.prometheus import poll
from clusterheal.engine.silence_reader import SilenceReader
from clusterheal.local.alertmanager import AlertmanagerSpec, start_alertmanager
from clusterheal.local.processes import ChildSpec
from clusterheal.local.supervisor import Supervisor, http_ready
from clusterheal.metrics.client import PrometheusClient
from clusterheal.settings import PrometheusSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "engine"))
from engine_kit import record, signal, snapshot, world

pytestmark = pytest.mark.local

RULES = """
groups:
  - name: test
    interval: 1s
    rules:
      - {alert: Watchdog, expr: vector(1), labels: {severity: none}}
      - {alert: MemoryLeakPredicted, expr: vector(1), labels: {namespace: shop, deployment: cart, severity: warning}}
      - {record: DCGM_FI_DEV_XID_ERRORS, expr: vector(31), labels: {Hostname: worker-0, gpu: "0"}}
      - record: DCGM_FI_DEV_XID_ERRORS
        expr: vector(119) + (vector(time()) % 4 >bool 2)
        labels: {Hostname: worker-1, gpu: "0"}
"""
CONFIG = "global: {evaluation_interval: 1s}\nrule_files: [rules.yml]\n"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def prometheus(supervisor: Supervisor, folder: Path, port: int) -> None:
    (folder / "rules.yml").write_text(RULES)
    (folder / "prometheus.yml").write_text(CONFIG)
    argv = (
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    )
    child = ChildSpec(name="prometheus", argv=argv)
    await supervisor.start(child, ready=lambda: http_ready(f"http://127.0.0.1:{port}/-/ready"), timeout_seconds=60)


def test_firing_alerts_and_changed_xids_are_read_from_a_real_server(tmp_path: Path) -> None:
    async def test() -> None:
        port = free_port()
        async with Supervisor(logs=tmp_path / "logs") as supervisor:
            await prometheus(supervisor, tmp_path, port)
            settings = PrometheusSettings(url=AnyHttpUrl(f"http://127.0.0.1:{port}"), attempts=1)
            async with PrometheusClient(settings) as client:
                for _ in range(40):
                    found = await poll(client, snapshot(), frozenset())
                    if len(found.signals) == 2:
                        break
                    await asyncio.sleep(0.5)
                alert, gpu = sorted(found.signals, key=lambda s: s.name != "MemoryLeakPredicted")
                assert str(alert.target) == "Deployment shop/cart"
                assert abs(datetime.now(UTC) - alert.starts_at) < timedelta(minutes=1)
                assert str(gpu.target) == "Node worker-1", "the other gauge has not changed"
                assert gpu.details["xid_class"] == "hardware"
                asked = world(record(signal("oom-killed")))
                assert (await Measurements(client)(asked)).usage == {}, "valid PromQL, and no such series"
        refused = PrometheusSettings(url=AnyHttpUrl(f"http://127.0.0.1:{port}"), attempts=1)
        async with PrometheusClient(refused) as client:
            assert "cannot connect" in str((await poll(client, snapshot(), frozenset())).problem)

    asyncio.run(test())


def test_silences_are_read_from_a_real_alertmanager(tmp_path: Path) -> None:
    async def test() -> None:
        port = free_port()
        token = tmp_path / "token"
        token.write_text("t")
        spec = AlertmanagerSpec(folder=tmp_path / "am", port=port, webhook_url="http://127.0.0.1:9/", token_file=token)
        async with Supervisor(logs=tmp_path / "logs") as supervisor:
            await start_alertmanager(supervisor, spec)
            reader = SilenceReader(spec.url, PrometheusSettings(token_file=token), SystemClock())
            assert (await reader.read()).known == ()
            await asyncio.to_thread(_silence, spec.url)
            known = (await reader.read()).known
            now = datetime.now(UTC)
            assert len(known) == 1
            assert known[0].covers({"namespace": "shop", "alertname": "X"}, now)
            assert not known[0].covers({"namespace": "other"}, now)
            assert not known[0].covers({"namespace": "shop"}, now + timedelta(hours=2))
        gone = await reader.read()
        assert gone.problem is not None
        assert gone.known == known, "what was known stays known"
        await reader.aclose()

    asyncio.run(test())


def _silence(url: str) -> None:
    now = datetime.now(UTC)
    body = {
        "matchers": [{"name": "namespace", "value": "sh.p", "isRegex": True, "isEqual": True}],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(hours=1)).isoformat(),
        "createdBy": "ann",
        "comment": "moving the database",
    }
    request = urllib.request.Request(
        f"{url}/api/v2/silences", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200
