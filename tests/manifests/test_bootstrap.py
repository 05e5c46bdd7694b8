"""bootstrap.sh, validate_bootstrap.sh and teardown.sh, against the emulator that serves the real definitions.

No operator runs there: `Operators` plays what they write into statuses. Engine, model server and Prometheus are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from clusterheal_models.serving.toy import toy_detector, toy_forecaster

from clusterheal.contracts import EntityKind, FeatureContract, FeatureSpec, WindowSpec
from clusterheal.kube.ports import PatchType, Resource
from clusterheal.kube.resources import DEPLOYMENTS, INFERENCE_SERVICES, NAMESPACES, PERSISTENT_VOLUME_CLAIMS
from tests.manifests.bootstrap_world import NAMESPACE, ROOT, World, definitions, served

SCRIPTS = ("bootstrap.sh", "validate_bootstrap.sh", "teardown.sh", "scripts/platform.sh", "scripts/setup.sh", ".ci/run")
DEFINITIONS = (
    "config.openshift.io_clusterversions",
    "datasciencecluster.opendatahub.io_datascienceclusters",
    "datasciencepipelinesapplications.opendatahub.io_datasciencepipelinesapplications",
    "kubeflow.org_notebooks",
    "monitoring.coreos.com_alertmanagerconfigs",
    "monitoring.coreos.com_prometheusrules",
    "monitoring.coreos.com_servicemonitors",
    "monitoring.openshift.io_alertingrules",
    "serving.kserve.io_inferenceservices",
    "serving.kserve.io_servingruntimes",
)
DSPA = Resource(
    group="datasciencepipelinesapplications.opendatahub.io",
    version="v1",
    plural="datasciencepipelinesapplications",
    kind="DataSciencePipelinesApplication",
)
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Played",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}

pytestmark = pytest.mark.manifests


@pytest.fixture
async def world(tmp_path: Path, shared_dir: Path) -> AsyncIterator[World]:
    """With user workload monitoring, storage and OpenShift AI 3.x; images stay placeholders."""
    openshift = yaml.safe_load_all((Path(__file__).parent / "openshift-world.yaml").read_text())
    async with served(tmp_path, definitions(shared_dir / "crds", DEFINITIONS), openshift) as world:
        yield world


@contextlib.asynccontextmanager
async def operators(world: World) -> AsyncIterator[None]:
    """Whatever appears of DSPA and InferenceServices becomes Ready."""

    async def play() -> None:
        while True:
            for resource in (DSPA, INFERENCE_SERVICES):
                for o in (await world.cluster.list(resource)).items:
                    if not o.get("status"):
                        where = {"namespace": o["metadata"]["namespace"], "subresource": "status"}
                        status = {"status": {"conditions": [READY]}}
                        await world.cluster.patch(
                            resource, o["metadata"]["name"], status, patch_type=PatchType.MERGE, **where
                        )
            await asyncio.sleep(0.1)

    task = asyncio.create_task(play())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def install(world: World, *arguments: str) -> str:
    async with operators(world):
        status, out = await world.run(
            "bootstrap.sh", "--environment", "development", "--skip-checks", "--timeout", "60", *arguments
        )
    assert status == 0, out
    return out


def test_scripts_are_clean_for_shellcheck() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not on PATH (Debian package shellcheck)")
    done = subprocess.run(["shellcheck", "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["bootstrap.sh", "validate_bootstrap.sh", "teardown.sh"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--environment is missing"),
        (["--environment", "staging-7"], "no environment staging-7; there are: development production"),
        (["--environment"], "needs a value"),
        (["--environment", "development", "--component", "gpus"], "no component gpus; there are:"),
        (["--environment", "development", "--enviroment"], "unknown argument --enviroment"),
    ],
)
def test_wrong_arguments_are_named(script: str, arguments: list[str], said: str) -> None:
    done = subprocess.run([str(ROOT / script), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr


def test_no_server_is_said(tmp_path: Path) -> None:
    environment = {**os.environ, "KUBECONFIG": str(tmp_path / "none")}
    command = [str(ROOT / "bootstrap.sh"), "--environment", "development"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "no API server answers" in done.stderr


async def test_checks_name_the_fix_and_nothing_is_changed(world: World) -> None:
    await world.cluster.delete(_storage_classes(), "standard")
    status, out = await world.run("bootstrap.sh", "--environment", "development")
    assert status == 1
    assert "FAIL  storage class standard" in out
    assert "fix: install it, or name another one in the overlay" in out
    assert "its digest is the placeholder" in out
    assert "nothing was changed" in out
    assert not await world.exists(NAMESPACES, NAMESPACE)


def _storage_classes() -> Resource:
    return Resource(
        group="storage.k8s.io", version="v1", plural="storageclasses", kind="StorageClass", namespaced=False
    )


DRY_RUN = ("bootstrap.sh", "--environment", "development", "--dry-run", "--skip-checks")


async def test_a_dry_run_changes_nothing(world: World) -> None:
    status, out = await world.run(*DRY_RUN)
    assert status == 0, out
    assert "platform rhoai-3x, dry run: nothing is changed" in out
    assert "cannot be checked before the layers above it are there" in out
    assert not await world.exists(NAMESPACES, NAMESPACE)


async def test_a_run_that_stopped_is_resumed_and_a_second_one_changes_nothing(world: World) -> None:
    status, out = await world.run(
        "bootstrap.sh", "--environment", "development", "--skip-checks", "--timeout", "2"
    )  # no operator makes the pipelines' server ready
    assert status == 1
    assert "FAIL  layer pipelines" in out
    assert "stopped: a layer failed" in out
    assert not await world.exists(DEPLOYMENTS, "coordination-engine")
    assert "10 ok" not in out
    await install(world)
    before = await _versions(world)
    assert len(before) >= 5
    await install(world)
    status, out = await world.run(*DRY_RUN)  # which is complete, now that all is there
    assert status == 0, out
    assert out.count("objects pass the server's checks") == 10
    assert await _versions(world) == before


async def _versions(world: World) -> dict[str, str]:
    """By uid the generation, or for kinds without one the resourceVersion: what a write would change."""
    kinds = (DEPLOYMENTS, INFERENCE_SERVICES, DSPA, _roles())
    found = [o["metadata"] for kind in kinds for o in (await world.cluster.list(kind, namespace=NAMESPACE)).items]
    return {m["uid"]: str(m.get("generation") or m["resourceVersion"]) for m in found}


def _roles() -> Resource:
    return Resource(group="rbac.authorization.k8s.io", version="v1", plural="roles", kind="Role")


async def test_one_layer_and_a_component_can_be_chosen(world: World) -> None:
    out = await install(world, "--layer", "cluster", "--layer", "namespace", "--layer", "access")
    assert "layer engine" not in out
    assert not await world.exists(DEPLOYMENTS, "coordination-engine")
    out = await install(world, "--component", "remediation-enforce", "--layer", "engine")
    engine = await world.cluster.get(DEPLOYMENTS, "coordination-engine", namespace=NAMESPACE)
    variables = {e["name"]: e.get("value") for e in engine["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert variables["CLUSTERHEAL_ENGINE__MODE"] != "observe"
    assert not list((ROOT / "manifests/overlays").glob(".bootstrap-*")), "the copy of the overlay is removed"


async def test_teardown_asks_and_keeps_data(world: World) -> None:
    await install(world)
    status, out = await world.run("teardown.sh", "--environment", "development", answer="no\n")
    assert status == 1
    assert "nothing was removed" in out
    assert await world.exists(DEPLOYMENTS, "coordination-engine")
    status, out = await world.run("teardown.sh", "--environment", "development", "--dry-run")
    assert status == 0
    assert await world.exists(DEPLOYMENTS, "coordination-engine")
    status, out = await world.run("teardown.sh", "--environment", "development", answer=f"{NAMESPACE}\n")
    assert status == 0, out
    assert not await world.exists(DEPLOYMENTS, "coordination-engine")
    assert not await world.exists(INFERENCE_SERVICES, "anomaly-detector")
    assert await world.exists(PERSISTENT_VOLUME_CLAIMS, "self-healing-workbench")
    assert await world.exists(NAMESPACES, NAMESPACE)
    status, out = await world.run("teardown.sh", "--environment", "development", "--yes", "--delete-data")
    assert status == 0, out
    assert not await world.exists(PERSISTENT_VOLUME_CLAIMS, "self-healing-workbench")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.asynccontextmanager
async def running(url: str, *command: str, log: Path) -> AsyncIterator[None]:
    """A process while the context is open, once `url` answers 200."""
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out)
        try:
            async with httpx.AsyncClient(trust_env=False) as http:
                for _ in range(300):
                    assert process.returncode is None, log.read_text()[-2000:]
                    with contextlib.suppress(httpx.TransportError):
                        if (await http.get(url)).status_code == 200:
                            break
                    await asyncio.sleep(0.2)
                else:
                    raise AssertionError(f"{url} did not answer: {log.read_text()[-2000:]}")
            yield
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


async def unreadable(engine: str, wanted: set[str]) -> None:
    """Wait until these are what the engine cannot read."""
    async with httpx.AsyncClient(trust_env=False, base_url=engine) as http:
        for _ in range(150):
            found = (await http.get("/api/v1/status")).json()["unreadable"]
            if set(found) == wanted:
                return
            await asyncio.sleep(0.2)
    raise AssertionError(f"expected {wanted} to be unreadable, found {found}")


def contract() -> FeatureContract:
    return FeatureContract(
        entity_kinds=(EntityKind(name="node", labels=("node",)),),
        features=(FeatureSpec(name="f", promql="up", unit="1", entity_kind="node"),),
        step=timedelta(seconds=60),
        window=WindowSpec(
            recent_steps=8, season_steps=24, season_lags=(1,), seasonal_before=0, seasonal_steps=5, horizon_steps=4
        ),
    )


def prometheus_config(folder: Path, engine_port: int) -> Path:
    """Scrapes the engine, and loads the alerts of the overlay."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "manifests/overlays/development")], capture_output=True, check=True
    )
    rules = [d["spec"] for d in yaml.safe_load_all(done.stdout) if d["kind"] == "PrometheusRule"]
    for i, spec in enumerate(rules):
        (folder / f"rules-{i}.yml").write_text(yaml.safe_dump(spec))
    target = {"targets": [f"127.0.0.1:{engine_port}"], "labels": {"namespace": NAMESPACE}}
    config = {
        "global": {"scrape_interval": "1s"},
        "rule_files": ["rules-*.yml"],
        "scrape_configs": [{"job_name": "engine", "static_configs": [target]}],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.mark.local
async def test_validation_passes_on_what_works_and_names_what_does_not(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await install(world)
    engine, models, prometheus, alertmanager = (free_port() for _ in range(4))
    packages = [
        str(toy_detector(tmp_path / "anomaly-detector/v000001", contract(), alarm_score=30.0).path),
        str(toy_forecaster(tmp_path / "predictive-analytics/v000001", contract()).path),
    ]
    cli = (sys.executable, "-m", "clusterheal.cli")
    urls = [f"http://127.0.0.1:{port}" for port in (engine, models, prometheus, alertmanager)]
    config = prometheus_config(tmp_path, engine)
    engine_command = (*cli, "engine", "--kubeconfig", str(world.kubeconfig), "--namespace", NAMESPACE)
    engine_command += ("--host", "127.0.0.1", "--port", str(engine), "--allow-anonymous", "--interval", "1")
    monkeypatch.setenv("CLUSTERHEAL_PROMETHEUS__URL", urls[2])
    monkeypatch.setenv("CLUSTERHEAL_ENGINE__ALERTMANAGER_URL", urls[3])
    serve_command = (*cli, "serve", "--package", packages[0], "--package", packages[1])
    serve_command += ("--http-port", str(models), "--grpc-port", "0")
    prometheus_command = ("prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}")
    prometheus_command += (f"--web.listen-address=127.0.0.1:{prometheus}",)
    (tmp_path / "alertmanager.yml").write_text("{route: {receiver: nobody}, receivers: [{name: nobody}]}")
    alertmanager_command = ("prometheus-alertmanager", f"--config.file={tmp_path / 'alertmanager.yml'}")
    alertmanager_command += (f"--storage.path={tmp_path / 'alerts'}", "--cluster.listen-address=")
    alertmanager_command += (f"--web.listen-address=127.0.0.1:{alertmanager}",)
    validate = ("validate_bootstrap.sh", "--environment", "development", "--engine-url", urls[0])
    validate += ("--detector-url", urls[1], "--forecaster-url", urls[1], "--prometheus-url", urls[2])
    async with (
        operators(world),
        running(f"{urls[0]}/readyz", *engine_command, log=tmp_path / "engine.log"),
        running(f"{urls[2]}/-/ready", *prometheus_command, log=tmp_path / "prometheus.log"),
    ):
        async with (
            running(f"{urls[1]}/v2/models/anomaly-detector/ready", *serve_command, log=tmp_path / "serve.log"),
            running(f"{urls[3]}/-/ready", *alertmanager_command, log=tmp_path / "alertmanager.log"),
        ):
            await asyncio.sleep(3)  # two scrapes
            await unreadable(urls[0], set())
            status, out = await world.run(*validate)
            assert status == 0, out
            for line in (
                "ok    engine round trip",
                "ok    engine sources",
                "ok    metrics",
                "ok    alerts",
                "ok    deployment coordination-engine",
            ):
                assert line in out, out
            answers = [line for line in out.splitlines() if "answers with" in line]
            assert ["score" in answers[0], "quantiles" in answers[1]] == [True, True], out
        await world.cluster.delete(DEPLOYMENTS, "coordination-engine", namespace=NAMESPACE)
        await unreadable(urls[0], {"silences"})
        status, out = await world.run(*validate)
    assert status == 1
    assert "FAIL  engine reads silences" in out
    assert "FAIL  Deployment coordination-engine" in out
    assert "FAIL  anomaly-detector" in out
    assert "ok    alerts" in out
