"""Another limit of one container's memory or CPU: a change of the pod template, so its pods are rolled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.engine.actions.base import Change, Refused, Stamp, workload_facts
from clusterheal.engine.quantities import quantity
from clusterheal.engine.views import Snapshot
from clusterheal.kube.ports import Manifest, PatchType


class PatchResources:
    """`parameters`: `container`, `resource` (memory or cpu), `from_limit`, `to_limit`, as quantities."""

    name = "patch-resources"

    def before(self, target: Manifest, snapshot: Snapshot) -> dict[str, Any]:
        return workload_facts(target)

    def change(self, target: Manifest, parameters: Mapping[str, Any], stamp: Stamp) -> Change:
        name, resource = str(parameters["container"]), str(parameters["resource"])
        wanted_from, wanted_to = str(parameters["from_limit"]), str(parameters["to_limit"])
        containers = target["spec"]["template"]["spec"].get("containers") or []
        index = next((i for i, c in enumerate(containers) if c["name"] == name), None)
        if index is None:
            raise Refused(f"it has no container {name!r} any more")
        resources = containers[index].get("resources") or {}
        limit = (resources.get("limits") or {}).get(resource)
        if limit is None or quantity(limit) != quantity(wanted_from):
            raise Refused(f"expected a {resource} limit of {wanted_from}, found {limit or 'none'}: somebody changed it")
        at = f"/spec/template/spec/containers/{index}"
        patch = [
            {"op": "test", "path": f"{at}/name", "value": name},
            {"op": "replace", "path": f"{at}/resources/limits/{resource}", "value": wanted_to},
        ]
        request = (resources.get("requests") or {}).get(resource)
        if request is not None and quantity(request) == quantity(limit):
            # Equal request and limit is the Guaranteed class; a higher limit alone would make the pod Burstable.
            patch.append({"op": "replace", "path": f"{at}/resources/requests/{resource}", "value": wanted_to})
        return Change(patch=patch, patch_type=PatchType.JSON)

    def undo(self, parameters: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        back = {**parameters, "from_limit": parameters["to_limit"], "to_limit": parameters["from_limit"]}
        return self.name, back
