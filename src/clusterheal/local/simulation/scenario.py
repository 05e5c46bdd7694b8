"""A small cluster and some bad minutes: alerts, failing nodes, upgrades, people, other controllers, dying replicas."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from clusterheal.engine.codec import format_time
from clusterheal.engine.engine import Engine, Parts
from clusterheal.engine.lease import LeaseTimes
from clusterheal.engine.metrics import EngineMetrics
from clusterheal.engine.pause import lift_pause, write_pause
from clusterheal.engine.service import Service
from clusterheal.engine.world import Config, Pause
from clusterheal.errors import ClusterhealError
from clusterheal.kube.ports import Manifest, PatchType, Resource
from clusterheal.kube.resources import DEPLOYMENTS, MACHINE_CONFIG_POOLS, NODES
from clusterheal.local.kube.emulator import Emulator, read_manifests
from clusterheal.local.simulation.faults import FaultyCluster, Weather
from clusterheal.local.simulation.invariants import Bounds, Broken, Checker
from clusterheal.local.simulation.virtual_time import VirtualClock, VirtualLoop

log = logging.getLogger(__name__)

NAMESPACE = "self-healing-platform"
SHOP = "shop"
WORKLOADS = ("cart", "checkout", "catalog")
NODE_NAMES = ("worker-0", "worker-1", "worker-2")
STORM, AFTERMATH, SETTLED = timedelta(minutes=6), timedelta(minutes=40), timedelta(seconds=30)
BOUNDS = Bounds(concurrent=2, max_unavailable=1, per_hour=12, per_target_per_hour=3, cooldown=timedelta(minutes=1))
CONFIG = Config(
    mode="auto",
    quiet=timedelta(seconds=10),
    verify_after=timedelta(seconds=15),
    verify_timeout=timedelta(minutes=2),
    plan_timeout=timedelta(minutes=10),
    triage_timeout=timedelta(minutes=5),
    linger=timedelta(minutes=2),
)
LEASE = LeaseTimes(duration=timedelta(seconds=15), retry=timedelta(seconds=4), margin=timedelta(seconds=6))


def crds() -> Path:
    return Path(__file__).parents[4] / "manifests" / "cluster" / "crds"


@cache
def definitions() -> tuple[Manifest, ...]:
    """The engine's custom resource definitions, parsed once: every seed loads them anew."""
    return tuple(read_manifests(crds()))


class Replica:
    """One engine process; it dies when its connection says so, and comes back as another one."""

    def __init__(self, scenario: Scenario, number: int) -> None:
        self._scenario = scenario
        self._number = number
        self._lives = 0
        self._metrics = EngineMetrics()  # nobody scrapes them, and making them anew for every life takes a while
        self.engine: Engine | None = None
        self.connection: FaultyCluster | None = None

    async def live(self) -> None:
        """Start, die, start again, for ever."""
        while True:
            await self._life()
            await asyncio.sleep(self._scenario.rng.uniform(0.5, 20.0))

    async def _life(self) -> None:
        scenario = self._scenario
        self._lives += 1
        clock = VirtualClock(scenario.loop, skew=timedelta(seconds=scenario.rng.uniform(-1.0, 1.0)))
        self.connection = FaultyCluster(scenario.emulator.cluster(manager="engine"), scenario.rng, scenario.weather)
        self.engine = Engine(
            Parts(
                cluster=self.connection,
                clock=clock,
                rng=random.Random(scenario.rng.random()),
                namespace=NAMESPACE,
                identity=f"replica-{self._number}-{self._lives}",
                config=CONFIG,
                interval=timedelta(seconds=5),
                lease=LEASE,
            ),
            self._metrics,
        )
        process = asyncio.create_task(self.engine.run())
        death = asyncio.create_task(self.connection.died.wait())
        try:
            await asyncio.wait({process, death}, return_when=asyncio.FIRST_COMPLETED)
            if process.done() and not process.cancelled() and (exc := process.exception()) is not None:
                raise Broken(f"{scenario.clock.now()}: a replica ended by an error: {exc!r}") from exc
        finally:
            self.engine = None
            process.cancel()
            death.cancel()
            await asyncio.gather(process, death, return_exceptions=True)


