"""The engine's HTTP API in one process: a real engine over the emulator, callers with tokens and RBAC rules."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from clusterheal.clock import SystemClock
from clusterheal.engine.api import build_api
from clusterheal.engine.auth import VERBS, Authenticator, SharedToken
from clusterheal.engine.codec import format_time
from clusterheal.engine.engine import Engine, Parts
from clusterheal.engine.service import Service
from clusterheal.engine.views import rollout_complete
from clusterheal.engine.world import Config
from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import DEPLOYMENTS
from clusterheal.local.kube.access import AccessControl, Rule, User
from clusterheal.local.kube.emulator import Emulator
from clusterheal.local.simulation.scenario import NAMESPACE, POOL, SHOP, _deployment, _node, definitions

ALERT_TOKEN = "alertmanager-shares-this"
RIGHTS = tuple(VERBS)
CONFIG = Config(mode="auto", quiet=timedelta(seconds=1), verify_after=timedelta(seconds=1), fresh=timedelta(hours=1))


def access() -> AccessControl:
    """A caller for each right, one with none, and the engine's own account that may do everything."""
    users = {f"token-{right}": User(name=f"may-{right}") for right in (*RIGHTS, "nothing")}
    rules = [
        Rule(
            subjects=(f"may-{right}",),
            verbs=(verb,),
            api_groups=("clusterheal.io",),
            resources=(f"{resource}/{subresource}" if subresource else resource,),
            namespace=NAMESPACE,
        )
        for right, (verb, resource, subresource) in VERBS.items()
    ]
    return AccessControl(tokens=users, rules=rules)


@dataclass(frozen=True, kw_only=True)
class Api:
    """`client` speaks to `app`; `engine` stands behind it."""

    client: httpx.AsyncClient
    app: FastAPI
    engine: Engine
    emulator: Emulator

    async def call(self, method: str, path: str, *, as_: str | None = None, **options: Any) -> httpx.Response:
        """As the caller with the right `as_`; `alertmanager` sends the shared token, `None` sends none."""
        token = {None: None, "alertmanager": ALERT_TOKEN}.get(as_, f"token-{as_}")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self.client.request(method, path, headers=headers, **options)

    async def firing(self, **labels: str) -> str:
        """An alert on `shop/cart` that has become an incident; its name."""
        answer = await self.call("POST", "/alerts", as_="alertmanager", json=notification(self.engine, **labels))
        assert answer.status_code == 200, answer.text
        assert answer.json()["stored"] == 1
        return max(self.engine.store.records())

    async def until(self, name: str, *states: str) -> Manifest:
        for _ in range(200):
            found = self.engine.store.records().get(name)
            if found is not None and found.state.value in states:
                return (await self.call("GET", f"/api/v1/incidents/{name}", as_="read")).json()
            await asyncio.sleep(0.05)
        raise AssertionError(f"{name} is {found and (found.state, found.message)}, expected {states}")


def notification(engine: Engine, **labels: str) -> Manifest:
    named = {"alertname": "MemoryLeakPredicted", "namespace": SHOP, "workload": "cart", "severity": "warning", **labels}
    started = format_time(engine.parts.clock.now())
    notes = {"summary": "memory rises towards its limit"}
    alert = {"status": "firing", "labels": named, "annotations": notes, "startsAt": started}
    return {"version": "4", "status": "firing", "alerts": [alert]}


@contextlib.asynccontextmanager
async def opened(folder: Path, *, config: Config = CONFIG, policy: Manifest | None = None) -> AsyncIterator[Api]:
    """An API whose engine runs; `policy` is the spec of the only RemediationPolicy."""
    emulator = Emulator(access=access())
    emulator.load(definitions())
    emulator.load([_node("worker-0"), POOL, _deployment("cart"), _deployment("checkout"), _space(NAMESPACE)])
    if policy is not None:
        metadata = {"name": "test", "namespace": NAMESPACE}
        kind = {"apiVersion": "clusterheal.io/v1alpha1", "kind": "RemediationPolicy"}
        emulator.load([{**kind, "metadata": metadata, "spec": policy}])
    clock, cluster = SystemClock(), emulator.cluster(manager="engine")
    engine = Engine(
        Parts(
            cluster=cluster, clock=clock, rng=random.Random(1), namespace=NAMESPACE, identity="test", config=config,
            interval=timedelta(seconds=0.2),
        )
    )  # fmt: skip
    token = folder / "alert-token"
    token.write_text(ALERT_TOKEN)
    app = build_api(Service(engine), Authenticator(cluster, clock, namespace=NAMESPACE), SharedToken(token))
    tasks = [asyncio.create_task(engine.run()), asyncio.create_task(emulator.controllers.run(interval=0.05))]
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            while not (engine.ready and engine.elector.leading and _settled(engine)):
                await asyncio.sleep(0.02)
            yield Api(client=client, app=app, engine=engine, emulator=emulator)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _settled(engine: Engine) -> bool:
    return all(rollout_complete(d) for d in engine.cache.snapshot().all(DEPLOYMENTS))


def _space(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
