"""What a person asks for by the API: every action, completed from the target, rehearsed by the API server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from platform_kit import Platform, with_mode
from test_playbooks import NAMESPACE, SHOP, TRACKED, a_claim, a_class, a_model, container, limit, note

from clusterheal.contracts import IncidentState
from clusterheal.engine.api_models import RemediateIn, Target
from clusterheal.engine.names import CORDON_OWNER, CORDON_UNTIL
from clusterheal.engine.ownership import ARGO_TRACKING, HELM_RELEASE
from clusterheal.engine.service import Service
from clusterheal.errors import InvalidInput
from clusterheal.local.kube.platform import platform_definitions

Sim = Callable[[Callable[[Platform], Awaitable[None]]], None]
CART = Target(kind="Deployment", namespace=SHOP, name="cart")
NODE = Target(kind="Node", name="worker-0")
MODEL = Target(kind="InferenceService", namespace=NAMESPACE, name="anomaly-detector")
DATA = Target(kind="PersistentVolumeClaim", namespace=SHOP, name="data")


async def prepared(p: Platform) -> Service:
    """A limit, a claim, a cordon of the engine's, a model with an earlier version, an application of Argo CD's."""
    await p.policy(resources={"maxMemory": "2Gi"}, volumes={"maxSize": "100Gi"})
    await p.clock.sleep(60)  # the first revision
    await container(p, limits={"memory": "256Mi"})
    await note(p, **TRACKED)
    p.emulator.load(platform_definitions())
    application = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {"name": "shop", "namespace": "argocd"},
        "spec": {},
        "status": {"sync": {"status": "Synced", "revision": "4f2a"}},
    }
    p.emulator.load([a_class(expands=True), a_claim(), a_model(now=p.clock.now()), application])
    notes = {CORDON_OWNER: "node-worker-0-1", CORDON_UNTIL: "2099-01-01T00:00:00Z"}
    await p.patch_node("worker-0", {"metadata": {"annotations": notes}, "spec": {"unschedulable": True}})
    return Service(await p.engine(config=with_mode("approve")))


def test_every_action_is_rehearsed_with_what_the_target_tells(sim: Sim) -> None:
    wanted: list[tuple[str, Target, dict[str, Any], dict[str, Any]]] = [
        ("restart", CART, {}, {}),
        ("scale", CART, {"to_replicas": 3}, {"from_replicas": 2, "to_replicas": 3}),
        (
            "patch-resources",
            CART,
            {"container": "main", "resource": "memory", "to_limit": "512Mi"},
            {"from_limit": "256Mi", "to_limit": "512Mi"},
        ),
        ("undo", CART, {}, {"to_revision": 1}),
        ("sync", CART, {}, {"name": "cart", "namespace": SHOP, "revision": "4f2a"}),
        ("expand-volume", DATA, {"to_size": "20Gi"}, {"from_size": "10Gi", "to_size": "20Gi"}),
        ("uncordon", NODE, {}, {"owner": "node-worker-0-1"}),
        ("drain", Target(kind="Node", name="worker-1"), {"ttl_seconds": 600}, {"ttl_seconds": 600.0}),
        ("roll-back-model", MODEL, {}, {"from_uri": "s3://models/anomaly-detector/v000002/"}),
    ]

    async def test(p: Platform) -> None:
        service = await prepared(p)
        for action, target, parameters, completed in wanted:
            ask = RemediateIn.model_validate(
                {"target": target.model_dump(), "action": action, "parameters": parameters}
            )
            answer = await service.remediate(ask, "ann")
            assert answer.plan["action"] == action
            assert completed.items() <= answer.plan["parameters"].items(), action
            assert answer.api_server == "accepted by the API server's dry run", action
            assert answer.id is None
        assert not any(r.request for r in await p.incidents()), "nothing was opened"

    sim(test)


@pytest.mark.parametrize(
    ("action", "target", "parameters", "says"),
    [
        ("drain", CART, {}, "drain is for Node"),
        ("expand-volume", NODE, {}, "for PersistentVolumeClaim"),
        ("patch-resources", CART, {}, "one of main"),
        ("patch-resources", CART, {"container": "main", "resource": "cpu", "to_limit": "1"}, "no cpu limit"),
        ("patch-resources", CART, {"container": "main", "resource": "memory", "to_limit": 7}, "such as 512Mi"),
        ("patch-resources", CART, {"container": "main", "resource": "memory", "to_limit": "much"}, "much"),
        ("expand-volume", DATA, {"to_size": "5Gi"}, "above the 10Gi"),
        ("scale", CART, {"to_replicas": "many"}, "many"),
        ("scale", CART, {"to_replicas": float("inf")}, "infinity"),
        ("drain", Target(kind="Node", name="worker-1"), {"ttl_seconds": 1e300}, "up to 2592000"),
        ("uncordon", Target(kind="Node", name="worker-1"), {}, "no cordon of this engine's"),
    ],
)
def test_what_makes_no_plan_is_refused_with_what_was_expected(
    sim: Sim, action: str, target: Target, parameters: dict[str, Any], says: str
) -> None:
    async def test(p: Platform) -> None:
        service = await prepared(p)
        ask = RemediateIn.model_validate({"target": target.model_dump(), "action": action, "parameters": parameters})
        with pytest.raises(InvalidInput, match=says):
            await service.remediate(ask, "ann")

    sim(test)


def test_a_limit_is_raised_on_request_within_the_policy(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        await p.policy(resources={"maxMemory": "2Gi"})
        await container(p, limits={"memory": "256Mi"})
        service = Service(await p.engine(config=with_mode("approve")))
        values = {"container": "main", "resource": "memory", "to_limit": "4Gi"}
        ask = RemediateIn(target=CART, action="patch-resources", parameters=values, dry_run=True)
        beyond = await service.remediate(ask, "ann")
        assert [g.guard for g in beyond.guards if not g.allowed] == ["held"]
        modest = ask.model_copy(update={"parameters": {**values, "to_limit": "512Mi"}, "dry_run": False})
        opened = await service.remediate(modest, "ann")
        ended = await p.until(IncidentState.RESOLVED, IncidentState.ESCALATED)
        assert (ended.name, ended.state) == (opened.id, IncidentState.RESOLVED), ended.message
        assert await limit(p, "memory") == "512Mi"

    sim(test)


def test_an_action_that_this_engine_does_not_know_makes_no_plan(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        service = Service(await p.engine(config=with_mode("approve")))
        ask = RemediateIn.model_construct(target=CART, action="reboot", parameters={}, dry_run=True)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="no action 'reboot'"):
            await service.remediate(ask, "ann")

    sim(test)


def test_a_helm_release_with_the_name_of_an_application_is_not_synced(sim: Sim) -> None:
    async def test(p: Platform) -> None:
        service = await prepared(p)
        await p.patch("cart", {"metadata": {"annotations": {ARGO_TRACKING: None, HELM_RELEASE: "shop"}}})
        await p.clock.sleep(1)  # until the engine's watch has it
        with pytest.raises(InvalidInput, match="belongs to no Argo CD application"):
            await service.remediate(RemediateIn(target=CART, action="sync"), "ann")

    sim(test)
