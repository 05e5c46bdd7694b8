"""ServiceMonitors that user workload monitoring takes, and that find what they are meant to scrape."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
REFUSED = {"bearerTokenFile", "caFile", "certFile", "keyFile"}  # files of Prometheus' own pod

pytestmark = pytest.mark.manifests


@pytest.fixture(scope="module", params=["development", "production"])
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    path = ROOT / "manifests/overlays" / request.param
    done = subprocess.run(["kubectl", "kustomize", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def predictors() -> dict[str, Any]:
    path = ROOT / "manifests/components/model-server-monitor/service-monitor.yaml"
    return dict(yaml.safe_load(path.read_text()))


def keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {k for v in value.values() for k in keys(v)}
    return {k for v in value for k in keys(v)} if isinstance(value, list) else set()


def test_user_workload_monitoring_takes_them(objects: list[dict[str, Any]]) -> None:
    monitors = [o for o in objects if o["kind"] == "ServiceMonitor"]
    assert [m["metadata"]["name"] for m in monitors] == ["coordination-engine"]
    for monitor in (*monitors, predictors()):
        assert "namespaceSelector" not in monitor["spec"]
        assert not REFUSED & keys(monitor)
        for endpoint in monitor["spec"]["endpoints"]:
            if endpoint.get("scheme") == "https":
                tls = endpoint["tlsConfig"]
                assert tls["ca"]["configMap"] == {"name": "openshift-service-ca.crt", "key": "service-ca.crt"}
                namespace = monitor["metadata"]["namespace"]
                assert tls["serverName"] == f"coordination-engine.{namespace}.svc"


def test_the_engine_s_monitor_selects_its_service_and_port(objects: list[dict[str, Any]]) -> None:
    (monitor,) = [o for o in objects if o["kind"] == "ServiceMonitor"]
    services = [o for o in objects if o["kind"] == "Service"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = [s for s in services if wanted <= s["metadata"]["labels"].items()]
    ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
    (deployment,) = [o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] == "coordination-engine"]
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    named = {p["name"]: p["containerPort"] for c in pod["spec"]["containers"] for p in c["ports"]}
    assert all(ports[e["port"]] in named for e in monitor["spec"]["endpoints"])


def test_the_predictors_monitor_scrapes_the_model_server_s_port(objects: list[dict[str, Any]]) -> None:
    (runtime,) = [o for o in objects if o["kind"] == "ServingRuntime"]
    declared = {p["containerPort"] for c in runtime["spec"]["containers"] for p in c["ports"]}
    assert {e["targetPort"] for e in predictors()["spec"]["endpoints"]} <= declared
    services = {o["metadata"]["name"] for o in objects if o["kind"] == "InferenceService"}
    (expression,) = predictors()["spec"]["selector"]["matchExpressions"]
    assert set(expression["values"]) == services


def test_the_webhook_s_address_is_the_engine_in_its_namespace(objects: list[dict[str, Any]]) -> None:
    (config,) = [o for o in objects if o["kind"] == "AlertmanagerConfig"]
    urls = [w["url"] for r in config["spec"]["receivers"] for w in r.get("webhookConfigs", ())]
    (service,) = [o for o in objects if o["kind"] == "Service" and o["metadata"]["name"] == "coordination-engine"]
    (port,) = service["spec"]["ports"]
    namespace = config["metadata"]["namespace"]
    assert [url.split("://")[1] for url in urls] == [f"coordination-engine.{namespace}.svc:{port['port']}/alerts"]
