"""A small cluster with engines on virtual time: what the engine's own tests run on."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from clusterheal.contracts import IncidentState
from clusterheal.engine.codec import decode, format_time
from clusterheal.engine.engine import Engine, Parts
from clusterheal.engine.lease import LeaseTimes
from clusterheal.engine.quantities import quantity
from clusterheal.engine.records import Record
from clusterheal.engine.service import Service
from clusterheal.engine.world import Config
from clusterheal.kube.ports import Cluster, Manifest, PatchType
from clusterheal.kube.resources import DEPLOYMENTS, INCIDENTS, NAMESPACES, NODES, REMEDIATION_POLICIES
from clusterheal.local.kube.emulator import Emulator
from clusterheal.local.simulation.scenario import NAMESPACE, POOL, SHOP, _deployment, _node, definitions
from clusterheal.local.simulation.virtual_time import VirtualClock, VirtualLoop

CONFIG = Config(
    mode="auto",
    quiet=timedelta(seconds=10),
    verify_after=timedelta(seconds=10),
    verify_timeout=timedelta(minutes=2),
    plan_timeout=timedelta(minutes=10),
    triage_timeout=timedelta(minutes=5),
)
AUTO: Manifest = {"mode": "auto", "cooldown": "1m"}


class Platform:
    """Three nodes, a pool, and the Deployments `cart` and `checkout`; engines are started by `engine`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.clock = VirtualClock(loop)
        self.bad_images: dict[str, str] = {}
        self.needs_memory: dict[str, float] = {}
        self.emulator = Emulator(clock=self.clock, faults=self._fault)
        self.cluster = self.emulator.cluster(manager="test")
        self.emulator.load(definitions())
        self.emulator.load([*(_node(f"worker-{i}") for i in range(3)), POOL])
        for namespace in (SHOP, NAMESPACE):
            self._load({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        self.emulator.load([_deployment("cart"), _deployment("checkout")])
        self.tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._controllers())]
        self.engines: list[Engine] = []

    def _load(self, obj: Manifest) -> None:
        if self.emulator.api.store.get("namespaces", "", obj["metadata"]["name"]) is None:
            self.emulator.load([obj])

    def _fault(self, pod: Manifest) -> str | None:
        """Pods with a bad image behave as `bad_images` says; those below the memory they need are killed."""
        for container in pod["spec"]["containers"]:
            limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
            needed = self.needs_memory.get(pod["metadata"]["labels"].get("app", ""), 0.0)
            if limit is not None and quantity(limit) < needed:
                return "OOMKilled"
        return next((b for c in pod["spec"]["containers"] if (b := self.bad_images.get(c["image"]))), None)

    async def _controllers(self) -> None:
        while True:
            self.emulator.controllers.settle()
            await asyncio.sleep(0.5)

    async def policy(self, name: str = "test", **spec: Any) -> None:
        body = {
            "apiVersion": REMEDIATION_POLICIES.api_version,
            "kind": "RemediationPolicy",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {**AUTO, **spec},
        }
        await self.cluster.create(REMEDIATION_POLICIES, body, namespace=NAMESPACE)

    async def engine(
        self, identity: str = "a", *, config: Config = CONFIG, cluster: Cluster | None = None, **parts: Any
    ) -> Engine:
        """Start a replica and wait until it is ready and somebody leads."""
        engine = Engine(
            Parts(
                cluster=cluster or self.emulator.cluster(manager="engine"),
                clock=self.clock,
                rng=random.Random(1),
                namespace=NAMESPACE,
                identity=identity,
                config=config,
                interval=timedelta(seconds=5),
                lease=LeaseTimes(),
                **parts,
            )
        )
        self.engines.append(engine)
        self.tasks.append(asyncio.create_task(engine.run()))
        await asyncio.sleep(8)
        assert engine.ready
        return engine

    async def crash(self, engine: Engine) -> None:
        """The replica's process is gone at once; nothing is released."""
        index = self.engines.index(engine)
        task = self.tasks[1 + index]
        engine.elector._held_until = None  # so that its end releases nothing
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def alert(
        self, engine: Engine, status: str = "firing", *, started: datetime | None = None, **labels: str
    ) -> datetime:
        """Post one alert; returns when it started."""
        began = started or self.clock.now()
        named = {"alertname": "MemoryLeakPredicted", "namespace": SHOP, "workload": "cart", **labels}
        payload = {
            "version": "4",
            "alerts": [{"status": status, "labels": named, "startsAt": format_time(began)}],
        }
        await Service(engine).alerts(payload)
        return began

    async def incidents(self) -> list[Record]:
        found = (await self.cluster.list(INCIDENTS, namespace=NAMESPACE)).items
        return sorted((decode(o) for o in found), key=lambda r: (r.opened_at, r.name))

    async def incident(self) -> Record:
        """The only one."""
        (found,) = await self.incidents()
        return found

    async def until(self, *states: IncidentState, within: float = 600) -> Record:
        """Wait for the only incident to be in one of these states."""
        deadline = self.loop.time() + within
        while self.loop.time() < deadline:
            found = await self.incidents()
            if len(found) == 1 and found[0].state in states:
                return found[0]
            await asyncio.sleep(1)
        raise AssertionError(f"expected {states}, got {[(r.name, r.state, r.message) for r in await self.incidents()]}")

    async def deployment(self, name: str = "cart") -> Manifest:
        return await self.cluster.get(DEPLOYMENTS, name, namespace=SHOP)

    async def restarts(self, name: str = "cart") -> int:
        """How often the pod template was changed since the start."""
        return int((await self.deployment(name))["metadata"]["generation"]) - 1

    async def patch(self, name: str, patch: Manifest) -> None:
        await self.cluster.patch(DEPLOYMENTS, name, patch, patch_type=PatchType.MERGE, namespace=SHOP)

    async def patch_node(self, name: str, patch: Manifest) -> None:
        await self.cluster.patch(NODES, name, patch, patch_type=PatchType.MERGE)

    async def label_namespace(self, name: str = SHOP, /, **labels: str | None) -> None:
        patch = {"metadata": {"labels": labels}}
        await self.cluster.patch(NAMESPACES, name, patch, patch_type=PatchType.MERGE)


def with_mode(mode: str) -> Config:
    return replace(CONFIG, mode=mode)
