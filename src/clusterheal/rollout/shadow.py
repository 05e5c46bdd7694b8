"""The shadow: a second InferenceService that nobody but the rollout asks.

It has the candidate before that is promoted, and the version before while the candidate is watched.
"""

from __future__ import annotations

import copy

from clusterheal.kube.inference_service import FIELD_MANAGER, Placement, set_path
from clusterheal.kube.ports import ApiError, Cluster, Manifest, PatchType
from clusterheal.kube.resources import CUSTOM_RESOURCE_DEFINITIONS, INFERENCE_SERVICES
from clusterheal.rollout.service import Service

SHADOW_OF = "clusterheal.io/shadow-of"
CRD = f"{INFERENCE_SERVICES.plural}.{INFERENCE_SERVICES.group}"
_NOT_COPIED = "kubectl.kubernetes.io/last-applied-configuration"


def shadow_name(name: str) -> str:
    return f"{name}-shadow"


def shadow_manifest(incumbent: Manifest, target: Placement) -> Manifest:
    """The predictor in service with the path of `target`, one replica, owned by the object in service."""
    metadata = incumbent["metadata"]
    predictor = copy.deepcopy(incumbent["spec"]["predictor"])
    set_path(predictor.setdefault("model", {}), incumbent, target.uri)
    predictor["minReplicas"] = predictor["maxReplicas"] = 1
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != _NOT_COPIED}
    return {
        "apiVersion": INFERENCE_SERVICES.api_version,
        "kind": INFERENCE_SERVICES.kind,
        "metadata": {
            "name": shadow_name(metadata["name"]),
            "namespace": metadata["namespace"],
            "labels": {**target.labels, SHADOW_OF: metadata["name"]},
            "annotations": annotations,
            "ownerReferences": [
                {
                    "apiVersion": INFERENCE_SERVICES.api_version,
                    "kind": INFERENCE_SERVICES.kind,
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                }
            ],
        },
        "spec": {"predictor": predictor},
    }


async def start_shadow(cluster: Cluster, service: Service, incumbent: Manifest, target: Placement) -> None:
    """Create or repoint the shadow; it is ours alone, so fields are taken by force."""
    manifest = shadow_manifest(incumbent, target)
    await service.retrying(
        lambda: cluster.patch(
            INFERENCE_SERVICES,
            manifest["metadata"]["name"],
            manifest,
            patch_type=PatchType.APPLY,
            namespace=service.namespace,
            field_manager=FIELD_MANAGER,
            force=True,
        )
    )


async def stop_shadow(cluster: Cluster, service: Service) -> None:
    """Remove the shadow if there is one."""
    name = shadow_name(service.name)
    await service.retrying(lambda: cluster.delete(INFERENCE_SERVICES, name, namespace=service.namespace), gone=True)


async def has_canary(cluster: Cluster, incumbent: Manifest) -> bool:
    """Whether this cluster's KServe knows `spec.canary[]` (0.20 and later) for this object.

    Its mode must be exactly `Standard`: in `RawDeployment` the field is ignored, silently. A cluster that does not
    let us read its CRDs counts as one without.
    """
    mode = (incumbent["metadata"].get("annotations") or {}).get("serving.kserve.io/deploymentMode")
    if mode != "Standard":
        return False
    try:
        crd = await cluster.get(CUSTOM_RESOURCE_DEFINITIONS, CRD)
    except ApiError as exc:
        if exc.status in (403, 404):
            return False
        raise
    for version in crd["spec"]["versions"]:
        if version["name"] == INFERENCE_SERVICES.version:
            schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
            return "canary" in schema.get("properties", {}).get("spec", {}).get("properties", {})
    return False
