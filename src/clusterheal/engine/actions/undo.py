"""Back to an earlier revision, as `kubectl rollout undo` does it: the pod template of its ReplicaSet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.engine.actions.base import Change, Refused, Stamp, workload_facts
from clusterheal.engine.names import REVISION
from clusterheal.engine.views import Snapshot, ref_of
from clusterheal.kube.ports import Manifest, PatchType
from clusterheal.kube.resources import DEPLOYMENTS

HASH = "pod-template-hash"


class Undo:
    name = "undo"

    def before(self, target: Manifest, snapshot: Snapshot) -> dict[str, Any]:
        current = (target["metadata"].get("annotations") or {}).get(REVISION)
        owned = snapshot.replica_sets_of(ref_of(DEPLOYMENTS, target))
        name = next(
            (r["metadata"]["name"] for r in owned if (r["metadata"].get("annotations") or {}).get(REVISION) == current),
            None,
        )
        return {**workload_facts(target), "revision": current, "replica_set": name}

    def change(self, target: Manifest, parameters: Mapping[str, Any], stamp: Stamp) -> Change:
        """`parameters["template"]` is the wanted template, read from the ReplicaSet just before."""
        template = parameters.get("template")
        if not template:
            raise Refused(f"ReplicaSet {parameters.get('replica_set')!r} to return to does not exist any more")
        wanted_from = parameters.get("from_revision")
        current = (target["metadata"].get("annotations") or {}).get(REVISION)
        if wanted_from is not None and current is not None and str(current) != str(wanted_from):
            raise Refused(
                f"expected revision {wanted_from} to undo, the Deployment is at {current}: somebody rolled on"
            )
        metadata = dict(template.get("metadata") or {})
        metadata["labels"] = {k: v for k, v in (metadata.get("labels") or {}).items() if k != HASH}
        replaced = {"op": "replace", "path": "/spec/template", "value": {**template, "metadata": metadata}}
        return Change(patch=[replaced], patch_type=PatchType.JSON)

    def undo(self, parameters: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
        if not before.get("replica_set"):
            return None
        return "undo", {"replica_set": before["replica_set"], "to_revision": before.get("revision")}
