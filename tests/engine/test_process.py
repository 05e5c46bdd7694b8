"""The engine as the process that it is in a container: TLS, signals, the audit log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from api_kit import _space

from clusterheal.clock import SystemClock
from clusterheal.engine.codec import format_time
from clusterheal.engine.guards import GUARDS
from clusterheal.engine.names import LEASE_NAME
from clusterheal.kube.resources import LEASES
from clusterheal.local.kube.emulator import Emulator, serve
from clusterheal.local.simulation.scenario import NAMESPACE, SHOP, _deployment, _node, definitions

PATIENCE_SECONDS = 60.0
UNDER_WAY = frozenset({"Open", "Planned", "Acting"})


@dataclass(frozen=True, kw_only=True)
class Running:
    """`clusterheal engine` over an emulated API server; it leads, and serves TLS with a certificate of `authority`."""

    process: asyncio.subprocess.Process
    emulator: Emulator
    authority: trustme.CA
    port: int
    log: Path

    def client(self) -> httpx.AsyncClient:
        trusted = ssl.create_default_context()
        self.authority.configure_trust(trusted)
        return httpx.AsyncClient(base_url=f"https://localhost:{self.port}", verify=trusted)

    def lines(self, logger: str) -> list[dict[str, Any]]:
        read = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in read if line["logger"] == logger]


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    emulator = Emulator()
    emulator.load(definitions())
    metadata = {"name": "test", "namespace": NAMESPACE}
    policy = {"apiVersion": "clusterheal.io/v1alpha1", "kind": "RemediationPolicy", "metadata": metadata}
    emulator.load([_node("worker-0"), _deployment("cart"), _space(NAMESPACE), {**policy, "spec": {"mode": "auto"}}])
    authority, log = trustme.CA(), folder / "engine.log"
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    certificate.private_key_pem.write_to_path(folder / "tls.key")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    async with serve(emulator) as url:
        (folder / "kubeconfig").write_text(json.dumps(_kubeconfig(url)))
        command = ["engine", "--port", str(port), "--mode", "auto", "--namespace", NAMESPACE, "--allow-anonymous"]
        settings = {
            "CLUSTERHEAL_ENGINE__TLS_CERT_FILE": str(folder / "tls.crt"),
            "CLUSTERHEAL_ENGINE__TLS_KEY_FILE": str(folder / "tls.key"),
            "CLUSTERHEAL_LOG__FORMAT": "json",
        }
        with log.open("wb") as sink:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "clusterheal.cli", *command, "--kubeconfig", str(folder / "kubeconfig"),
                env={**os.environ, **settings}, stderr=sink,
            )  # fmt: skip
        engine = Running(process=process, emulator=emulator, authority=authority, port=port, log=log)
        try:
            await _until_it_leads(engine)
            yield engine
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _until_it_leads(engine: Running) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), engine.client() as client:
        while True:
            assert engine.process.returncode is None, engine.log.read_text()
            try:
                if (await client.get("/readyz")).json()["leading"]:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


def _kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


async def test_the_api_is_served_over_tls_with_the_given_certificate_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        async with engine.client() as client:
            assert (await client.get("/healthz")).json() == {"status": "ok"}
        async with httpx.AsyncClient() as stranger:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await stranger.get(f"https://localhost:{engine.port}/healthz")
            with pytest.raises(httpx.TransportError):
                await stranger.get(f"http://localhost:{engine.port}/healthz")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order_and_its_lease_is_free_at_once(tmp_path: Path, number: signal.Signals) -> None:
    async with running(tmp_path) as engine:
        cluster = engine.emulator.cluster()
        assert (await cluster.get(LEASES, LEASE_NAME, namespace=NAMESPACE))["spec"]["holderIdentity"]
        engine.process.send_signal(number)
        code = await asyncio.wait_for(engine.process.wait(), PATIENCE_SECONDS)
        lease = await cluster.get(LEASES, LEASE_NAME, namespace=NAMESPACE)
    assert (code, lease["spec"]["holderIdentity"]) == (0, "")


async def test_answers_are_not_held_back_by_the_kernel(tmp_path: Path) -> None:
    """With Nagle's algorithm on, an answer in two segments takes the 40 ms of a delayed acknowledgement."""
    async with running(tmp_path) as engine, engine.client() as client:
        times = []
        for _ in range(20):
            began = asyncio.get_running_loop().time()
            await client.get("/healthz")
            times.append(asyncio.get_running_loop().time() - began)
        assert min(times[1:]) < 0.03


async def test_the_audit_log_has_one_json_line_for_each_step_of_an_incident(tmp_path: Path) -> None:
    labels = {"alertname": "MemoryLeakPredicted", "namespace": SHOP, "workload": "cart"}
    alert = {"status": "firing", "labels": labels, "startsAt": format_time(SystemClock().now())}
    async with running(tmp_path) as engine, engine.client() as client:
        answer = await client.post("/alerts", json={"version": "4", "alerts": [alert]})
        assert answer.json() == {"signals": 1, "stored": 1}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (found := (await client.get("/api/v1/incidents")).json()["items"][0])["status"]["state"] in UNDER_WAY:
                await asyncio.sleep(0.1)
        lines = [line for line in engine.lines("clusterheal.audit") if line["event"] == "incident"]
    states = [lines[0]["from_state"], *(line["to_state"] for line in lines)]
    assert [line["from_state"] for line in lines] == states[:-1]
    assert states[-1] == "Verifying"
    assert lines[-1]["status"]["timeline"] == found["status"]["timeline"]
    acting = next(line for line in lines if line["to_state"] == "Acting")
    assert {verdict["guard"] for verdict in acting["status"]["guards"]} == {name for name, _ in GUARDS}
    assert all(verdict["allowed"] for verdict in acting["status"]["guards"])
    assert [told["details"]["labels"] for told in acting["signals"]] == [labels]
    assert acting["models"]["contract_sha256"] is None
    assert acting["status"]["action"]["action"] == "restart"
