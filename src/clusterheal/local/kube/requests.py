"""What a write asks for, and the part of its body that counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clusterheal.kube.ports import Manifest, PatchType
from clusterheal.local.kube import failures
from clusterheal.local.kube.kinds import ResourceType
from clusterheal.local.kube.patches import json_patch, merge_patch, strategic_patch
from clusterheal.local.kube.store import clone


@dataclass(frozen=True, kw_only=True)
class WriteRequest:
    """How a write is meant. `force` takes conflicting fields over in server-side apply."""

    manager: str = "emulator"
    dry_run: bool = False
    force: bool = False
    subresource: str = ""


def owned_part(kind: ResourceType, config: Manifest, subresource: str) -> Manifest:
    """What an apply configuration may own at this endpoint."""
    if subresource == "status":
        metadata = {k: v for k, v in config["metadata"].items() if k in ("name", "namespace")}
        part = {k: v for k, v in config.items() if k in ("apiVersion", "kind", "status")}
        return {**part, "metadata": metadata}
    return {k: v for k, v in config.items() if k != "status"} if kind.status else config


def patched_with(kind: ResourceType, current: Manifest, patch: Any, patch_type: PatchType) -> Manifest:
    if patch_type is PatchType.STRATEGIC and kind.custom:
        raise failures.unsupported_media_type([PatchType.JSON.value, PatchType.MERGE.value, PatchType.APPLY.value])
    if patch_type is PatchType.JSON:
        patched = json_patch(current, patch)
    elif not isinstance(patch, dict):
        raise failures.bad_request("error decoding patch: expected an object")
    elif patch_type is PatchType.MERGE:
        patched = merge_patch(current, patch)
    else:
        patched = strategic_patch(current, patch, kind.shape)
    # Patched values may be shared with the caller's patch.
    return clone(patched)
