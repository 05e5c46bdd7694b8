"""A cluster without OpenShift's kinds, and an account without rights on them: rights are checked before kinds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import yaml
from platform_kit import Platform

from clusterheal.contracts import IncidentState
from clusterheal.kube.ports import ApiError, Resource
from clusterheal.kube.resources import MACHINE_CONFIG_POOLS
from clusterheal.local.kube.access import AccessControl, Rule, User
from clusterheal.local.simulation.scenario import NAMESPACE

ROLES = Path(__file__).parents[2] / "manifests" / "cluster" / "roles"
ENGINE = User(name="system:serviceaccount:self-healing-platform:self-healing-operator")
DEFINITIONS = Resource(
    group="apiextensions.k8s.io",
    version="v1",
    plural="customresourcedefinitions",
    kind="CustomResourceDefinition",
    namespaced=False,
)
Sim = Callable[[Callable[[Platform], Awaitable[None]]], None]


def without_mco_access() -> AccessControl:
    """What the base binds, and the engine's own namespace; not `mco-read.yaml`."""
    rules = [Rule(subjects=(ENGINE.name,), namespace=NAMESPACE)]
    for role in ("engine-read.yaml", "engine-act.yaml"):
        for rule in yaml.safe_load((ROLES / role).read_text())["rules"]:
            rules.append(
                Rule(
                    subjects=(ENGINE.name,),
                    verbs=tuple(rule["verbs"]),
                    api_groups=tuple(rule["apiGroups"]),
                    resources=tuple(rule["resources"]),
                )
            )
    return AccessControl(rules=rules, enforce=True)


@pytest.mark.parametrize("openshift", [True, False])
def test_pools_that_may_not_be_read_forbid_and_pools_that_no_server_has_do_not(sim: Sim, openshift: bool) -> None:
    async def test(p: Platform) -> None:
        await p.policy()
        if not openshift:
            await p.cluster.delete(DEFINITIONS, f"{MACHINE_CONFIG_POOLS.plural}.{MACHINE_CONFIG_POOLS.group}")
        p.emulator.api.access = without_mco_access()
        account = p.emulator.cluster(user=ENGINE, manager="engine")
        with pytest.raises(ApiError, match=r"403.*machineconfigpools"):
            await account.list(MACHINE_CONFIG_POOLS)
        engine = await p.engine(cluster=account)
        await p.alert(engine)
        if not openshift:
            await p.until(IncidentState.VERIFYING)
            assert await p.restarts() == 1
            return
        waiting = await p.until(IncidentState.PLANNED)
        verdict = next(v for v in waiting.guards if v.guard == "machine-config-pool")
        assert not verdict.allowed
        assert "may not list machineconfigpools" in verdict.reason
        assert await p.restarts() == 0

    sim(test)
