"""What earlier systems got wrong and what users of their peers asked for, each as a test of this engine.

The sources are named with each test. What a table of the guards, the rules or the store already states is not repeated
here: see `tests/unit/engine`.
"""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from platform_kit import CONFIG, Platform

from clusterheal.contracts import IncidentState, SignalSource
from clusterheal.engine.codec import format_time
from clusterheal.engine.names import CORDON_OWNER, CORDON_UNTIL, tokens
from clusterheal.engine.pause import write_pause
from clusterheal.engine.service import Service
from clusterheal.engine.world import Pause
from clusterheal.kube.ports import ApiError, ApiRetryable, Manifest
from clusterheal.kube.resources import DEPLOYMENTS, NODES, POD_DISRUPTION_BUDGETS, PODS
from clusterheal.local.simulation.scenario import NAMESPACE, SHOP

Sim = Callable[[Callable[[Platform], Awaitable[None]]], None]
SOURCES = Path(__file__).parents[2] / "src" / "clusterheal" / "engine"


# The first engine: conflicts only among pending actions, on unrelated targets, executors that slept.


def test_a_conflict_with_a_running_action_is_recorded_and_looked_at_again(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(drain={"ttl": "20m", "timeout": "5m"})
        engine = await p.engine()
        nodes = {pod["spec"]["nodeName"] for pod in await pods(p, "cart")}
        node = sorted(nodes)[0]
        p.emulator.controllers.set_node_ready(node, "False", reason="KubeletNotReady")
        await p.until(IncidentState.ACTING, IncidentState.VERIFYING)
        began = await p.alert(engine)
        await asyncio.sleep(20)
        cart = await incident_of(p, "cart")
        assert cart.state in (IncidentState.OPEN, IncidentState.PLANNED)
        assert cart.deferred_by is not None
        assert f"node-{node}" in cart.deferred_by
        assert await p.restarts() == 0
        p.emulator.controllers.set_node_ready(node, "True", reason="KubeletReady")
        await asyncio.sleep(180)
        await p.alert(engine, started=began)
        await asyncio.sleep(30)
        assert await p.restarts() == 1, "reconsidered once nothing stood against it"

    sim(test)


def test_unrelated_targets_are_healed_side_by_side(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        await p.alert(engine)
        await p.alert(engine, workload="checkout")
        await asyncio.sleep(15)
        assert (await p.restarts(), await p.restarts("checkout")) == (1, 1)

    sim(test)


def test_an_executor_acts_and_never_sleeps_instead() -> None:
    """The actions are pure functions to a patch: nothing in them can wait."""
    for path in (SOURCES / "actions").glob("*.py"):
        calls = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert "sleep" not in calls, path.name


# The second engine: swallowed failures, list errors read as health, keywords, no eviction, no election, no dry run.


class Refusing:
    """An API server that refuses writes to Deployments, or lists of one kind, at the network's edge."""

    def __init__(self, cluster: object, *, patch: bool = False, lists: str = "", status: int = 403) -> None:
        self._cluster = cluster
        self._patch = patch
        self._lists = lists
        self._status = status

    def __getattr__(self, name: str) -> object:
        return getattr(self._cluster, name)

    async def patch(self, resource, name, patch, **options):  # type: ignore[no-untyped-def]
        if self._patch and resource == DEPLOYMENTS:
            raise ApiError(self._status, "Invalid", "spec.template: no")
        return await self._cluster.patch(resource, name, patch, **options)  # type: ignore[attr-defined]

    async def list(self, resource, **options):  # type: ignore[no-untyped-def]
        if resource.plural == self._lists:
            if self._status == 500:
                raise ApiRetryable("no answer", status=500)
            raise ApiError(self._status, "Forbidden", f"cannot list {self._lists}")
        return await self._cluster.list(resource, **options)  # type: ignore[attr-defined]


def test_a_remediation_whose_call_fails_is_never_reported_as_success(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine(cluster=Refusing(p.emulator.cluster(manager="engine"), patch=True, status=422))
        await p.alert(engine)
        ended = await p.until(IncidentState.ESCALATED)
        assert "the API server refused restart" in ended.message
        assert ended.outcome is None
        assert ended.action is not None
        assert ended.action.result.startswith("withdrawn")
        text = engine.metrics.registry.get_sample_value("clusterheal_outcomes_total", {"verdict": "helped"})
        assert text is None

    sim(test)


@pytest.mark.parametrize("kind", ["poddisruptionbudgets", "machineconfigpools", "configmaps"])
def test_a_list_that_fails_is_never_read_as_healthy(sim: Sim, kind: str) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine(cluster=Refusing(p.emulator.cluster(manager="engine"), lists=kind))
        await p.alert(engine)
        await asyncio.sleep(60)
        found = await p.incident()
        assert found.state is IncidentState.PLANNED
        assert f"cannot list {kind}" in found.message
        assert await p.restarts() == 0

    sim(test)


def test_meaning_is_read_from_whole_words_so_postgres_is_no_operating_system() -> None:
    assert "os" not in tokens("postgres")
    assert "os" in tokens("NodeOsDegraded")


def test_health_is_asked_for_a_deployment_by_its_own_api_and_not_by_a_pod_of_its_name(sim: Sim) -> None:
    """The second engine restarted a Deployment by deleting a pod with the Deployment's name."""

    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        before = {pod["metadata"]["uid"] for pod in await pods(p, "cart")}
        await p.alert(engine)
        await p.until(IncidentState.VERIFYING)
        await asyncio.sleep(60)
        after = await pods(p, "cart")
        assert before.isdisjoint(pod["metadata"]["uid"] for pod in after), "every pod was replaced"
        assert len(after) == 2
        assert (await p.deployment())["status"]["availableReplicas"] == 2

    sim(test)


def test_filters_of_the_incident_list_work(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        engine = await p.engine()
        await p.alert(engine, severity="critical")
        await p.alert(engine, workload="checkout", severity="warning")
        await asyncio.sleep(10)
        service = Service(engine)
        ask = {"status": None, "severity": None, "namespace": None, "kind": None}
        assert [r.target.name for r in service.incidents(**{**ask, "severity": "critical"})] == ["cart"]
        assert len(service.incidents(**{**ask, "status": "Planned"})) == 2
        assert service.incidents(**{**ask, "status": "Resolved"}) == []
        assert service.incidents(**{**ask, "namespace": "other"}) == []

    sim(test)


# Repeated remediation hides the real issue (StackStorm/st2#3607, kubernaut#1090).


def test_help_that_never_lasts_is_escalated(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(limits={"repeatsBeforeEscalation": 2, "perTargetPerHour": 20})
        engine = await p.engine(config=replace(CONFIG, linger=timedelta(minutes=1)))
        for _ in range(3):
            began = await p.alert(engine)
            await asyncio.sleep(60)
            await p.alert(engine, "resolved", started=began)
            await asyncio.sleep(240)
        found = await p.incidents()
        assert [r.state for r in found] == [IncidentState.RESOLVED, IncidentState.RESOLVED, IncidentState.ESCALATED]
        assert "came back each time" in found[-1].message
        assert await p.restarts() == 2

    sim(test)


def test_limits_per_host_hold_across_incidents(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(limits={"perTargetPerHour": 1, "repeatsBeforeEscalation": 9}, drain={"ttl": "10m"})
        await p.engine(config=replace(CONFIG, linger=timedelta(seconds=1)))
        for _ in range(2):
            p.emulator.controllers.set_node_ready("worker-0", "False", reason="KubeletNotReady")
            await asyncio.sleep(300)
            p.emulator.controllers.set_node_ready("worker-0", "True", reason="KubeletReady")
            await asyncio.sleep(120)
        found = [r for r in await p.incidents() if r.target.name == "worker-0"]
        assert [r.action is not None for r in found] == [True, False]

    sim(test)


# Pause all automation, with an expiry (st2#5790).


def test_a_pause_holds_everything_and_lapses_by_itself(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        until = p.clock.now() + timedelta(minutes=2)
        await write_pause(p.cluster, NAMESPACE, Pause(until=until, reason="migration", by="ann"))
        await p.alert(engine)
        await asyncio.sleep(100)
        found = await p.incident()
        assert "paused by ann" in found.message
        assert "migration" in found.message
        assert await p.restarts() == 0
        await asyncio.sleep(40)
        assert await p.restarts() == 1

    sim(test)


def test_one_label_on_the_engines_namespace_pauses_everything(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        until = f"{p.clock.now() + timedelta(minutes=3):%Y%m%dT%H%M%SZ}"
        await p.label_namespace(NAMESPACE, **{"clusterheal.io/pause": until})
        engine = await p.engine()
        await p.alert(engine)
        await asyncio.sleep(60)
        assert f"label clusterheal.io/pause on namespace {NAMESPACE}" in (await p.incident()).message
        assert await p.restarts() == 0
        await asyncio.sleep(180)
        assert await p.restarts() == 1

    sim(test)


# A RESOLVED alert must not kill the healthy new pod (robusta#345).


def test_a_resolved_alert_never_touches_the_new_pods_of_what_it_was_about(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        began = await p.alert(engine)
        await p.until(IncidentState.VERIFYING)
        await asyncio.sleep(30)
        fresh = {pod["metadata"]["uid"] for pod in await pods(p, "cart")}
        for _ in range(3):  # it comes again and again, as Alertmanager repeats
            await p.alert(engine, "resolved", started=began)
            await asyncio.sleep(60)
        assert {pod["metadata"]["uid"] for pod in await pods(p, "cart")} == fresh
        assert (await p.incident()).state is IncidentState.RESOLVED

    sim(test)


# "Remediated" said while still firing (kubernaut#722): see test_healing. Counter-based alerts linger (kubernaut#364).


def test_an_alert_on_a_counter_that_lingers_after_the_cure_causes_no_repeat(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine(config=replace(CONFIG, linger=timedelta(minutes=30)))
        began = await p.alert(engine)
        await p.until(IncidentState.VERIFYING)
        await p.alert(engine, "resolved", started=began)
        await p.until(IncidentState.RESOLVED)
        for _ in range(10):  # increase(...[15m]) still sees the restarts of before
            await p.alert(engine, started=began)
            await asyncio.sleep(60)
        assert len(await p.incidents()) == 1
        assert await p.restarts() == 1

    sim(test)


# Reopening a breaker must not replay days-old events (NVSentinel#450): see test_healing for an alert replayed by
# Alertmanager. Here: the engine itself was away while trouble came and went.


def test_what_came_and_went_while_no_engine_ran_triggers_nothing(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        await p.label_namespace(SHOP, **{"clusterheal.io/pause": "true"})
        await p.alert(engine)
        await p.until(IncidentState.PLANNED)
        await p.crash(engine)
        await asyncio.sleep(2 * 86400)
        await p.label_namespace(SHOP, **{"clusterheal.io/pause": None})
        await p.engine("b")
        await asyncio.sleep(300)
        found = await p.incident()
        assert found.state in (IncidentState.ESCALATED, IncidentState.PLANNED)
        assert "more than" in found.message or "too old" in found.message
        assert await p.restarts() == 0

    sim(test)


# A reboot must be observed, not assumed by timeout (self-node-remediation#258): see the GPU playbook; and a node.


def test_a_node_is_given_back_for_its_recovery_and_not_for_the_time_that_passed(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(drain={"ttl": "2h", "timeout": "5m"})
        await p.engine()
        p.emulator.controllers.set_node_ready("worker-0", "False", reason="KubeletNotReady")
        await p.until(IncidentState.VERIFYING)
        await asyncio.sleep(3600)
        assert (await p.incident()).state is IncidentState.VERIFYING
        assert (await p.cluster.get(NODES, "worker-0"))["spec"]["unschedulable"]

    sim(test)


# No remediation during upgrades; two health checks must not remediate one node at once
# (node-healthcheck-operator#116, #233): guards `machine-config-pool` and `held` in tests/unit/engine/test_guards.py.


# PDB-blocked drains hang (kured#82); a lock held by a deleted node (kured#137).


def test_a_drain_that_a_disruption_budget_blocks_does_not_hang(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(drain={"ttl": "20m", "timeout": "5m"})
        budget = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "all", "namespace": SHOP},
            "spec": {"minAvailable": "100%", "selector": {}},
        }
        await p.cluster.create(POD_DISRUPTION_BUDGETS, budget, namespace=SHOP)
        await p.engine()
        node = (await pods(p, "cart"))[0]["spec"]["nodeName"]
        await pressure(p, node, "True")
        acting = await p.until(IncidentState.ACTING)
        assert acting.target.name == node
        await p.until(IncidentState.VERIFYING, within=400)  # after the policy's timeout, with the pods left
        assert {pod["spec"]["nodeName"] for pod in await pods(p, "cart")} >= {node}, "nothing was forced"
        await pressure(p, node, "False")
        await p.until(IncidentState.RESOLVED)

    sim(test)


def test_an_incident_ends_when_its_node_is_deleted(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(drain={"ttl": "20m", "timeout": "5m"})
        await p.engine()
        p.emulator.controllers.set_node_ready("worker-0", "False", reason="KubeletNotReady")
        await p.until(IncidentState.ACTING, IncidentState.VERIFYING)
        await p.cluster.delete(NODES, "worker-0")
        ended = await p.until(IncidentState.ESCALATED, IncidentState.SELF_HEALED, within=1800)
        assert ended.ended
        await pressure(p, "worker-1", "True")
        await asyncio.sleep(240)
        assert (await p.incidents())[-1].action is not None, "the pool's budget is free again"

    sim(test)


@pytest.mark.parametrize("owner", ["node-worker-0-gone-1", "expired"])
def test_a_cordon_whose_incident_is_gone_or_out_of_time_is_lifted(sim: Sim, owner: str) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        until = p.clock.now() + (timedelta(hours=1) if owner != "expired" else -timedelta(hours=1))
        notes = {CORDON_OWNER: owner, CORDON_UNTIL: format_time(until)}
        await p.patch_node("worker-0", {"metadata": {"annotations": notes}, "spec": {"unschedulable": True}})
        await p.engine()
        ended = await p.until(IncidentState.RESOLVED, IncidentState.ESCALATED)
        assert ended.state is IncidentState.RESOLVED, ended.message
        node = await p.cluster.get(NODES, "worker-0")
        assert not (node.get("spec") or {}).get("unschedulable")
        assert CORDON_OWNER not in node["metadata"]["annotations"]

    sim(test)


# KServe Ready with no model; a bad revision promoted (kserve#3262, MLServer#2056): see test_playbooks.
# XID gauges stay set after recovery (dcgm-exporter#500): see test_playbooks.


# Self-reported confidence must not gate execution (dot-ai#810).


def test_a_confidence_that_a_caller_reports_gates_nothing(sim: Sim) -> None:
    from clusterheal.engine.api_models import AnomalyIn, Target

    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        target = Target(kind="Deployment", namespace=SHOP, name="cart")
        await Service(engine).report(AnomalyIn(target=target, name="Odd", confidence=1.0), "bot")
        ended = await p.until(IncidentState.ESCALATED, within=900)
        assert ended.plan is None
        assert ended.observations[0].signal.source is SignalSource.API
        assert await p.restarts() == 0

    sim(test)


# Least privilege (robusta#2140): tests/manifests compares the ClusterRoles with what the code calls.


# One root cause where several symptoms share a node.


def test_workloads_that_are_sick_only_on_a_sick_node_are_that_nodes_incident(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(mode="observe")
        engine = await p.engine()
        node = (await pods(p, "cart"))[0]["spec"]["nodeName"]
        p.emulator.controllers.set_node_ready(node, "False", reason="KubeletNotReady")
        await asyncio.sleep(30)
        await p.alert(engine, alertname="KubePodCrashLooping")
        await asyncio.sleep(60)
        cart = await incident_of(p, "cart")
        assert cart.state is IncidentState.OPEN
        assert cart.deferred_by is not None
        assert f"node-{node}" in cart.deferred_by

    sim(test)


# The engine has to fit into 128Mi: it never imports what training and serving need.


def test_the_engine_imports_nothing_heavy() -> None:
    heavy = ("torch", "kfp", "kserve", "pandas", "model_registry")
    code = f"import sys, clusterheal.engine.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


async def pods(p: Platform, app: str) -> list[Manifest]:
    found = (await p.cluster.list(PODS, namespace=SHOP, label_selector=f"app={app}")).items
    return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))


async def incident_of(p: Platform, name: str):  # type: ignore[no-untyped-def]
    return next(r for r in await p.incidents() if r.target.name == name)


async def pressure(p: Platform, node: str, status: str) -> None:
    from clusterheal.kube.ports import PatchType

    found = await p.cluster.get(NODES, node)
    others = [c for c in found["status"]["conditions"] if c["type"] != "MemoryPressure"]
    entry = {"type": "MemoryPressure", "status": status, "lastTransitionTime": f"{p.clock.now():%Y-%m-%dT%H:%M:%SZ}"}
    patch = {"status": {"conditions": [*others, entry]}}
    await p.cluster.patch(NODES, node, patch, patch_type=PatchType.MERGE, subresource="status")
