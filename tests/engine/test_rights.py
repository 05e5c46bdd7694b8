"""The engine's ClusterRoles equal what its code calls: nothing missing, nothing to spare."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import yaml

from clusterheal.engine.actions import ACTIONS
from clusterheal.engine.api_models import RemediateIn
from clusterheal.engine.cache import WANTED
from clusterheal.engine.diagnosis.requested import APPLIES
from clusterheal.kube.ports import Resource
from clusterheal.kube.resources import (
    APPLICATIONS,
    DAEMON_SETS,
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    STATEFUL_SETS,
)

CLUSTER = Path(__file__).parents[2] / "manifests" / "cluster"
ROLLED = (DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS)
PATCHED: dict[str, tuple[Resource, ...]] = {
    "restart": ROLLED,
    "undo": (DEPLOYMENTS,),
    "scale": (DEPLOYMENTS, STATEFUL_SETS),
    "patch-resources": ROLLED,
    "drain": (NODES,),
    "uncordon": (NODES,),
    "expand-volume": (PERSISTENT_VOLUME_CLAIMS,),
    "sync": (APPLICATIONS,),
    "roll-back-model": (INFERENCE_SERVICES,),
}


def granted(*names: str) -> dict[tuple[str, str], set[str]]:
    """Verbs by (group, resource)."""
    found: dict[tuple[str, str], set[str]] = {}
    for name in names:
        for rule in yaml.safe_load((CLUSTER / "roles" / name).read_text())["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def test_the_engine_may_follow_exactly_what_its_cache_follows() -> None:
    followed = {(w.resource.group, w.resource.plural) for w in WANTED if not w.own_namespace}
    given = granted("engine-read.yaml", "mco-read.yaml")
    assert followed == {key for key, verbs in given.items() if {"list", "watch"} <= verbs}


def test_the_engine_may_change_exactly_what_its_actions_change() -> None:
    assert PATCHED.keys() == ACTIONS.keys(), "a new action needs its resources here, and its rights in cluster/roles"
    called = {(r.group, r.plural) for resources in PATCHED.values() for r in resources}
    given = granted("engine-act.yaml", "node-act.yaml")
    assert given.pop(("", "pods/eviction")) == {"create"}
    assert given == {key: {"patch"} for key in called}


def test_a_person_may_ask_for_every_action() -> None:
    offered = get_args(RemediateIn.model_fields["action"].annotation)
    assert set(offered) == set(APPLIES) == set(ACTIONS)


def test_policies_may_name_every_action() -> None:
    schema = yaml.safe_load((CLUSTER / "crds" / "remediationpolicies.clusterheal.io.yaml").read_text())
    spec = schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert set(spec["actions"]["items"]["enum"]) == ACTIONS.keys() - {"uncordon"}, "what drains may uncordon"
