"""Whole incidents against the emulated API server: noticed, explained, acted on once, verified, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

from platform_kit import CONFIG, Platform, with_mode

from clusterheal.contracts import IncidentState, Verdict
from clusterheal.engine.names import ACTION, CORDON_OWNER
from clusterheal.engine.service import Service
from clusterheal.kube.resources import DEPLOYMENTS, EVENTS, HORIZONTAL_POD_AUTOSCALERS, NODES, PODS
from clusterheal.local.simulation.scenario import NAMESPACE, SHOP

Sim = Callable[[Callable[[Platform], Awaitable[None]]], None]


def test_a_predicted_leak_is_restarted_once_and_verified(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        began = await p.alert(engine)
        acted = await p.until(IncidentState.VERIFYING)
        assert acted.action is not None
        deployed = await p.deployment()
        assert deployed["metadata"]["annotations"][ACTION] == acted.action.id
        assert "kubectl.kubernetes.io/restartedAt" in deployed["spec"]["template"]["metadata"]["annotations"]
        await p.alert(engine, "resolved", started=began)
        ended = await p.until(IncidentState.RESOLVED)
        assert ended.outcome is not None
        assert ended.outcome.verdict is Verdict.HELPED
        assert await p.restarts() == 1
        await asyncio.sleep(3)
        reasons = [e["reason"] for e in (await p.cluster.list(EVENTS, namespace=NAMESPACE)).items]
        assert {"Verifying", "Resolved"} <= set(reasons)

    sim(test)


def test_it_is_not_called_remediated_while_the_alert_fires(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        began = await p.alert(engine)
        for _ in range(10):
            await asyncio.sleep(15)
            await p.alert(engine, started=began)
        ended = await p.incident()
        assert ended.state is IncidentState.ESCALATED
        assert ended.outcome is not None
        assert ended.outcome.verdict is Verdict.NO_EFFECT
        for _ in range(20):  # it lingers: neither a new incident nor a second restart
            await asyncio.sleep(60)
            await p.alert(engine, started=began)
        assert len(await p.incidents()) == 1
        assert await p.restarts() == 1

    sim(test)


def test_what_did_not_help_twice_is_left_to_people(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        for _ in range(4):
            began = await p.alert(engine)
            await asyncio.sleep(300)
            await p.alert(engine, "resolved", started=began)
            await asyncio.sleep(120)
        found = await p.incidents()
        assert [r.state for r in found] == [IncidentState.ESCALATED] * 4
        assert [r.action is not None for r in found] == [True, True, False, False]
        assert "a person has to look" in found[2].message

    sim(test)


def test_a_resolved_alert_does_not_touch_the_healthy_new_pods(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        await p.alert(engine, "resolved")
        await asyncio.sleep(60)
        assert await p.incidents() == []
        assert await p.restarts() == 0

    sim(test)


def test_an_alert_that_resolves_while_a_guard_waits_ends_self_healed(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        await p.label_namespace(**{"clusterheal.io/pause": "true"})
        engine = await p.engine()
        began = await p.alert(engine)
        planned = await p.until(IncidentState.PLANNED)
        assert "pause" in planned.message
        await p.alert(engine, "resolved", started=began)
        await p.until(IncidentState.SELF_HEALED)
        await p.label_namespace(**{"clusterheal.io/pause": None})
        await asyncio.sleep(60)
        assert await p.restarts() == 0

    sim(test)


def test_a_replayed_old_alert_after_a_break_triggers_nothing(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        await p.alert(engine, started=p.clock.now() - timedelta(days=3))
        await asyncio.sleep(300)
        found = await p.incident()
        assert found.state is IncidentState.PLANNED
        assert "too old to act on" in found.message
        assert await p.restarts() == 0

    sim(test)


def test_without_a_policy_it_only_observes(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        engine = await p.engine()
        await p.alert(engine)
        await asyncio.sleep(60)
        found = await p.incident()
        assert found.state is IncidentState.PLANNED
        assert "mode is observe" in found.message
        assert await p.restarts() == 0

    sim(test)


def test_a_bad_rollout_is_undone_to_the_revision_that_serves(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        await p.engine()
        p.bad_images["registry.example/shop:2"] = "CrashLoopBackOff"
        container = {"name": "main", "image": "registry.example/shop:2"}
        await p.patch("cart", {"spec": {"template": {"spec": {"containers": [container]}}}})
        ended = await p.until(IncidentState.RESOLVED, IncidentState.ESCALATED)
        assert ended.state is IncidentState.RESOLVED, ended.message
        assert ended.diagnosis is not None
        assert ended.diagnosis.cause == "crash-loop-after-rollout"
        deployed = await p.deployment()
        assert deployed["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/shop:1"
        assert "pod-template-hash" not in deployed["spec"]["template"]["metadata"]["labels"]
        assert deployed["status"]["availableReplicas"] == 2

    sim(test)


def test_a_crash_loop_without_a_rollout_is_escalated_with_its_log(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        await p.engine()
        await asyncio.sleep(2 * 3600)  # the revision ran well
        p.bad_images["registry.example/shop:1"] = "CrashLoopBackOff"
        pods = (await p.cluster.list(PODS, namespace=SHOP, label_selector="app=cart")).items
        for pod in pods:
            p.emulator.api.set_log(SHOP, pod["metadata"]["name"], "panic: no database", previous=True)
        for pod in pods:
            p.emulator.controllers.kill_container(SHOP, pod["metadata"]["name"], reason="Error", exit_code=3)
        await asyncio.sleep(240)
        (found,) = [r for r in await p.incidents() if r.target.name == "cart"]
        assert found.state is IncidentState.ESCALATED
        assert found.diagnosis is not None
        assert found.diagnosis.cause == "crash-loop"
        assert "panic: no database" in found.diagnosis.evidence["log"]["lines"]

    sim(test)


def test_saturation_scales_out_but_never_against_an_autoscaler(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine()
        began = await p.alert(engine, alertname="WorkloadSaturated", workload="checkout")
        await p.until(IncidentState.VERIFYING)
        assert (await p.deployment("checkout"))["spec"]["replicas"] == 3
        await p.alert(engine, "resolved", started=began, alertname="WorkloadSaturated", workload="checkout")
        await p.until(IncidentState.RESOLVED)
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "cart"}
        hpa = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "cart", "namespace": SHOP},
            "spec": {"scaleTargetRef": reference, "maxReplicas": 9},
        }
        await p.cluster.create(HORIZONTAL_POD_AUTOSCALERS, hpa, namespace=SHOP)
        await p.alert(engine, alertname="WorkloadSaturated")
        await asyncio.sleep(60)
        waiting = (await p.incidents())[-1]
        assert "HorizontalPodAutoscaler cart owns the replicas" in waiting.message
        assert (await p.deployment())["spec"]["replicas"] == 2

    sim(test)


def test_a_node_that_stays_down_is_drained_and_given_back_after_recovery(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(drain={"ttl": "30m", "timeout": "5m"})
        await p.engine()
        p.emulator.controllers.set_node_ready("worker-0", "False", reason="KubeletNotReady")
        drained = await p.until(IncidentState.ACTING, IncidentState.VERIFYING)
        node = await p.cluster.get(NODES, "worker-0")
        assert node["spec"]["unschedulable"]
        assert node["metadata"]["annotations"][CORDON_OWNER] == drained.name
        p.emulator.controllers.set_node_ready("worker-0", "True", reason="KubeletReady")
        ended = await p.until(IncidentState.RESOLVED, within=1200)
        node = await p.cluster.get(NODES, "worker-0")
        assert not node["spec"].get("unschedulable")
        assert CORDON_OWNER not in node["metadata"].get("annotations", {})
        assert ended.rollback is not None
        pods = (await p.cluster.list(PODS, namespace=SHOP)).items
        assert all(pod["status"]["phase"] == "Running" for pod in pods)

    sim(test)


def test_a_persons_cordon_is_theirs(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        await p.engine()
        await p.patch_node("worker-0", {"spec": {"unschedulable": True}})
        p.emulator.controllers.set_node_ready("worker-0", "False", reason="KubeletNotReady")
        await asyncio.sleep(300)
        assert "cordoned by somebody else" in (await p.incident()).message
        p.emulator.controllers.set_node_ready("worker-0", "True", reason="KubeletReady")
        await p.until(IncidentState.SELF_HEALED)
        assert (await p.cluster.get(NODES, "worker-0"))["spec"]["unschedulable"]

    sim(test)


def test_approval_by_the_api_lets_a_plan_go_on(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine(config=with_mode("approve"))
        await p.alert(engine)
        waiting = await p.until(IncidentState.AWAITING_APPROVAL)
        await asyncio.sleep(60)
        assert await p.restarts() == 0
        await Service(engine).resolve(waiting.name, "approve", waiting.plan_id, "ann")
        acted = await p.until(IncidentState.VERIFYING)
        assert any("approved by ann" in g.reason for g in acted.guards)

    sim(test)


def test_a_persons_request_goes_through_the_same_guards(sim: Sim) -> None:
    from clusterheal.engine.api_models import RemediateIn, Target

    async def test(p: Platform) -> None:
        await p.policy()
        engine = await p.engine(config=with_mode("approve"))
        service = Service(engine)
        ask = RemediateIn(target=Target(kind="Deployment", namespace=SHOP, name="cart"), action="restart")
        rehearsed = await service.remediate(ask, "ann")
        assert (rehearsed.id, rehearsed.allowed) == (None, True)
        assert "accepted" in rehearsed.api_server
        assert await p.restarts() == 0
        opened = await service.remediate(ask.model_copy(update={"dry_run": False}), "ann")
        ended = await p.until(IncidentState.RESOLVED)
        assert ended.name == opened.id
        assert ended.diagnosis is not None
        assert ended.diagnosis.cause == "requested by ann"
        assert await p.restarts() == 1

    sim(test)


def test_flapping_is_one_incident(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(mode="observe")
        engine = await p.engine(config=replace(CONFIG, quiet=timedelta(seconds=60)))
        for _ in range(6):
            began = await p.alert(engine)
            await asyncio.sleep(10)
            await p.alert(engine, "resolved", started=began)
            await asyncio.sleep(10)
        found = await p.incident()
        assert found.observations[0].flaps == 5

    sim(test)


def test_missing_rights_are_named_in_the_incident(sim: Sim) -> None:
    from clusterheal.kube.ports import ApiError

    async def test(p: Platform) -> None:
        await p.policy()

        class NoPatch(type(p.cluster)):  # type: ignore[misc]
            async def patch(self, resource, name, patch, **options):  # type: ignore[no-untyped-def]
                if resource == DEPLOYMENTS:
                    raise ApiError(403, "Forbidden", "cannot patch resource deployments")
                return await super().patch(resource, name, patch, **options)

        engine = await p.engine(cluster=NoPatch(p.emulator.api))
        await p.alert(engine)
        ended = await p.until(IncidentState.ESCALATED)
        assert "may not patch deployments in shop" in ended.message
        assert await p.restarts() == 0

    sim(test)


def test_a_target_that_is_deleted_ends_its_incident(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        await p.label_namespace(**{"clusterheal.io/pause": "true"})
        engine = await p.engine()
        await p.alert(engine)
        await p.until(IncidentState.PLANNED)
        await p.cluster.delete(DEPLOYMENTS, "cart", namespace=SHOP)
        ended = await p.until(IncidentState.SELF_HEALED, IncidentState.ESCALATED, within=1200)
        assert ended.ended

    sim(test)
