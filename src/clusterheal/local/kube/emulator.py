"""A whole emulated cluster: API server, controllers, fronts, and the objects it starts with."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import yaml

from clusterheal.clock import Clock, SystemClock
from clusterheal.errors import InvalidInput
from clusterheal.kube.documents import KubernetesLoader
from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.access import ADMIN, AccessControl, User
from clusterheal.local.kube.adapter import SimulatedCluster
from clusterheal.local.kube.api import ApiServer
from clusterheal.local.kube.controllers import Controllers, FaultHook, Timing
from clusterheal.local.kube.defaults import apply_defaults
from clusterheal.local.kube.kinds import ResourceType
from clusterheal.local.kube.objects import check_identity, stamp_new
from clusterheal.local.kube.platform import platform_definitions
from clusterheal.local.kube.store import clone


class Emulator:
    """One store with its fronts and controllers. `seed` decides uids and generated names, `clock` every time.

    `platform_types` serves the OpenShift, KServe and GitOps types with open schemas.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        seed: int = 0,
        access: AccessControl | None = None,
        timing: Timing | None = None,
        faults: FaultHook | None = None,
        platform_types: bool = True,
        history: int = 10_000,
    ) -> None:
        self.clock = clock or SystemClock()
        self.api = ApiServer(clock=self.clock, rng=random.Random(seed), access=access, history=history)
        self.controllers = Controllers(self.api, timing=timing, faults=faults)
        if platform_types:
            self.load(platform_definitions())

    def cluster(self, *, user: User = ADMIN, manager: str = "clusterheal") -> SimulatedCluster:
        """The in-process front for one identity."""
        return SimulatedCluster(self.api, user=user, manager=manager)

    def load(self, manifests: Iterable[Manifest]) -> list[Manifest]:
        """Put objects in as they are, status included; missing namespaces are made. For building a world.

        Raises:
            InvalidInput: a kind that is not served.
        """
        return [self._load(manifest) for manifest in manifests]

    def _load(self, manifest: Manifest) -> Manifest:
        obj = clone(manifest)
        kind = self.api.catalogue.of_kind(obj.get("apiVersion", ""), obj.get("kind", ""))
        if kind is None:
            raise InvalidInput(
                f"the emulator serves no {obj.get('kind')} of {obj.get('apiVersion')}; load its CRD first"
            )
        if kind.key == "customresourcedefinitions.apiextensions.k8s.io":
            return self._define(kind, obj)
        namespace = obj.get("metadata", {}).get("namespace") or "default"
        if kind.resource.namespaced and self.api.store.get("namespaces", "", namespace) is None:
            self._load({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        check_identity(kind, namespace if kind.resource.namespaced else "", None, obj)
        stamp_new(obj, self.api.stamp)
        if kind.generation_of or kind.custom:
            obj["metadata"]["generation"] = 1
        apply_defaults(kind, obj)
        return clone(self.api.writer.store_as_is(kind, obj))

    def _define(self, kind: ResourceType, obj: Manifest) -> Manifest:
        """Create a definition, or replace the one of that name."""
        present = self.api.store.get(kind.key, "", obj["metadata"]["name"])
        if present is None:
            return self.api.create(kind, None, obj)
        obj["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
        return self.api.update(kind, None, obj["metadata"]["name"], obj)

    def load_files(self, directory: Path) -> list[Manifest]:
        """Load what `read_manifests` finds.

        Raises:
            InvalidInput: no such directory, or a file that is not YAML.
        """
        return self.load(read_manifests(directory))


def read_manifests(directory: Path) -> list[Manifest]:
    """Every YAML document below a directory, custom resource definitions first.

    Raises:
        InvalidInput: no such directory, or a file that is not YAML.
    """
    if not directory.is_dir():
        raise InvalidInput(f"expected a directory of manifests, got {directory}")
    found = [doc for file in sorted(directory.rglob("*.yaml")) for doc in _documents(file)]
    found = [doc for doc in found if doc.get("kind") != "Kustomization"]
    return sorted(found, key=lambda doc: doc.get("kind") != "CustomResourceDefinition")


def _documents(file: Path) -> Iterator[Manifest]:
    try:
        for document in yaml.load_all(file.read_text(), Loader=KubernetesLoader):
            if isinstance(document, dict) and document.get("kind"):
                yield document
    except yaml.YAMLError as exc:
        raise InvalidInput(f"{file} is not YAML: {exc}") from exc


@contextlib.asynccontextmanager
async def serve(
    emulator: Emulator, *, host: str = "127.0.0.1", port: int = 0, controllers: bool = True
) -> AsyncIterator[str]:
    """The HTTP front, and the controllers, while the context is open; yields its root URL. `port` 0 takes a free one.

    Raises:
        InvalidInput: the port is taken.
    """
    import asyncio

    import uvicorn

    from clusterheal.local.kube.server import KubeApp

    class Embedded(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # the process's signals belong to whoever embeds the server

    # Without the explicit protocol asyncio leaves Nagle's algorithm on: 40 ms per answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        raise InvalidInput(f"the emulator cannot listen on {host}:{port}: {exc}; choose another port or 0") from exc
    app = KubeApp(emulator.api)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, lifespan="on")
    server = Embedded(config)
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    loop = asyncio.ensure_future(emulator.controllers.run()) if controllers else None
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        if loop is not None:
            loop.cancel()
        app.closing.set()
        server.should_exit = True
        await task
        listener.close()
