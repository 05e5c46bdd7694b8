"""An emulated cluster for the scripts that install, prove and remove the platform."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from clusterheal.kube.documents import KubernetesLoader
from clusterheal.kube.ports import ApiError, Manifest, Resource
from clusterheal.local.kube.controllers import Timing
from clusterheal.local.kube.emulator import Emulator, serve
from clusterheal.local.kube.platform import worker_nodes

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "self-healing-platform-dev"


def definitions(folder: Path, names: Sequence[str]) -> list[Manifest]:
    """The named CustomResourceDefinitions of the folder."""
    return [_definition(folder / f"{name}.yaml") for name in names]


@cache
def _definition(file: Path) -> Manifest:
    (found,) = (d for d in yaml.load_all(file.read_text(), Loader=KubernetesLoader) if d)
    return found


@dataclass
class World:
    """An emulated cluster with a kubeconfig of its own; `root` holds the scripts and manifests that are run."""

    emulator: Emulator
    url: str
    kubeconfig: Path
    root: Path = ROOT

    @property
    def cluster(self) -> Any:
        return self.emulator.cluster(manager="operators")

    async def run(self, script: str, *arguments: str, answer: str = "") -> tuple[int, str]:
        """Exit status and what it printed."""
        process = await asyncio.create_subprocess_exec(
            str(self.root / script),
            *arguments,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        out, _ = await process.communicate(answer.encode())
        assert process.returncode is not None
        return process.returncode, out.decode()

    async def exists(self, resource: Resource, name: str) -> bool:
        try:
            await self.cluster.get(resource, name, namespace=NAMESPACE if resource.namespaced else None)
        except ApiError as exc:
            if exc.status == 404:
                return False
            raise
        return True


@contextlib.asynccontextmanager
async def served(folder: Path, *objects: Iterable[Manifest]) -> AsyncIterator[World]:
    """A server with three workers and these objects, whose pods are ready at once; kubeconfig goes to the folder."""
    instant = Timing(start=timedelta(0), ready=timedelta(0), stop=timedelta(0))
    emulator = Emulator(seed=1, timing=instant, platform_types=False)
    for some in objects:
        emulator.load(deepcopy(list(some)))
    emulator.load(worker_nodes(3))
    async with serve(emulator) as url:
        config = folder / "kubeconfig"
        cluster = {"name": "e", "cluster": {"server": url}}
        context = {"name": "e", "context": {"cluster": "e", "user": "u"}}
        whole = {"apiVersion": "v1", "kind": "Config", "current-context": "e"}
        whole |= {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}
        config.write_text(yaml.safe_dump(whole))
        yield World(emulator, url, config)
