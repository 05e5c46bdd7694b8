"""restricted-v2, probes, limits, pinned images; and checkov, but for what manifests/exceptions.yaml justifies."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.rendering import (
    MANIFESTS,
    OPTIONS,
    OVERLAYS,
    Manifest,
    Variants,
    containers,
    kustomize,
    label,
    one,
    pods,
)

pytestmark = pytest.mark.manifests
PINNED = re.compile(r"^[a-z0-9.-]+(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}$")
EXCEPTIONS = MANIFESTS / "exceptions.yaml"


def exceptions(check: str) -> set[str]:
    """Objects for which a check of ours is waived."""
    entries = yaml.safe_load(EXCEPTIONS.read_text())["ours"]
    return {o for e in entries if e["check"] == check for o in e["objects"]}


def everything(variants: Variants) -> list[Manifest]:
    return [o for objects in [*variants.everywhere().values(), kustomize(MANIFESTS / "kubeflow")] for o in objects]


def test_containers_are_restricted(variants: Variants) -> None:
    seen, writable = set(), set()
    for o in everything(variants):
        for pod, container in containers(o):
            context = {**pod.get("securityContext", {}), **container["securityContext"]}
            assert context["runAsNonRoot"] is True, label(o)
            assert context["allowPrivilegeEscalation"] is False, label(o)
            assert context["capabilities"] == {"drop": ["ALL"]}, label(o)
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}, label(o)
            assert not context.get("privileged"), label(o)
            if not context.get("readOnlyRootFilesystem"):
                writable.add(label(o))
            seen.add(label(o))
    assert seen >= {"Deployment/coordination-engine", "Notebook/self-healing-workbench", "Job/clusterheal-schedules"}
    assert writable == exceptions("writable-root")


def test_openshift_chooses_users_and_groups(variants: Variants) -> None:
    for platform in ("rhoai-2x", "rhoai-3x"):
        for name in OVERLAYS:
            for o in variants(name, platform, OPTIONS):
                for pod, container in containers(o):
                    context = {**pod.get("securityContext", {}), **container["securityContext"]}
                    assert context.keys().isdisjoint({"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"})


def test_pods_share_nothing_with_their_node(variants: Variants) -> None:
    for o in everything(variants):
        for pod in pods(o):
            assert not any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")), label(o)
            assert not any("hostPath" in volume for volume in pod.get("volumes") or []), label(o)
            assert pod.get("enableServiceLinks", False) is False, label(o)


def test_a_read_only_container_has_room_for_temporary_files(variants: Variants) -> None:
    for o in everything(variants):
        for pod, container in containers(o):
            if container["securityContext"].get("readOnlyRootFilesystem"):
                mounted = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
                volume = next(v for v in pod["volumes"] if v["name"] == mounted["/tmp"])
                assert "sizeLimit" in volume["emptyDir"], label(o)


def test_every_container_has_requests_limits_and_probes(variants: Variants) -> None:
    for o in everything(variants):
        for _, container in containers(o):
            resources = container["resources"]
            for bound in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(resources[bound]), label(o)
            if o["kind"] == "Job":
                continue
            assert "livenessProbe" in container, label(o)
            assert "readinessProbe" in container or o["kind"] == "ServingRuntime", label(o)
    for o in variants("development"):
        if o["kind"] == "InferenceService":  # the path has the model's name, so it is not the runtime's
            path = o["spec"]["predictor"]["model"]["readinessProbe"]["httpGet"]["path"]
            assert path == f"/v2/models/{o['metadata']['name']}/ready"


def test_every_image_is_pinned_by_digest_and_comes_from_one_place(variants: Variants) -> None:
    declared = yaml.safe_load((MANIFESTS / "components/images/kustomization.yaml").read_text())["images"]
    places = {f"{entry['newName']}@{entry['digest']}" for entry in declared}
    used = set()
    for o in everything(variants):
        images = [c["image"] for _, c in containers(o)]
        if o["kind"] == "DataSciencePipelinesApplication" and "minio" in o["spec"]["objectStorage"]:
            images.append(o["spec"]["objectStorage"]["minio"]["image"])
        for image in images:
            assert PINNED.match(image), f"{label(o)}: {image}"
            used.add(image)
    assert used == places
    for file in MANIFESTS.rglob("*.yaml"):
        if file.parent.name != "images":
            assert "newName:" not in file.read_text(), f"{file}: images are set in components/images alone"


def test_the_schedules_compile_their_own_image_into_the_pipelines(variants: Variants) -> None:
    job = one(variants("development"), "Job", "clusterheal-schedules")
    for _, container in containers(job):
        variables = {e["name"]: e.get("value") for e in container["env"]}
        assert variables["PIPELINE_IMAGE"] == container["image"]
        assert container["args"][-2:] == ["--image", "$(PIPELINE_IMAGE)"]


def test_no_secret_is_in_git(variants: Variants) -> None:
    assert not [label(o) for o in everything(variants) if o["kind"] == "Secret"]
    for file in MANIFESTS.rglob("*"):
        if file.is_file():
            assert "PRIVATE KEY" not in file.read_text()


@pytest.fixture(scope="module")
def checkov_findings(variants: Variants, tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """(check, object) of everything that checkov finds wrong in any variant."""
    folder = tmp_path_factory.mktemp("checkov")
    known: dict[str, Manifest] = {json.dumps(o, sort_keys=True): o for o in everything(variants)}
    known |= {json.dumps(o, sort_keys=True): o for o in kustomize(MANIFESTS / "cluster")}
    # checkov knows built-in kinds only: a custom resource's pods are checked as those of a Deployment. A file with
    # `{{`, as alerts and dashboards have it, is taken for a Helm template and skipped as a whole.
    texts = [yaml.safe_dump(_as_built_in(o)) for o in known.values()]
    (folder / "all.yaml").write_text("---\n".join(text for text in texts if "{{" not in text))
    command = [
        sys.executable,
        "-m",
        "checkov.main",
        "--framework",
        "kubernetes",
        "--skip-download",
        "--quiet",
        "--output",
        "json",
    ]
    done = subprocess.run([*command, "--directory", str(folder)], capture_output=True, text=True, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["summary"]["passed"] > 300, done.stderr[-500:]
    return {(c["check_id"], _object(c["resource"])) for c in report["results"]["failed_checks"]}


def _as_built_in(o: Manifest) -> Manifest:
    if o["kind"] not in ("Notebook", "ServingRuntime"):
        return o
    pod = next(pods(o))
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**o["metadata"], "name": o["metadata"]["name"]},
        "spec": {"template": {"metadata": {"labels": {"app": o["metadata"]["name"]}}, "spec": pod}},
    }


def _object(resource: str) -> str:
    kind, _, rest = resource.partition(".")
    return f"{kind}/{rest.partition('.')[2]}" if kind not in ("ClusterRole", "ClusterRoleBinding") else f"{kind}/{rest}"


def test_checkov_finds_nothing_that_is_not_justified(checkov_findings: set[tuple[str, str]]) -> None:
    entries = yaml.safe_load(EXCEPTIONS.read_text())["checkov"]
    assert all(len(entry["why"]) > 20 for entry in entries)
    justified = {(entry["check"], o) for entry in entries for o in entry["objects"]}
    assert checkov_findings - justified == set()
    assert justified - checkov_findings == set(), "no longer needed"


def test_every_exception_of_ours_is_explained() -> None:
    entries = yaml.safe_load(Path(EXCEPTIONS).read_text())["ours"]
    assert all(len(entry["why"]) > 20 for entry in entries)
