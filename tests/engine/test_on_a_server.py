"""The engine over HTTP, against the emulator and, unchanged, the server that CLUSTERHEAL_TEST_KUBECONFIG names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from api_kit import notification

from clusterheal.clock import SystemClock
from clusterheal.engine.engine import Engine, Parts
from clusterheal.engine.names import LEASE_NAME
from clusterheal.engine.service import Service
from clusterheal.engine.world import Config
from clusterheal.kube.credentials import Credentials, from_kubeconfig
from clusterheal.kube.http import HttpCluster
from clusterheal.kube.ports import ApiError, Manifest, PatchType
from clusterheal.kube.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    EVENTS,
    INCIDENTS,
    LEASES,
    NAMESPACES,
    REMEDIATION_POLICIES,
)
from clusterheal.local.kube.emulator import Emulator, serve
from clusterheal.local.simulation.scenario import _deployment, definitions

KUBECONFIG = "CLUSTERHEAL_TEST_KUBECONFIG"
SERVERS: list[Any] = ["emulator"]
if os.environ.get(KUBECONFIG):
    SERVERS.append(pytest.param("real", marks=pytest.mark.cluster))


@dataclass(frozen=True, kw_only=True)
class Server:
    """A namespace of its own for the engine and a workload; `kubeconfig` lets `kubectl` in."""

    cluster: HttpCluster
    namespace: str
    kubeconfig: Path

    @contextlib.asynccontextmanager
    async def engine(self, identity: str) -> AsyncIterator[Engine]:
        config = Config(mode="auto", quiet=timedelta(seconds=1))
        parts = Parts(
            cluster=self.cluster, clock=SystemClock(), rng=random.Random(1), namespace=self.namespace,
            identity=identity, config=config, interval=timedelta(seconds=0.3),
        )  # fmt: skip
        engine = Engine(parts)
        task = asyncio.create_task(engine.run())
        try:
            await eventually(lambda: _async(engine.ready))
            yield engine
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def policy(self, **spec: Any) -> None:
        body = {"metadata": {"name": "test"}, "spec": spec}
        await self.cluster.create(REMEDIATION_POLICIES, body, namespace=self.namespace)

    async def firing(self, engine: Engine) -> str:
        await eventually(lambda: _async(engine.cache.snapshot().get(DEPLOYMENTS, self.namespace, "cart")))
        (taken,) = await Service(engine).alerts(notification(engine, namespace=self.namespace))
        assert taken.incident is not None
        return taken.incident

    async def until(self, name: str, *states: str) -> Manifest:
        async def reached() -> Manifest | None:
            found = await self.cluster.get(INCIDENTS, name, namespace=self.namespace)
            return found if (found.get("status") or {}).get("state") in states else None

        return await eventually(reached)


async def _async(value: Any) -> Any:
    return value


async def eventually(check: Callable[[], Awaitable[Any]], *, seconds: float = 60.0) -> Any:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not (found := await check()):
        assert loop.time() < end, f"nothing came within {seconds} s"
        await asyncio.sleep(0.1)
    return found


@pytest.fixture(params=SERVERS)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "real":
            kubeconfig = Path(os.environ[KUBECONFIG])
            credentials = from_kubeconfig(kubeconfig)
        else:
            url = await stack.enter_async_context(serve(Emulator(seed=1)))
            kubeconfig = tmp_path / "kubeconfig"
            kubeconfig.write_text(json.dumps(_kubeconfig(url)))
            credentials = Credentials(server=url)
        cluster = await stack.enter_async_context(HttpCluster(credentials, manager="engine-test"))
        await _define(cluster)
        namespace = f"clusterheal-engine-{uuid.uuid4().hex[:8]}"
        await cluster.create(NAMESPACES, {"metadata": {"name": namespace}})
        workload = _deployment("cart")
        workload["metadata"]["namespace"] = namespace
        await cluster.create(DEPLOYMENTS, workload, namespace=namespace)
        yield Server(cluster=cluster, namespace=namespace, kubeconfig=kubeconfig)
        await cluster.delete(NAMESPACES, namespace)


async def _define(cluster: HttpCluster) -> None:
    """The engine's definitions, where they are not there yet."""
    for definition in definitions():
        with contextlib.suppress(ApiError):
            await cluster.create(CUSTOM_RESOURCE_DEFINITIONS, definition)

    async def served() -> bool:
        try:
            await cluster.list(INCIDENTS)
            await cluster.list(REMEDIATION_POLICIES)
        except ApiError as exc:
            if exc.status == 404:
                return False
            raise
        return True

    await eventually(served)


def _kubeconfig(url: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


async def test_an_incident_is_told_in_its_resource_and_by_events(server: Server) -> None:
    await server.policy(mode="suggest")
    async with server.engine("one") as engine:
        name = await server.firing(engine)
        told = await server.until(name, "Suggested", "Planned")
        status = told["status"]
        assert status["plan"]["action"] == "restart"
        assert status["diagnosis"]["cause"] == "memory-leak"
        assert {g["guard"] for g in status["guards"]} >= {"mode", "pause", "rate"}

        async def event() -> bool:
            found = (await server.cluster.list(EVENTS, namespace=server.namespace)).items
            return any(e["involvedObject"].get("name") == name and e["reason"] == status["state"] for e in found)

        await eventually(event)


async def test_kubectl_get_incidents_reads_well(server: Server) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    await server.policy(mode="suggest")
    async with server.engine("one") as engine:
        name = await server.firing(engine)
        state = (await server.until(name, "Suggested", "Planned"))["status"]["state"]
        command = ["--kubeconfig", str(server.kubeconfig), "-n", server.namespace, "get", "incidents"]
        process = await asyncio.create_subprocess_exec("kubectl", *command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
    head, row = (line.split() for line in output.decode().splitlines())
    assert head == ["NAME", "KIND", "WHERE", "OBJECT", "STATE", "CAUSE", "ACTION", "OUTCOME", "AGE"]
    assert row[:-1] == [name, "Deployment", server.namespace, "cart", state, "memory-leak", "restart"]


async def test_one_of_two_replicas_leads_and_both_store(server: Server) -> None:
    async with server.engine("one") as one, server.engine("two") as two:
        await eventually(lambda: _async(one.elector.leading or two.elector.leading))
        await asyncio.sleep(2 * one.elector.times.retry.total_seconds())
        assert one.elector.leading != two.elector.leading
        leader, standby = (one, two) if one.elector.leading else (two, one)
        name = await server.firing(standby)
        await server.until(name, "Planned", "Suggested")
        lease = await server.cluster.get(LEASES, LEASE_NAME, namespace=server.namespace)
        assert lease["spec"]["holderIdentity"] == leader.parts.identity
        await eventually(lambda: _async(name in leader.store.records()))


async def test_the_stored_status_is_what_the_schema_allows(server: Server) -> None:
    """What the schema does not name, a server would drop without a word."""
    await server.policy(mode="suggest")
    async with server.engine("one") as engine:
        name = await server.firing(engine)
        await server.until(name, "Suggested", "Planned")
        await asyncio.sleep(1)
        known = engine.store.records()[name]
        again = await engine.store.read(name)
        assert (again.diagnosis, again.plan, again.guards) == (known.diagnosis, known.plan, known.guards)
        bad = {"status": {"state": "Odd"}}
        with pytest.raises(ApiError) as refused:
            await server.cluster.patch(
                INCIDENTS, name, bad, patch_type=PatchType.MERGE, namespace=server.namespace, subresource="status"
            )
        assert refused.value.status == 422