class Scenario:
    """Everything of one seed."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.loop = loop
        self.rng = random.Random(seed)
        self.clock = VirtualClock(loop)
        self.weather = Weather()
        self.emulator = Emulator(clock=self.clock, seed=seed, history=4000)
        self.cluster = self.emulator.cluster(manager="other")
        self.checker = Checker(BOUNDS)
        self.replicas = [Replica(self, n) for n in range(2)]
        self.firing: dict[str, dict[str, Any]] = {}
        self.posted = 0
        self.mended = False
        self._listeners: list[Any] = []

    async def run(self) -> None:
        """The storm, then calm, then the final check.

        Raises:
            Broken: an invariant does not hold.
        """
        self._build()
        tasks = [
            asyncio.create_task(self._controllers()),
            asyncio.create_task(self._trouble()),
            *(asyncio.create_task(r.live()) for r in self.replicas),
        ]
        ending = asyncio.create_task(self._over())
        try:
            while not ending.done():
                done, _ = await asyncio.wait({ending, *tasks}, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {ending}:
                    tasks.remove(task)
                    task.result()
        finally:
            for task in (*tasks, ending):
                task.cancel()
            await asyncio.gather(*tasks, ending, return_exceptions=True)
        self._check()
        self.checker.at_end(self.clock.now())

    async def _over(self) -> None:
        """Until every incident has ended and nothing new comes, or the time is up."""
        quiet_since = self.loop.time()
        while self.loop.time() < (STORM + AFTERMATH).total_seconds():
            await asyncio.sleep(5.0)
            calm = self.mended and all(r.ended for r in self.checker.records.values())
            quiet_since = quiet_since if calm else self.loop.time()
            if self.loop.time() - quiet_since > SETTLED.total_seconds():
                return

    def _build(self) -> None:
        self.emulator.load(definitions())
        self.emulator.load([*map(_node, NODE_NAMES), POOL, POLICY, *map(_deployment, WORKLOADS), BUDGET])
        store = self.emulator.api.store
        for name in ("incidents.clusterheal.io", "nodes", "deployments.apps", POOL_KEY):
            self._listeners.append(store.subscribe(name))
        for name in NODE_NAMES:
            self.checker.nodes[name] = store.get("nodes", "", name) or {}

    def _check(self) -> None:
        changes = sorted((c for s in self._listeners for c in s.take()), key=lambda c: c.revision)
        for change in changes:
            self.checker.change(change, self.clock.now())

    async def _controllers(self) -> None:
        while True:
            self.emulator.controllers.settle()
            self._check()
            await asyncio.sleep(0.5)

    async def _trouble(self) -> None:
        """Events at random moments, then everything is mended."""
        await asyncio.sleep(20.0)
        events: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (5.0, self._alert),
            (3.0, self._repeat),
            (3.0, self._resolve),
            (1.5, self._node_fails),
            (1.0, self._upgrade),
            (0.7, self._human_cordons),
            (1.0, self._other_scales),
            (0.5, self._pause),
            (1.0, self._partition),
            (0.5, self._kill),
        ]
        weights, actors = [w for w, _ in events], [a for _, a in events]
        background: set[asyncio.Task[None]] = set()
        try:
            while self.loop.time() < STORM.total_seconds():
                actor = self.rng.choices(actors, weights)[0]
                background.add(asyncio.create_task(_bounded(actor())))
                await asyncio.sleep(self.rng.expovariate(1 / 12.0))
            await asyncio.gather(*background)
        finally:
            for task in background:
                task.cancel()
        await self._mend()

    async def _mend(self) -> None:
        self.weather.calm()
        await lift_pause(self.cluster, NAMESPACE)
        for name in list(self.firing):
            while not await self._post(self.firing[name], "resolved"):
                await asyncio.sleep(1.0)
            del self.firing[name]
        self.mended = True

    async def _post(self, alert: dict[str, Any], status: str) -> bool:
        """Send to any replica that answers, as Alertmanager does through a Service; `True` once stored."""
        payload = {"version": "4", "alerts": [{**alert, "status": status}]}
        live = [r.engine for r in self.replicas if r.engine is not None and r.engine.ready]
        if not live:
            return False
        self.posted += 1
        engine = self.rng.choice(live)
        try:
            async with asyncio.timeout(30):
                await Service(engine).alerts(payload)
        except (ClusterhealError, TimeoutError):
            return False
        return True

    async def _alert(self) -> None:
        target = self.rng.choice(WORKLOADS)
        name = self.rng.choice(["MemoryLeakPredicted", "WorkloadSaturated"])
        key = f"{name}/{target}"
        labels = {"alertname": name, "namespace": SHOP, "workload": target, "workload_type": "deployment"}
        alert = self.firing.setdefault(key, {"labels": labels, "startsAt": format_time(self.clock.now())})
        await self._post(alert, "firing")

    async def _repeat(self) -> None:
        if self.firing:
            await self._post(self.rng.choice(list(self.firing.values())), "firing")

    async def _resolve(self) -> None:
        if not self.firing:
            return
        key = self.rng.choice(sorted(self.firing))
        alert = self.firing.pop(key)
        if not await self._post(alert, "resolved"):
            self.firing[key] = alert  # Alertmanager sends it again
            return
        if self.rng.random() < 0.3:
            await asyncio.sleep(self.rng.uniform(0, 30))
            await self._post(alert, "firing")  # a late repeat, out of order: old news

    async def _node_fails(self) -> None:
        name = self.rng.choice(NODE_NAMES)
        self.emulator.controllers.set_node_ready(name, "False", reason="KubeletNotReady")
        await asyncio.sleep(self.rng.uniform(30, 400))
        self.emulator.controllers.set_node_ready(name, "True", reason="KubeletReady")

    async def _upgrade(self) -> None:
        """The Machine Config Operator takes the pool for a while, node by node."""
        await self._pool("Updating", "True")
        await asyncio.sleep(self.rng.uniform(20, 120))
        await self._pool("Updating", "False")

    async def _pool(self, kind: str, status: str) -> None:
        pool = await self.cluster.get(MACHINE_CONFIG_POOLS, "worker")
        stamp = f"{format_time(self.clock.now())[:19]}Z"
        pool["status"]["conditions"] = [{"type": kind, "status": status, "lastTransitionTime": stamp}]
        await self.cluster.update(MACHINE_CONFIG_POOLS, pool, subresource="status")

    async def _human_cordons(self) -> None:
        name = self.rng.choice(NODE_NAMES)
        node = await self.cluster.get(NODES, name)
        if (node.get("spec") or {}).get("unschedulable"):
            return
        await self._patch(NODES, name, {"spec": {"unschedulable": True}})
        await asyncio.sleep(self.rng.uniform(20, 200))
        await self._patch(NODES, name, {"spec": {"unschedulable": None}})

    async def _other_scales(self) -> None:
        target = self.rng.choice(WORKLOADS)
        await self._patch(DEPLOYMENTS, target, {"spec": {"replicas": self.rng.randint(1, 3)}}, SHOP)

    async def _patch(self, resource: Resource, name: str, patch: Manifest, namespace: str | None = None) -> None:
        await self.cluster.patch(resource, name, patch, patch_type=PatchType.MERGE, namespace=namespace)

    async def _pause(self) -> None:
        until = self.clock.now() + timedelta(seconds=self.rng.uniform(10, 90))
        await write_pause(self.cluster, NAMESPACE, Pause(until=until, reason="simulated", by="a person"))

    async def _partition(self) -> None:
        connection = self.rng.choice(self.replicas).connection
        if connection is not None:
            connection.cut = True
            await asyncio.sleep(self.rng.uniform(5, 60))
            connection.cut = False

    async def _kill(self) -> None:
        connection = self.rng.choice(self.replicas).connection
        if connection is not None:
            connection.died.set()


async def _bounded(work: Awaitable[None]) -> None:
    try:
        await work
    except ClusterhealError as exc:
        log.debug("a simulated actor failed: %s", exc)


def _node(name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"node-role.kubernetes.io/worker": ""}},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
        },
    }


def _deployment(name: str) -> Manifest:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": "registry.example/shop:1"}]},
            },
        },
    }


POOL_KEY = "machineconfigpools.machineconfiguration.openshift.io"
POOL: Manifest = {
    "apiVersion": "machineconfiguration.openshift.io/v1",
    "kind": "MachineConfigPool",
    "metadata": {"name": "worker"},
    "spec": {
        "nodeSelector": {"matchLabels": {"node-role.kubernetes.io/worker": ""}},
        "maxUnavailable": BOUNDS.max_unavailable,
    },
    "status": {"conditions": []},
}
POLICY: Manifest = {
    "apiVersion": "clusterheal.io/v1alpha1",
    "kind": "RemediationPolicy",
    "metadata": {"name": "simulated", "namespace": NAMESPACE},
    "spec": {
        "mode": "auto",
        "cooldown": f"{BOUNDS.cooldown.seconds}s",
        "limits": {
            "concurrent": BOUNDS.concurrent,
            "perTargetPerHour": BOUNDS.per_target_per_hour,
            "perHour": BOUNDS.per_hour,
            "perNamespacePerHour": 10,
        },
        "drain": {"ttl": "6m", "timeout": "2m"},
    },
}
BUDGET: Manifest = {
    "apiVersion": "policy/v1",
    "kind": "PodDisruptionBudget",
    "metadata": {"name": "cart", "namespace": SHOP},
    "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "cart"}}},
}
