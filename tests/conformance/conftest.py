"""One `cluster` fixture over every way to a Kubernetes API; each test gets a namespace of its own.

`simulated` and `http` are the emulator's two fronts. `real` is the server that CLUSTERHEAL_TEST_KUBECONFIG names, with
the same tests unchanged: where it differs from the emulator, the emulator is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from clusterheal.kube.credentials import Credentials, from_kubeconfig
from clusterheal.kube.http import HttpCluster
from clusterheal.kube.ports import ApiError, ApiRetryable, Cluster, Manifest, Resource
from clusterheal.kube.resources import CUSTOM_RESOURCE_DEFINITIONS, NAMESPACES, NODES, PODS
from clusterheal.local.kube.controllers import Timing
from clusterheal.local.kube.emulator import Emulator, serve
from clusterheal.local.kube.platform import worker_nodes

sys.path.insert(0, str(Path(__file__).parent))  # test modules import `conformance_kit`
from conformance_kit import MANAGER, Define, eventually

KUBECONFIG = "CLUSTERHEAL_TEST_KUBECONFIG"
NEWEST = 99
FRONTS = ["simulated", "http"]
if os.environ.get(KUBECONFIG):
    FRONTS.append(pytest.param("real", marks=pytest.mark.cluster))  # type: ignore[arg-type]
INSTANT = Timing(start=timedelta(0), ready=timedelta(0), stop=timedelta(0))


def _real() -> HttpCluster:
    return HttpCluster(from_kubeconfig(Path(os.environ[KUBECONFIG])), manager=MANAGER)


@contextlib.asynccontextmanager
async def _open(front: str, *, controllers: bool) -> AsyncIterator[Cluster]:
    if front == "real":
        async with _real() as cluster:
            yield cluster
        return
    emulator = Emulator(seed=1, timing=INSTANT)
    if controllers:
        emulator.load(worker_nodes(2))
    if front == "http":
        async with (
            serve(emulator, controllers=controllers) as url,
            HttpCluster(Credentials(server=url), manager=MANAGER) as cluster,
        ):
            yield cluster
        return
    loop = asyncio.ensure_future(emulator.controllers.run(interval=0.02)) if controllers else None
    yield emulator.cluster(manager=MANAGER)
    if loop is not None:
        loop.cancel()


@pytest.fixture(params=FRONTS)
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """An API server; nothing else of a cluster is relied on, so that a bare kube-apiserver will do."""
    async with _open(request.param, controllers=False) as opened:
        yield opened


@pytest.fixture(params=FRONTS)
async def live_cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """A cluster whose controllers and nodes work; a real one without nodes is skipped."""
    async with _open(request.param, controllers=True) as opened:
        if not (await opened.list(NODES)).items:
            pytest.skip("the API server has no nodes, so that nothing would run")
        yield opened


@pytest.fixture
async def namespace(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    front: Cluster = request.getfixturevalue("live_cluster" if "live_cluster" in request.fixturenames else "cluster")
    name = f"clusterheal-conformance-{uuid.uuid4().hex[:8]}"
    await front.create(NAMESPACES, {"metadata": {"name": name}})
    yield name
    with contextlib.suppress(ApiError):
        await front.delete(NAMESPACES, name)


@pytest.fixture
async def server_minor(cluster: Cluster) -> int:
    """The server's minor version; the emulator answers as the newest does."""
    if not isinstance(cluster, HttpCluster):
        return NEWEST
    version = (await cluster._read("/version", {}))["gitVersion"]
    return NEWEST if "emulator" in version else int(version.split(".")[1])


@pytest.fixture
def pod_ready(cluster: Cluster, namespace: str) -> Callable[..., Awaitable[Manifest]]:
    """Makes a pod that no scheduler touches and says of itself that it runs and is ready."""

    async def make(name: str, labels: dict[str, str], *, ready: bool = True) -> Manifest:
        pod = await _create_pod(cluster, namespace, name, labels)
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        pod["status"] = {"phase": "Running", "conditions": conditions}
        return await cluster.update(PODS, pod, namespace=namespace, subresource="status")

    return make


async def _create_pod(cluster: Cluster, namespace: str, name: str, labels: dict[str, str]) -> Manifest:
    spec = {"schedulerName": "nobody", "containers": [{"name": "app", "image": "registry.k8s.io/pause:3.9"}]}
    body = {"metadata": {"name": name, "labels": labels}, "spec": spec}
    for _ in range(50):
        try:
            return await cluster.create(PODS, body, namespace=namespace)
        except ApiError as exc:
            # A new namespace's service account takes a moment where a controller manager makes it.
            if exc.status != 403 or "serviceaccount" not in exc.message:
                raise
        except ApiRetryable as exc:
            if "service account" not in str(exc):
                raise
        await asyncio.sleep(0.1)
    raise AssertionError("the namespace's default service account never came")


@pytest.fixture
async def define(cluster: Cluster) -> AsyncIterator[Define]:
    """Makes a custom resource type of its own group, and waits until it is served."""
    made: list[str] = []

    async def make(schema: Manifest, *, status: bool = True, **version: Any) -> Resource:
        group = f"t{uuid.uuid4().hex[:10]}.conformance.clusterheal.io"
        resource = Resource(group=group, version="v1", plural="widgets", kind="Widget")
        served = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, **version}
        if status:
            served["subresources"] = {"status": {}}
        names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
        spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [served]}
        name = f"widgets.{group}"
        await cluster.create(CUSTOM_RESOURCE_DEFINITIONS, {"metadata": {"name": name}, "spec": spec})
        made.append(name)
        await eventually(lambda: _served(cluster, resource))
        return resource

    yield make
    for name in made:
        with contextlib.suppress(ApiError):
            await cluster.delete(CUSTOM_RESOURCE_DEFINITIONS, name)


async def _served(cluster: Cluster, resource: Resource) -> bool:
    """A definition is established a moment before every endpoint answers."""
    try:
        await cluster.list(resource)
        with contextlib.suppress(ApiError):
            await cluster.get(resource, "nothing", namespace="default")
    except ApiError as exc:
        if exc.status == 404:
            return False
        raise
    return True
