"""Argo CD's health checks of ours, run by Lua 5.1, which Argo CD embeds, over statuses as the controllers write them.

Its sync takes an object for done when that is Healthy or Degraded: what may stay as it is must not be Suspended.
"""

from __future__ import annotations

from typing import Any

import lupa.lua51
import pytest
import yaml

from tests.manifests.rendering import MANIFESTS, OVERLAYS, PLATFORMS, Manifest, Variants, pods

pytestmark = pytest.mark.manifests
ROLLED_OUT = {"predictor": {"model": {"storage": {"key": "model-storage", "path": "anomaly-detector/v000001/"}}}}


def ready(status: str, reason: str = "", message: str = "") -> Manifest:
    condition = {"type": "Ready", "status": status, "reason": reason, "message": message}
    return {"conditions": [{"type": "Other", "status": "True"}, condition]}


def checks() -> dict[str, str]:
    spec = yaml.safe_load((MANIFESTS / "argocd/health.yaml").read_text())["spec"]
    return {entry["kind"]: entry["check"] for entry in spec["resourceHealthChecks"]}


def health(kind: str, **fields: Any) -> tuple[str, str]:
    """Status and message that the kind's check gives."""
    lua = lupa.lua51.LuaRuntime(unpack_returned_tuples=True)
    o = {"kind": kind, "metadata": {"name": "any", "namespace": "any", "generation": 2}, **fields}
    lua.globals().obj = lua.table_from(o, recursive=True)
    answer = lua.execute(checks()[kind])
    return answer["status"], answer["message"]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, "Healthy", "no model version has been rolled out yet"),
        ({"spec": {"predictor": {"model": {"storage": {"key": "model-storage"}}}}}, "Healthy", "no model version"),
        ({"spec": {"predictor": {"model": {"storageUri": "s3://b/m/"}}}}, "Progressing", "waiting for Ready"),
        ({"spec": ROLLED_OUT}, "Progressing", "waiting for Ready"),
        ({"spec": ROLLED_OUT, "status": {}}, "Progressing", "waiting for Ready"),
        ({"spec": ROLLED_OUT, "status": ready("Unknown")}, "Progressing", "waiting for Ready"),
        ({"spec": ROLLED_OUT, "status": ready("False", "PredictorNotReady")}, "Progressing", "waiting for Ready"),
        ({"spec": ROLLED_OUT, "status": {"observedGeneration": 1, **ready("True")}}, "Progressing", "not observed yet"),
        ({"spec": ROLLED_OUT, "status": {"observedGeneration": 2, **ready("True")}}, "Healthy", "ready"),
        ({"spec": ROLLED_OUT, "status": ready("True")}, "Healthy", "ready"),
        (
            {
                "spec": ROLLED_OUT,
                "status": {"modelStatus": {"transitionStatus": "BlockedByFailedLoad"}, **ready("False")},
            },
            "Degraded",
            "BlockedByFailedLoad",
        ),
        (
            {"spec": ROLLED_OUT, "status": {"modelStatus": {"transitionStatus": "UpToDate"}, **ready("True")}},
            "Healthy",
            "ready",
        ),
    ],
)
def test_inference_service(fields: Manifest, status: str, message: str) -> None:
    said = health("InferenceService", **fields)
    assert said[0] == status
    assert message in said[1]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, "Progressing", "waiting for Ready"),
        ({"status": {}}, "Progressing", "waiting for Ready"),
        ({"status": ready("False", "Deploying")}, "Progressing", "waiting for Ready"),
        ({"status": ready("False", "FailingToDeploy", "no room")}, "Degraded", "no room"),
        ({"status": ready("True", "MinimumReplicasAvailable")}, "Healthy", "ready"),
    ],
)
def test_pipelines_server(fields: Manifest, status: str, message: str) -> None:
    assert health("DataSciencePipelinesApplication", **fields) == (status, message)


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({}, "Progressing", "starting"),
        ({"status": {"readyReplicas": 0}}, "Progressing", "starting"),
        ({"status": {"readyReplicas": 1}}, "Healthy", "running"),
        ({"metadata": {"annotations": {"kubeflow-resource-stopped": "2026-01-01T00:00:00Z"}}}, "Healthy", "stopped"),
    ],
)
def test_notebook(fields: Manifest, status: str, message: str) -> None:
    assert health("Notebook", **fields) == (status, message)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_a_volume_comes_in_the_wave_of_what_mounts_it(variants: Variants, name: str, platform: str) -> None:
    """Argo CD waits for a claim to be Bound, which with WaitForFirstConsumer it is once a pod mounts it."""
    objects = variants(name, platform)

    def wave(o: Manifest) -> int:
        return int(o["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", 0))

    claims = {o["metadata"]["name"]: wave(o) for o in objects if o["kind"] == "PersistentVolumeClaim"}
    mounts = [(v, wave(o)) for o in objects for pod in pods(o) for v in pod.get("volumes", [])]
    mounted = {v["persistentVolumeClaim"]["claimName"]: w for v, w in mounts if "persistentVolumeClaim" in v}
    assert mounted
    assert claims == mounted
