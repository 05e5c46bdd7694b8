"""The scale subresource: autoscaling/v1 Scale over the paths that a type names."""

from __future__ import annotations

from typing import Any

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube import failures
from clusterheal.local.kube.kinds import ResourceType


def scale_of(kind: ResourceType, obj: Manifest) -> Manifest:
    """The Scale of an object.

    Raises:
        ApiError: 404, the type has no scale subresource.
    """
    if kind.scale is None:
        raise failures.unknown_path()
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    selector = (obj.get("spec") or {}).get("selector") or {}
    text = ",".join(f"{k}={v}" for k, v in sorted((selector.get("matchLabels") or {}).items()))
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {k: obj["metadata"][k] for k in kept if k in obj["metadata"]},
        "spec": {"replicas": _dig(obj, kind.scale["specReplicasPath"]) or 0},
        "status": {"replicas": _dig(obj, kind.scale["statusReplicasPath"]) or 0, "selector": text},
    }


def set_replicas(kind: ResourceType, obj: Manifest, replicas: int) -> None:
    """Write the size into `obj`, in place."""
    if kind.scale is None:
        raise failures.unknown_path()
    *way, last = kind.scale["specReplicasPath"].strip(".").split(".")
    node = obj
    for part in way:
        node = node.setdefault(part, {})
    node[last] = replicas


def _dig(obj: Manifest, path: str) -> Any:
    value: Any = obj
    for part in path.strip(".").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
