"""Rights: exactly what the code asks for, bound to the account that runs it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from clusterheal_pipelines.cluster import CONFIG_MAP, SECRET_VARIABLES, STORAGE_SECRET, VARIABLES

from clusterheal.engine.auth import VERBS
from clusterheal.engine.names import LEASE_NAME, PAUSE_CONFIG_MAP
from clusterheal.rollout.shadow import CRD
from tests.manifests.kube_calls import Right, rights_asked_for
from tests.manifests.rendering import (
    MANIFESTS,
    OPTIONS,
    OVERLAYS,
    PLATFORMS,
    Manifest,
    Variants,
    kustomize,
    label,
    one,
)

pytestmark = pytest.mark.manifests
READING = {"get", "list", "watch"}
ACTING_ON_WORKLOADS = {("apps", kind, "patch") for kind in ("deployments", "statefulsets", "daemonsets")} | {
    ("", "persistentvolumeclaims", "patch"),
    ("argoproj.io", "applications", "patch"),
    ("serving.kserve.io", "inferenceservices", "patch"),
}
ACTING_ON_NODES = {("", "nodes", "patch"), ("", "pods/eviction", "create")}
MCO = "machineconfiguration.openshift.io"
GROUP = "clusterheal.io"


@pytest.fixture(scope="module")
def cluster_layer() -> list[Manifest]:
    return kustomize(MANIFESTS / "cluster")


def granted(role: Manifest) -> set[Right]:
    return {
        (g, r, v) for rule in role["rules"] for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]
    }


def all_granted(roles: Iterable[Manifest]) -> set[Right]:
    return set().union(*(granted(role) for role in roles))


def roles_of(account: str, objects: list[Manifest], cluster_layer: list[Manifest]) -> list[Manifest]:
    """The roles of ours that bindings give to a service account, by its name or as a user."""
    found = []
    for binding in objects:
        if not binding["kind"].endswith("RoleBinding"):
            continue
        names = {s["name"].rpartition(":")[2] for s in binding["subjects"]}
        reference = binding["roleRef"]
        if account in names:
            found += [
                o
                for o in [*objects, *cluster_layer]
                if (o["kind"], o["metadata"]["name"]) == (reference["kind"], reference["name"])
            ]
    return found


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_engine_may_do_what_its_code_asks_for_and_nothing_else(
    variants: Variants, cluster_layer: list[Manifest], name: str, platform: str
) -> None:
    objects = variants(name, platform, ["remediation-enforce", "remediation-nodes", "mco-access"])
    wanted = rights_asked_for("engine")
    given = all_granted(roles_of("self-healing-operator", objects, cluster_layer))
    assert wanted - given == set(), "asked for and not granted"
    assert given - wanted == set(), "granted and never asked for"


@pytest.mark.parametrize("name", OVERLAYS)
def test_as_it_stands_the_engine_only_reads_beyond_its_own_namespace(
    variants: Variants, cluster_layer: list[Manifest], name: str
) -> None:
    roles = roles_of("self-healing-operator", variants(name), cluster_layer)
    reviews = {
        ("authentication.k8s.io", "tokenreviews", "create"),
        ("authorization.k8s.io", "subjectaccessreviews", "create"),
    }
    beyond = all_granted(r for r in roles if r["kind"] == "ClusterRole")
    assert {right for right in beyond if right[2] not in READING} == reviews
    asked = rights_asked_for("engine")
    assert asked - all_granted(roles) == ACTING_ON_WORKLOADS | ACTING_ON_NODES, "what is left to opt in to"


def test_reading_and_acting_are_separate_roles(cluster_layer: list[Manifest]) -> None:
    assert granted(one(cluster_layer, "ClusterRole", "clusterheal-engine-act")) == ACTING_ON_WORKLOADS
    assert granted(one(cluster_layer, "ClusterRole", "clusterheal-node-act")) == ACTING_ON_NODES
    for o in cluster_layer:
        if o["kind"] == "ClusterRole" and not o["metadata"]["name"].endswith(
            ("-act", "-operate")
        ):  # the last is people's
            writing = {right for right in granted(o) if right[2] not in READING}
            assert {resource for _, resource, _ in writing} <= {"tokenreviews", "subjectaccessreviews"}, label(o)


def test_writes_in_the_engine_s_namespace_are_limited_to_its_own_names(variants: Variants) -> None:
    rules = one(variants("production"), "Role", "self-healing-operator")["rules"]
    for resource, name in (("leases", LEASE_NAME), ("configmaps", PAUSE_CONFIG_MAP)):
        for rule in rules:
            if resource in rule["resources"] and rule["verbs"] != ["create"]:
                assert rule["resourceNames"] == [name]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_pipelines_may_roll_out_and_nothing_else_of_ours(
    variants: Variants, cluster_layer: list[Manifest], name: str, platform: str
) -> None:
    account = "pipeline-runner" if platform == "vanilla-kubernetes" else "pipeline-runner-dspa"
    roles = roles_of(account, variants(name, platform), cluster_layer)
    wanted, given = rights_asked_for("rollout"), all_granted(roles)
    assert wanted - given == set(), "asked for and not granted"
    # server-side apply of an object that is not there is authorized as a create, too
    assert given - wanted == {("serving.kserve.io", "inferenceservices", "create")}
    definition = next(r for role in roles for r in role["rules"] if "customresourcedefinitions" in r["resources"])
    assert definition["resourceNames"] == [CRD]


def test_people_get_what_the_api_asks_of_them_by_kubernetes_own_roles(cluster_layer: list[Manifest]) -> None:
    view, operate = (one(cluster_layer, "ClusterRole", f"clusterheal-{name}") for name in ("view", "operate"))
    reads, writes = granted(view), granted(operate)
    asked = {(GROUP, f"{kind}/{part}" if part else kind, verb) for verb, kind, part in VERBS.values()}
    assert asked <= reads | writes
    assert {verb for _, _, verb in reads} == READING
    assert READING.isdisjoint({verb for _, _, verb in writes})
    labels = {f"rbac.authorization.k8s.io/aggregate-to-{role}" for role in ("view", "admin")}
    assert {key for role in (view, operate) for key in role["metadata"]["labels"] if "aggregate" in key} == labels


def test_the_source_has_calls_of_every_kind() -> None:
    """The reading of the source itself: what is known to be there is found."""
    asked = rights_asked_for("engine")
    assert ("clusterheal.io", "incidents/status", "update") in asked
    assert ("coordination.k8s.io", "leases", "update") in asked
    assert (MCO, "machineconfigpools", "watch") in asked
    assert len(asked) > 40


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_no_wildcard_no_cluster_admin_and_the_mco_is_only_read(
    variants: Variants, cluster_layer: list[Manifest], name: str, platform: str
) -> None:
    objects = [*variants(name, platform, OPTIONS), *cluster_layer]
    roles = [o for o in objects if o["kind"] in ("Role", "ClusterRole")]
    assert len(roles) >= 7
    for role in roles:
        for group, resource, verb in granted(role):
            assert "*" not in (group, resource, verb), label(role)
            assert verb not in ("escalate", "bind", "impersonate"), label(role)
            assert resource not in ("secrets", "pods/exec"), label(role)
            if group == MCO:
                assert verb in READING
    bound = {o["roleRef"]["name"] for o in objects if o["kind"].endswith("RoleBinding")}
    assert bound.isdisjoint({"cluster-admin", "admin", "edit"})


@pytest.mark.parametrize("platform", ["rhoai-2x", "rhoai-3x"])
@pytest.mark.parametrize("name", OVERLAYS)
def test_metrics_pipelines_and_schedules_have_the_platform_s_roles(
    variants: Variants, name: str, platform: str
) -> None:
    bindings = {
        (o["kind"], o["roleRef"]["name"], s["name"])
        for o in variants(name, platform)
        if o["kind"].endswith("RoleBinding")
        for s in o["subjects"]
    }
    assert ("ClusterRoleBinding", "cluster-monitoring-view", "self-healing-operator") in bindings
    assert ("ClusterRoleBinding", "cluster-monitoring-view", "pipeline-runner-dspa") in bindings
    assert ("RoleBinding", "ds-pipeline-user-access-dspa", "clusterheal-schedules") in bindings
    assert {role for _, role, account in bindings if account == "clusterheal-schedules"} == {
        "ds-pipeline-user-access-dspa"
    }


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_pipelines_find_every_variable_that_they_are_compiled_with(
    variants: Variants, name: str, platform: str
) -> None:
    objects = variants(name, platform)
    data = one(objects, "ConfigMap", CONFIG_MAP)["data"]
    assert set(data) == set(VARIABLES)
    needed = ["CLUSTERHEAL_PROMETHEUS__URL", "CLUSTERHEAL_DATASET__S3_ENDPOINT", "CLUSTERHEAL_REGISTRY__URL"]
    assert all(data[key].startswith(("http://", "https://")) for key in needed)
    assert data["CLUSTERHEAL_KUBERNETES__NAMESPACE"] == objects_namespace(objects)
    for o in objects:
        if o["kind"] == "ExternalSecret" and o["metadata"]["name"] == STORAGE_SECRET:
            assert {entry["secretKey"] for entry in o["spec"]["data"]} >= set(SECRET_VARIABLES)


def test_kubeflow_s_namespace_gets_the_same_settings(variants: Variants) -> None:
    ours = one(variants("development", "vanilla-kubernetes"), "ConfigMap", CONFIG_MAP)
    theirs = one(kustomize(MANIFESTS / "kubeflow"), "ConfigMap", CONFIG_MAP)
    assert theirs["data"] == ours["data"]
    assert theirs["metadata"]["namespace"] == "kubeflow"


def objects_namespace(objects: list[Manifest]) -> str:
    return str(next(o["metadata"]["name"] for o in objects if o["kind"] == "Namespace"))
