"""Let Argo CD bring one object back to what Git says, as `argocd app sync --resource` does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.engine.actions.base import Change, Refused, Stamp
from clusterheal.engine.names import FIELD_MANAGER
from clusterheal.engine.views import Snapshot
from clusterheal.kube.ports import Manifest


class Sync:
    """`parameters`: `group`, `kind`, `namespace` and `name` of the object to sync, and the `revision` of Git."""

    name = "sync"

    def before(self, target: Manifest, snapshot: Snapshot) -> dict[str, Any]:
        return {"sync": ((target.get("status") or {}).get("sync") or {}).get("status")}

    def change(self, target: Manifest, parameters: Mapping[str, Any], stamp: Stamp) -> Change:
        if target.get("operation") is not None:
            raise Refused("Argo CD has an operation to do already")
        operation = {
            "initiatedBy": {"username": FIELD_MANAGER, "automated": True},
            "info": [{"name": "Reason", "value": f"incident {stamp.incident}"}],
            "sync": {
                "revision": parameters["revision"],
                "resources": [{k: parameters[k] for k in ("group", "kind", "namespace", "name")}],
            },
        }
        return Change(patch={"operation": operation})

    def undo(self, parameters: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        return None
