"""The AlertmanagerConfig as the Prometheus operator renders it, in a real Alertmanager, delivering to a real engine."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from clusterheal.local import demo_platform
from clusterheal.local.demo_config import NAMESPACE
from clusterheal.local.demo_platform import Platform
from clusterheal.local.processes import ChildSpec
from clusterheal.local.supervisor import http_ready
from scripts.monitoring.filled import generated_platform

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "manifests/base/monitoring/alertmanager-config.yaml"
ENGINE, NOBODY = f"{NAMESPACE}/coordination-engine/coordination-engine", f"{NAMESPACE}/coordination-engine/nobody"
TOKEN = "a-token-of-this-test"


def snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda m: "_" + m.group(1).lower(), name)


def route(given: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in given.items():
        if key == "routes":
            made["routes"] = [route(r) for r in value]
        elif key == "matchers":
            made["matchers"] = [f'{m["name"]}{m["matchType"]}"{m["value"]}"' for m in value]
        elif key == "receiver":
            made["receiver"] = f"{NAMESPACE}/coordination-engine/{value}"
        else:
            made[snake(key)] = value
    return made


def rendered(url: str, token: str) -> dict[str, Any]:
    """`alertmanager.yml`: the operator puts the object's name before its receivers and a namespace before its route."""
    spec = yaml.safe_load(SOURCE.read_text())["spec"]
    own = route(spec["route"])
    own["matchers"] = [f'namespace="{NAMESPACE}"']
    own["continue"] = True
    receivers: list[dict[str, Any]] = [{"name": "platform"}]
    for receiver in spec["receivers"]:
        made: dict[str, Any] = {"name": f"{NAMESPACE}/coordination-engine/{receiver['name']}"}
        for webhook in receiver.get("webhookConfigs", ()):
            secret = webhook["httpConfig"]["authorization"]
            assert secret["credentials"] == {"name": "engine-alert-token", "key": "token"}
            config = {
                "url": url,
                "send_resolved": webhook["sendResolved"],
                "max_alerts": webhook["maxAlerts"],
                "http_config": {"authorization": {"type": secret["type"], "credentials": token}},
            }
            made.setdefault("webhook_configs", []).append(config)
        receivers.append(made)
    return {"route": {"receiver": "platform", "routes": [own]}, "receivers": receivers}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "alertmanager.yml"
    path.write_text(yaml.safe_dump(rendered("http://coordination-engine:8090/alerts", TOKEN)))
    return path


def amtool(*arguments: str) -> str:
    done = subprocess.run(["amtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def receivers(config: Path, **labels: str) -> list[str]:
    pairs = [f"{k}={v}" for k, v in labels.items()]
    return amtool("config", "routes", "test", f"--config.file={config}", *pairs).strip().split(",")


@pytest.mark.local
def test_alertmanager_accepts_it(config: Path) -> None:
    assert "SUCCESS" in amtool("check-config", str(config))


@pytest.mark.local
@pytest.mark.parametrize(
    "label", ["model_name", "deployment", "pod", "persistentvolumeclaim", "job_name", "workload", "node"]
)
def test_alerts_about_an_object_reach_the_engine_and_go_on_to_people(config: Path, label: str) -> None:
    got = receivers(config, alertname="X", namespace=NAMESPACE, **{label: "something"})
    assert got == [ENGINE]


@pytest.mark.local
def test_alerts_without_an_object_do_not_reach_the_engine(config: Path) -> None:
    assert receivers(config, alertname="CoordinationEngineDown", namespace=NAMESPACE) == [NOBODY]
    assert receivers(config, alertname="X", namespace="other", pod="p") == ["platform"]


@pytest.mark.local
@pytest.mark.timeout(180)
async def test_a_real_alertmanager_delivers_firing_and_resolved_to_a_real_engine(tmp_path: Path) -> None:
    async with generated_platform(tmp_path / "out") as platform:
        platform.places.alert_token.write_text(TOKEN)
        await demo_platform.start_kubernetes(platform)
        await demo_platform.start_engine(platform)
        await start_alertmanager(platform)
        await platform.supervisor.guard(deliver(platform))


async def start_alertmanager(platform: Platform) -> None:
    config = rendered(f"http://127.0.0.1:{platform.ports.engine}/alerts", TOKEN)
    own = config["route"]["routes"][0]
    own.update(group_wait="100ms", group_interval="1s")  # a test has no half minute to wait
    config["route"] |= {"group_wait": "100ms", "group_interval": "1s"}
    path = platform.places.out / "alertmanager.yml"
    path.write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{platform.ports.alertmanager}"
    child = ChildSpec(
        name="alertmanager",
        argv=(
            "prometheus-alertmanager",
            f"--config.file={path}",
            f"--storage.path={platform.places.out / 'data'}",
            f"--web.listen-address={url.removeprefix('http://')}",
            "--cluster.listen-address=",
        ),
    )
    await platform.supervisor.start(child, ready=lambda: http_ready(f"{url}/-/ready"))


async def deliver(platform: Platform) -> None:
    """One alert about a node and one about nothing; the engine hears of the first alone, and of its end."""
    labels = {"alertname": "PlatformMemoryHigh", "namespace": NAMESPACE, "severity": "warning"}
    away = {**labels, "alertname": "CoordinationEngineDown"}
    async with httpx.AsyncClient(timeout=10) as client:
        api = f"http://127.0.0.1:{platform.ports.alertmanager}/api/v2/alerts"
        named = {**labels, "node": "worker-0"}
        began = datetime.now(UTC).isoformat()
        firing = [{"labels": own, "startsAt": began} for own in (named, away)]
        (await client.post(api, json=firing)).raise_for_status()
        assert await counted(client, platform, 'clusterheal_signals_total{outcome="stored",source="alert"}') == 1.0
        ended = [{"labels": named, "startsAt": began, "endsAt": datetime.now(UTC).isoformat()}]
        (await client.post(api, json=ended)).raise_for_status()
        assert await counted(client, platform, 'clusterheal_signals_total{outcome="stored",source="alert"}', 2.0) == 2.0
        assert (
            await counted(client, platform, 'clusterheal_signals_total{outcome="unmapped",source="alert"}', 0.0) == 0.0
        )


async def counted(client: httpx.AsyncClient, platform: Platform, series: str, wanted: float = 1.0) -> float:
    """The counter's value, once it is what is wanted or half a minute is over."""
    deadline, value = time.monotonic() + 30, 0.0
    while time.monotonic() < deadline:
        text = (await client.get(f"http://127.0.0.1:{platform.ports.engine}/metrics")).text
        found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
        value = float(found.group(1)) if found else 0.0
        if value == wanted:
            break
        await asyncio.sleep(0.3)
    return value
