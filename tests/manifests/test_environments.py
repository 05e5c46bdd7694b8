"""Every combination builds, a new environment is a copy of one folder, and each platform gets what it reads."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from clusterheal.rollout.state import REGISTRY_LABELS, VERSION_LABEL
from tests.manifests.rendering import (
    INCLUDED,
    MANIFESTS,
    NAMESPACES,
    OPTIONS,
    OVERLAYS,
    PLATFORMS,
    Manifest,
    Variants,
    copy_of_manifests,
    kustomize,
    label,
    one,
)

pytestmark = pytest.mark.manifests
CLUSTER_SCOPED = {"Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}


def test_every_component_is_declared_in_these_tests_and_in_the_readme() -> None:
    folders = {p.parent.name for p in (MANIFESTS / "components").glob("*/kustomization.yaml")}
    assert folders == {*OPTIONS, *PLATFORMS, *INCLUDED}
    text = (MANIFESTS / "README.md").read_text()
    assert [name for name in folders if f"`{name}`" not in text] == []


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_builds_on_every_overlay_and_platform(variants: Variants, option: str) -> None:
    for name in OVERLAYS:
        for platform in PLATFORMS:
            objects = variants(name, platform, [option])
            assert len(objects) >= len(variants(name, platform))
            keys = [(o["apiVersion"], label(o), o["metadata"].get("namespace")) for o in objects]
            assert len(keys) == len(set(keys))


def test_staging_is_a_copy_of_one_folder(tmp_path: Path) -> None:
    """The commands are the README's."""
    copy_of_manifests(tmp_path)
    block = (
        (MANIFESTS / "README.md").read_text().split("**One more environment**")[1].split("```sh\n")[1].split("```")[0]
    )
    *commands, render = block.strip().splitlines()
    assert render == "kubectl kustomize manifests/overlays/staging"
    for command in commands:
        subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
    objects = kustomize(tmp_path / "manifests/overlays/staging")
    production = kustomize(tmp_path / "manifests/overlays/production")
    assert len(objects) == len(production)
    namespace = "self-healing-platform-staging"
    for o in objects:
        if o["kind"] not in CLUSTER_SCOPED:
            assert o["metadata"]["namespace"] == namespace
        if o["kind"].endswith("RoleBinding"):
            assert {s["namespace"] for s in o["subjects"]} == {namespace}
    ours = {label(o) for o in objects if o["kind"] in CLUSTER_SCOPED}
    theirs = {label(o) for o in production if o["kind"] in CLUSTER_SCOPED}
    assert ours.isdisjoint(theirs), "two environments may not share a cluster-scoped object"
    text = yaml.safe_dump_all(objects)
    assert re.findall(r"coordination-engine\.self-healing-platform\.svc|/notebook/self-healing-platform/", text) == []


def test_overlays_carry_their_namespace_by_the_same_file() -> None:
    texts = {(MANIFESTS / "overlays" / name / "namespace.yaml").read_text() for name in OVERLAYS}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("platform", "annotation", "mode"),
    [("rhoai-2x", "inject-oauth", "RawDeployment"), ("rhoai-3x", "inject-auth", "Standard")],
)
def test_each_openshift_ai_gets_the_annotation_and_the_mode_that_it_reads(
    variants: Variants, platform: str, annotation: str, mode: str
) -> None:
    for name in OVERLAYS:
        objects = variants(name, platform)
        annotations = one(objects, "Notebook", "self-healing-workbench")["metadata"]["annotations"]
        injected = {k for k in annotations if k.startswith("notebooks.opendatahub.io/inject")}
        assert injected == {f"notebooks.opendatahub.io/{annotation}"}
        for service in (o for o in objects if o["kind"] == "InferenceService"):
            assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == mode
            assert service["metadata"]["annotations"]["security.opendatahub.io/enable-auth"] == "true"


