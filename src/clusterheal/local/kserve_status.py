"""What KServe's controller writes into an InferenceService's status, and the CRD it comes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clusterheal.kube.ports import Manifest

_OPEN: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


@dataclass(frozen=True, kw_only=True)
class PredictorStatus:
    """One predictor at one moment.

    `serving`: a process answers. `loading`: another one is being started for the newest spec.
    `failure`: why the newest spec does not run; `exit_code` of its process when it ended.
    """

    generation: int
    url: str | None = None
    grpc_url: str | None = None
    serving: bool = False
    loading: bool = False
    failure: str | None = None
    exit_code: int | None = None
    invalid_spec: bool = False


def build_status(status: PredictorStatus, before: Mapping[str, Any], now: datetime) -> Manifest:
    """The status object; a condition keeps its transition time while its status is the same.

    As with KServe in Standard mode, Ready stays True while an old revision serves and the new one fails to load:
    Ready says nothing about which model answers.
    """
    reason, message = _reason(status)
    conditions = [
        _condition(kind, status.serving, reason, message, before, now)
        for kind in ("IngressReady", "PredictorReady", "Ready")
    ]
    out: Manifest = {
        "observedGeneration": status.generation,
        "conditions": conditions,
        "deploymentMode": "Standard",
        "modelStatus": _model_status(status, now),
    }
    if status.url is not None:
        out["url"] = status.url
        out["address"] = {"url": status.url}
        out["components"] = {"predictor": {"url": status.url, "restUrl": status.url, "grpcUrl": status.grpc_url}}
    return out


def _reason(status: PredictorStatus) -> tuple[str | None, str | None]:
    if status.serving:
        return None, None
    if status.failure is not None:
        return "InvalidPredictorSpec" if status.invalid_spec else "ModelLoadFailed", status.failure
    return "MinimumReplicasUnavailable", "Deployment does not have minimum availability."


def _condition(
    kind: str, serving: bool, reason: str | None, message: str | None, before: Mapping[str, Any], now: datetime
) -> Manifest:
    value = "True" if serving else "False"
    conditions: list[Manifest] = before.get("conditions") or []
    old: Manifest = next((c for c in conditions if c.get("type") == kind), {})
    changed = old.get("status") != value
    condition = {
        "type": kind,
        "status": value,
        "lastTransitionTime": _rfc3339(now) if changed else old.get("lastTransitionTime", _rfc3339(now)),
    }
    if reason is not None:
        condition |= {"reason": reason, "message": message or ""}
    return condition


def _model_status(status: PredictorStatus, now: datetime) -> Manifest:
    active = "Loaded" if status.serving else "FailedToLoad" if status.failure else "Pending"
    target = "FailedToLoad" if status.failure else "Loading" if status.loading else "Loaded"
    transition = "UpToDate"
    if status.failure is not None:
        transition = "InvalidSpec" if status.invalid_spec else "BlockedByFailedLoad"
    elif status.loading or not status.serving:
        transition = "InProgress"
    out: Manifest = {
        "states": {"activeModelState": active, "targetModelState": target},
        "transitionStatus": transition,
        "copies": {"failedCopies": int(status.failure is not None), "totalCopies": int(status.serving)},
        "lastFailureInfo": None,  # in a merge patch: remove what an earlier failure left
    }
    if status.failure is not None:
        reason = "InvalidPredictorSpec" if status.invalid_spec else "ModelLoadFailed"
        out["lastFailureInfo"] = {"reason": reason, "message": status.failure, "time": _rfc3339(now)}
        if status.exit_code is not None:
            out["lastFailureInfo"]["exitCode"] = status.exit_code
    return out


def _rfc3339(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def inference_service_crd(*, canary: bool = False) -> Manifest:
    """A structural CRD with what this project uses of KServe's; `canary`: as KServe 0.20 and later has it.

    Without it, an API server drops `spec.canary` from what is written, as the real ones do.
    """
    spec: dict[str, Any] = {"predictor": {**_OPEN, "properties": {"model": _OPEN, "name": {"type": "string"}}}}
    if canary:
        entry = {"predictor": _OPEN, "trafficPercent": {"type": "integer", "minimum": 0, "maximum": 100}}
        spec["canary"] = {"type": "array", "items": {"type": "object", "properties": entry}}
    schema = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": spec, "required": ["predictor"]},
            "status": _OPEN,
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "inferenceservices.serving.kserve.io"},
        "spec": {
            "group": "serving.kserve.io",
            "scope": "Namespaced",
            "names": {
                "plural": "inferenceservices",
                "singular": "inferenceservice",
                "kind": "InferenceService",
                "listKind": "InferenceServiceList",
                "shortNames": ["isvc"],
            },
            "versions": [
                {
                    "name": "v1beta1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }
