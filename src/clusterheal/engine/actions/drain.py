"""Cordon a node with owner and time to live; its pods are then evicted one by one, see `evictions`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from clusterheal.engine.actions.base import Change, Refused, Stamp
from clusterheal.engine.codec import format_time
from clusterheal.engine.names import CORDON_OWNER, CORDON_UNTIL
from clusterheal.engine.views import PodView, Snapshot
from clusterheal.kube.ports import Manifest


class Drain:
    name = "drain"

    def before(self, target: Manifest, snapshot: Snapshot) -> dict[str, Any]:
        return {"unschedulable": bool((target.get("spec") or {}).get("unschedulable"))}

    def change(self, target: Manifest, parameters: Mapping[str, Any], stamp: Stamp) -> Change:
        owner = (target["metadata"].get("annotations") or {}).get(CORDON_OWNER)
        if (target.get("spec") or {}).get("unschedulable") and owner != stamp.incident:
            raise Refused(f"the node was cordoned by {owner or 'somebody else'} in the meantime")
        until = stamp.now + timedelta(seconds=float(parameters["ttl_seconds"]))
        notes = {CORDON_OWNER: stamp.incident, CORDON_UNTIL: format_time(until)}
        return Change(patch={"metadata": {"annotations": notes}, "spec": {"unschedulable": True}})

    def undo(self, parameters: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        return "uncordon", {}


def evictions(node: str, snapshot: Snapshot) -> list[PodView]:
    """The pods to move: all but those of DaemonSets, mirror pods, finished ones and those on their way.

    A pod without a controller stays as well, as with `kubectl drain`: nothing would bring it back.
    """
    pods = [
        p
        for p in snapshot.pods_on(node)
        if p.owner_kind not in (None, "DaemonSet")
        and not p.mirror
        and not p.deleting
        and p.phase not in ("Succeeded", "Failed")
    ]
    return sorted(pods, key=lambda p: (p.priority, p.namespace, p.name))