@pytest.mark.parametrize("options", [(), OPTIONS], ids=["as it stands", "all options"])
@pytest.mark.parametrize("name", OVERLAYS)
def test_plain_kubernetes_gets_nothing_of_openshift_s(variants: Variants, name: str, options: tuple[str, ...]) -> None:
    objects = variants(name, "vanilla-kubernetes", options)
    groups = {o["apiVersion"].rpartition("/")[0] for o in objects}
    foreign = ("openshift.io", "opendatahub.io", "objectbucket.io", "kubeflow.org")
    assert {g for g in groups if g.endswith(foreign)} == set()
    told = {"Namespace", "ServingRuntime", "InferenceService", "ExternalSecret"}  # labels for a dashboard: no effect
    for o in objects:
        if o["kind"] not in told and o["kind"] != "PrometheusRule" and "Grafana" not in o["kind"]:
            assert "openshift" not in yaml.safe_dump(o), label(o)
    deployment = one(objects, "Deployment", "coordination-engine")["spec"]["template"]["spec"]
    assert {v["name"] for v in deployment["volumes"]} == {"tmp", "alert-token"}
    assert {m["name"] for m in deployment["containers"][0]["volumeMounts"]} == {"tmp", "alert-token"}
    claims = [o for o in objects if o["kind"] == "PersistentVolumeClaim"]
    assert all("storageClassName" not in c["spec"] for c in claims), "the cluster's default"


@pytest.fixture(scope="module")
def argocd() -> list[Manifest]:
    return kustomize(MANIFESTS / "argocd")


def applications(argocd: list[Manifest]) -> list[Manifest]:
    return [o for o in argocd if o["kind"] == "Application"]


def test_one_application_per_layer_in_the_order_that_they_need(argocd: list[Manifest]) -> None:
    paths = {a["spec"]["source"]["path"] for a in applications(argocd)}
    layers = {f"manifests/{kind}/{name}" for kind in ("overlays", "pipelines") for name in OVERLAYS}
    assert paths == layers | {"manifests/cluster"}

    def wave(path: str) -> int:
        app = next(a for a in applications(argocd) if a["spec"]["source"]["path"] == path)
        return int(app["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])

    for name in OVERLAYS:
        assert wave("manifests/cluster") < wave(f"manifests/overlays/{name}") < wave(f"manifests/pipelines/{name}")


def test_applications_leave_alone_what_others_write(argocd: list[Manifest]) -> None:
    for app in applications(argocd):
        assert "RespectIgnoreDifferences=true" in app["spec"]["syncPolicy"]["syncOptions"]
        if app["spec"]["source"]["path"].startswith("manifests/overlays/"):
            rules = [r for r in app["spec"]["ignoreDifferences"] if r["kind"] == "InferenceService"]
            pointers = {p for r in rules for p in r.get("jsonPointers", [])}
            written = {f"/metadata/labels/{VERSION_LABEL}"}
            written |= {f"/metadata/labels/{REGISTRY_LABELS}/{key}" for key in ("name", "model-version-id")}
            escaped = {re.sub(r"(?<=\.io)/", "~1", path) for path in written}
            assert escaped <= pointers
            assert {"/spec/predictor/model/storage/path", "/spec/predictor/model/storageUri"} <= pointers
        else:  # definitions and pipelines are not to vanish with a commit
            assert app["spec"]["syncPolicy"]["automated"]["prune"] is False


def test_the_project_allows_what_the_layers_have_and_no_secret(variants: Variants, argocd: list[Manifest]) -> None:
    project = one(argocd, "AppProject", "self-healing-platform")["spec"]
    allowed = {entry["kind"] for entry in project["clusterResourceWhitelist"]}
    layers = [*variants("production", options=OPTIONS), *kustomize(MANIFESTS / "cluster")]
    assert {o["kind"] for o in layers if o["kind"] in CLUSTER_SCOPED} == allowed
    namespaces = {d["namespace"] for d in project["destinations"]}
    assert namespaces >= {o["metadata"]["namespace"] for o in layers if "namespace" in o["metadata"]}
    assert {"group": "", "kind": "Secret"} in project["namespaceResourceBlacklist"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_pipelines_come_before_their_versions_and_stay(name: str) -> None:
    objects = kustomize(MANIFESTS / "pipelines" / name)
    pipelines = {o["metadata"]["name"] for o in objects if o["kind"] == "Pipeline"}
    versions = [o for o in objects if o["kind"] == "PipelineVersion"]
    assert {v["spec"]["pipelineName"] for v in versions} == pipelines
    for o in objects:
        assert o["metadata"]["namespace"] == NAMESPACES[name]
        annotations = o["metadata"]["annotations"]
        assert "Prune=false" in annotations["argocd.argoproj.io/sync-options"]
        assert annotations["argocd.argoproj.io/sync-wave"] == {"Pipeline": "1", "PipelineVersion": "2"}[o["kind"]]
