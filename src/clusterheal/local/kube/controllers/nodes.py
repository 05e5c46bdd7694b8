"""Node lifecycle: taints follow conditions and cordons, pods of a lost node are evicted after their toleration."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.controllers.base import World, condition_of, earliest, set_condition, since
from clusterheal.local.kube.controllers.scheduler import UNSCHEDULABLE, tolerates
from clusterheal.local.kube.objects import rfc3339

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
_PRESSURE = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
_OURS = frozenset({NOT_READY, UNREACHABLE, UNSCHEDULABLE, *_PRESSURE.values()})


class NodeController:
    reads = ("nodes", "pods")

    def step(self, world: World) -> datetime | None:
        due = None
        for node in world.items("nodes"):
            ready = condition_of(node, "Ready")
            if ready is None:
                continue
            wanted = _taints(node, ready)
            if wanted != ((node.get("spec") or {}).get("taints") or []):
                node = world.change("nodes", node, partial(_set_taints, taints=wanted))
            if ready["status"] != "True":
                due = earliest(due, _evict_lost(world, node))
        self._collect_orphans(world)
        return due

    @staticmethod
    def _collect_orphans(world: World) -> None:
        """Pods bound to a node that is gone go at once."""
        names = {n["metadata"]["name"] for n in world.items("nodes")}
        for pod in world.items("pods"):
            if pod["spec"].get("nodeName") and pod["spec"]["nodeName"] not in names:
                world.delete("pods", pod, grace=0)


def _taints(node: Manifest, ready: Manifest) -> list[Manifest]:
    """The node's own taints, then what its conditions and its cordon add."""
    before = (node.get("spec") or {}).get("taints") or []
    kept = [t for t in before if t["key"] not in _OURS]
    keys: list[tuple[str, str]] = []
    if (node.get("spec") or {}).get("unschedulable"):
        keys.append((UNSCHEDULABLE, "NoSchedule"))
    if ready["status"] != "True":
        lost = NOT_READY if ready["status"] == "False" else UNREACHABLE
        keys += [(lost, "NoSchedule"), (lost, "NoExecute")]
    for name, key in _PRESSURE.items():
        if (condition_of(node, name) or {}).get("status") == "True":
            keys.append((key, "NoSchedule"))
    added = rfc3339(since(node, "Ready"))
    for key, effect in keys:
        found = next((t for t in before if (t["key"], t["effect"]) == (key, effect)), None)
        timed = {"timeAdded": added} if effect == "NoExecute" else {}
        kept.append(found or {"key": key, "effect": effect, **timed})
    return kept


def _set_taints(obj: Manifest, taints: list[Manifest]) -> None:
    if taints:
        obj.setdefault("spec", {})["taints"] = taints
    else:
        obj.get("spec", {}).pop("taints", None)


def _evict_lost(world: World, node: Manifest) -> datetime | None:
    """Pods stop being ready at once and are deleted when their toleration ends."""
    due = None
    lost = since(node, "Ready")
    taints = [t for t in (node["spec"].get("taints") or ()) if t["effect"] == "NoExecute"]
    for pod in world.items("pods"):
        if pod["spec"].get("nodeName") != node["metadata"]["name"] or pod["metadata"].get("deletionTimestamp"):
            continue
        world.change("pods", pod, lambda obj: _lose(obj, world.stamp))
        patience = _patience(pod, taints, world.timing.node_toleration)
        if patience is None:
            continue
        if world.now >= lost + patience:
            world.delete("pods", pod)
        else:
            due = earliest(due, lost + patience)
    return due


def _lose(pod: Manifest, stamp: str) -> None:
    if (condition_of(pod, "Ready") or {}).get("status") == "True":
        set_condition(pod, "Ready", "False", stamp, reason="NodeNotReady", message="Node is not ready")


def _patience(pod: Manifest, taints: list[Manifest], default: timedelta) -> timedelta | None:
    """How long a pod tolerates its lost node; `None` = for ever."""
    for toleration in pod["spec"].get("tolerations") or ():
        if any(tolerates({"spec": {"tolerations": [toleration]}}, taint) for taint in taints):
            seconds = toleration.get("tolerationSeconds")
            return None if seconds is None else timedelta(seconds=seconds)
    return default
