"""A larger volume: the claim asks for more, the storage driver resizes. Volumes never shrink, so nothing undoes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.engine.actions.base import Change, Refused, Stamp
from clusterheal.engine.quantities import quantity
from clusterheal.engine.views import Snapshot
from clusterheal.kube.ports import Manifest


class ExpandVolume:
    """`parameters`: `from_size` and `to_size`, as quantities."""

    name = "expand-volume"

    def before(self, target: Manifest, snapshot: Snapshot) -> dict[str, Any]:
        return {"capacity": ((target.get("status") or {}).get("capacity") or {}).get("storage")}

    def change(self, target: Manifest, parameters: Mapping[str, Any], stamp: Stamp) -> Change:
        asked = requested_size(target)
        if asked is None or quantity(asked) != quantity(parameters["from_size"]):
            raise Refused(f"expected a request of {parameters['from_size']}, found {asked}: somebody resized it")
        if (target.get("status") or {}).get("phase") != "Bound":
            raise Refused("the claim is not bound to a volume")
        storage = {"storage": str(parameters["to_size"])}
        return Change(patch={"spec": {"resources": {"requests": storage}}})

    def undo(self, parameters: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        return None


def requested_size(claim: Manifest) -> str | None:
    """`spec.resources.requests.storage`."""
    requests = ((claim.get("spec") or {}).get("resources") or {}).get("requests") or {}
    size: str | None = requests.get("storage")
    return size
