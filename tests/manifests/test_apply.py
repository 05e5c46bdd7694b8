"""An API server takes every variant: the emulator, and the one that CLUSTERHEAL_TEST_KUBECONFIG names.

The namespace is made for real, since nothing can be tried in one that does not exist, and removed; everything else is a
server-side apply in a dry run. Kinds that the server does not know are left out, and named.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterheal.local.kube.emulator import Emulator, serve
from tests.manifests.rendering import (
    MANIFESTS,
    OPTIONS,
    OVERLAYS,
    PLATFORMS,
    Manifest,
    Variants,
    kustomize,
    label,
)

pytestmark = pytest.mark.manifests
KUBECONFIG = "CLUSTERHEAL_TEST_KUBECONFIG"
SERVERS: list[Any] = ["emulator"]
if os.environ.get(KUBECONFIG):
    SERVERS.append(pytest.param("real", marks=pytest.mark.cluster))


class Kubectl:
    """The real client against one server."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags

    def run(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", *self._flags, *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)

    def served(self) -> set[tuple[str, str]]:
        """(apiVersion, kind) of all that the server knows; `api-resources` names the preferred version only."""
        resources, versions = self.run("api-resources", "--no-headers"), self.run("api-versions")
        assert resources.returncode == versions.returncode == 0, resources.stderr + versions.stderr
        rows = [line.split() for line in resources.stdout.splitlines()]
        kinds = {(row[-3].rpartition("/")[0], row[-1]) for row in rows}
        return {(v, kind) for v in versions.stdout.split() for group, kind in kinds if v.rpartition("/")[0] == group}


@pytest.fixture(scope="module", params=SERVERS)
def kubectl(request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    if request.param == "real":
        yield Kubectl("--kubeconfig", os.environ[KUBECONFIG])
        return
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []
    stop = asyncio.Event()

    async def work() -> None:
        async with serve(Emulator(seed=1)) as url:
            address.append(url)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(work(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield Kubectl("--server", address[0])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


@pytest.fixture(scope="module")
def definitions(kubectl: Kubectl) -> Iterator[None]:
    """Our own definitions, where the server lacks them, so that our own kinds are tried, too."""
    text = yaml.safe_dump_all(kustomize(MANIFESTS / "cluster/crds"))
    had = ("clusterheal.io/v1alpha1", "Incident") in kubectl.served()
    if not had:
        done = kubectl.run("apply", "--server-side", "-f", "-", text=text)
        assert done.returncode == 0, done.stderr
    yield
    if not had:
        kubectl.run("delete", "-f", "-", "--wait=false", text=text)


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"clusterheal-test-{uuid.uuid4().hex[:8]}"
    done = kubectl.run("create", "-f", "-", text=json.dumps(_namespace(name)))
    assert done.returncode == 0, done.stderr
    yield name
    kubectl.run("delete", "namespace", name, "--wait=false")


def _namespace(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def try_out(kubectl: Kubectl, objects: list[Manifest], namespace: str | None) -> set[str]:
    """Apply as a dry run what the server knows; returns labels of what it took."""
    served = kubectl.served()
    known = [o for o in objects if (o["apiVersion"], o["kind"]) in served and o["kind"] != "Namespace"]
    absent = sorted({o["kind"] for o in objects if (o["apiVersion"], o["kind"]) not in served})
    if absent:
        warnings.warn(f"not tried, since the server does not know them: {', '.join(absent)}", stacklevel=2)
    text = yaml.safe_dump_all(known)
    flags = ["--namespace", namespace] if namespace else []
    done = kubectl.run(
        "apply", "--server-side", "--dry-run=server", "--force-conflicts", *flags, "-o", "name", "-f", "-", text=text
    )
    assert done.returncode == 0, done.stderr
    taken = done.stdout.split()
    assert len(taken) == len(known)
    return {label(o) for o in known}


@pytest.mark.parametrize("options", [(), OPTIONS], ids=["as it stands", "all options"])
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_server_takes_every_overlay(
    variants: Variants,
    kubectl: Kubectl,
    definitions: None,
    namespace: str,
    name: str,
    platform: str,
    options: tuple[str, ...],
) -> None:
    folder = variants.folder(name, platform, options)
    moved = folder.parent / f"{namespace}-{name}"
    _copy_with_namespace(folder, moved, namespace)
    taken = try_out(kubectl, kustomize(moved), namespace)
    assert {"Deployment/coordination-engine", "Role/self-healing-operator", "Service/coordination-engine"} <= taken


def _copy_with_namespace(folder: Path, target: Path, namespace: str) -> None:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_text(file.read_text())
    content = yaml.safe_load((target / "kustomization.yaml").read_text())
    (target / "kustomization.yaml").write_text(yaml.safe_dump(content | {"namespace": namespace}))


def test_the_server_takes_the_administrator_s_layer(kubectl: Kubectl) -> None:
    taken = try_out(kubectl, kustomize(MANIFESTS / "cluster/vanilla-kubernetes"), None)
    assert "CustomResourceDefinition/incidents.clusterheal.io" in taken
    assert "ClusterRole/clusterheal-engine-read" in taken


def test_a_wrong_object_is_refused(kubectl: Kubectl, namespace: str) -> None:
    wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Not_A_Name", "namespace": namespace}}
    done = kubectl.run("apply", "--server-side", "--dry-run=server", "-f", "-", text=json.dumps(wrong))
    assert done.returncode != 0
