"""bootstrap.sh on plain Kubernetes: what KServe and kube-prometheus may lack, and secrets before what needs them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clusterheal.kube.ports import Manifest, PatchType, Resource
from clusterheal.kube.resources import DEPLOYMENTS, NAMESPACES, PERSISTENT_VOLUME_CLAIMS
from tests.manifests.bootstrap_world import NAMESPACE, ROOT, World, definitions, served

pytestmark = pytest.mark.manifests
DEFINITIONS = (
    "monitoring.coreos.com_alertmanagerconfigs",
    "monitoring.coreos.com_prometheusrules",
    "monitoring.coreos.com_servicemonitors",
    "serving.kserve.io_inferenceservices",
    "serving.kserve.io_servingruntimes",
)
BOOTSTRAP = ("bootstrap.sh", "--environment", "development")
CONFIG_MAPS = Resource(group="", version="v1", plural="configmaps", kind="ConfigMap")


def named(kind: str, name: str, namespace: str | None = None, version: str = "v1", **fields: Any) -> Manifest:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}


def kserve(image: str, service: str) -> list[Manifest]:
    """KServe's controller and its settings, as its own manifests name them."""
    labels = {"control-plane": "kserve-controller-manager"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "manager", "image": image}]}}
    spec = {"selector": {"matchLabels": labels}, "template": pod}
    controller = named("Deployment", "kserve-controller-manager", "kserve", "apps/v1", spec=spec)
    controller["metadata"]["labels"] = labels
    return [
        named("Namespace", "kserve"),
        controller,
        named("ConfigMap", "inferenceservice-config", "kserve", data={"service": service}),
    ]


def policy_of_monitoring(name: str) -> Manifest:
    return named("NetworkPolicy", name, "monitoring", "networking.k8s.io/v1", spec={"podSelector": {}})


@pytest.fixture
async def world(tmp_path: Path, shared_dir: Path) -> AsyncIterator[World]:
    """The scripts are run in a copy of the project whose images are pinned."""
    root = tmp_path / "project"
    root.mkdir()
    for script in ("bootstrap.sh", "scripts/platform.sh"):
        (root / script).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / script, root / script)
    shutil.copytree(ROOT / "manifests", root / "manifests")
    images = root / "manifests/components/images/kustomization.yaml"
    images.write_text(re.sub("0{64}", "1" * 64, images.read_text()))
    async with served(tmp_path, definitions(shared_dir / "crds", DEFINITIONS)) as world:
        world.root = root
        yield world


async def test_what_kserve_and_kube_prometheus_lack_is_named_with_its_fix(world: World) -> None:
    world.emulator.load(kserve("kserve/kserve-controller:v0.15.2", '{\n  "serviceClusterIPNone": true\n}'))
    world.emulator.load([named("Namespace", "monitoring"), policy_of_monitoring("prometheus-k8s")])
    status, out = await world.run(*BOOTSTRAP)
    assert status == 1
    assert "platform vanilla-kubernetes" in out
    assert "FAIL  KServe 0.15" in out
    assert "fix: upgrade KServe" in out
    assert "FAIL  KServe's Services" in out
    assert re.search(
        r"warn  network policies of monitoring .*\n *fix: kubectl apply -k manifests/cluster/kube-prom", out
    )
    assert "2 checks failed; nothing was changed" in out
    fix = re.search(r"--type merge -p '(.*)'", out)
    assert fix is not None
    given = json.loads(fix[1])  # the fix does what it says
    where = {"namespace": "kserve", "patch_type": PatchType.MERGE}
    await world.cluster.patch(CONFIG_MAPS, "inferenceservice-config", given, **where)
    containers = [{"name": "manager", "image": "kserve/kserve-controller:v0.16.0"}]
    newer = {"spec": {"template": {"spec": {"containers": containers}}}}
    await world.cluster.patch(DEPLOYMENTS, "kserve-controller-manager", newer, **where)
    world.emulator.load([policy_of_monitoring("clusterheal")])
    status, out = await world.run(*BOOTSTRAP, "--dry-run")
    assert status == 0, out
    assert "ok    KServe 0.16" in out
    assert "network policies of monitoring" not in out
    assert not await world.exists(NAMESPACES, NAMESPACE)


async def test_it_stops_at_the_secrets_once_their_namespace_is_there_and_goes_on_with_them(world: World) -> None:
    world.emulator.load(kserve("kserve/kserve-controller:v0.16.0", "{}"))
    status, out = await world.run(*BOOTSTRAP)
    assert status == 1
    assert "FAIL  secrets                            not there: engine-alert-token model-storage" in out
    assert "workbench-token storage-config" in out
    assert await world.exists(PERSISTENT_VOLUME_CLAIMS, "self-healing-workbench")
    assert not await world.exists(DEPLOYMENTS, "coordination-engine")
    for name in ("engine-alert-token", "model-storage", "workbench-token", "storage-config"):
        world.emulator.load([named("Secret", name, NAMESPACE)])
    status, out = await world.run(*BOOTSTRAP)
    assert status == 0, out
    assert "FAIL" not in out
    assert await world.exists(DEPLOYMENTS, "coordination-engine")
