"""MachineConfigPool status, from the nodes that it selects and their machine-config annotations."""

from __future__ import annotations

from datetime import datetime

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.controllers.base import World, condition_of, set_condition
from clusterheal.local.kube.selectors import matches_object

KEY = "machineconfigpools.machineconfiguration.openshift.io"
_PREFIX = "machineconfiguration.openshift.io/"


class PoolController:
    reads = (KEY, "nodes")

    def step(self, world: World) -> datetime | None:
        if world.kind(KEY) is None:
            return None
        for pool in world.items(KEY):
            self._reconcile(world, pool)
        return None

    @staticmethod
    def _reconcile(world: World, pool: Manifest) -> None:
        selector = (pool.get("spec") or {}).get("nodeSelector")
        nodes = [n for n in world.items("nodes") if matches_object(selector, n["metadata"].get("labels") or {})]
        target = (((pool.get("spec") or {}).get("configuration")) or {}).get("name", "")
        updated = [n for n in nodes if _updated(n, target)]
        degraded = [n for n in nodes if _annotation(n, "state") == "Degraded"]
        unavailable = [n for n in nodes if not _available(n)]
        counts = {
            "machineCount": len(nodes),
            "updatedMachineCount": len(updated),
            "readyMachineCount": sum(n not in unavailable for n in updated),
            "unavailableMachineCount": len(unavailable),
            "degradedMachineCount": len(degraded),
            "observedGeneration": pool["metadata"].get("generation", 1),
        }
        done = len(updated) == len(nodes)
        paused = bool((pool.get("spec") or {}).get("paused"))
        verdicts = {
            "Updated": done,
            "Updating": not done and not paused,
            "NodeDegraded": bool(degraded),
            "Degraded": bool(degraded) or (condition_of(pool, "RenderDegraded") or {}).get("status") == "True",
        }

        def edit(obj: Manifest) -> None:
            obj.setdefault("status", {}).update(counts)
            for name, verdict in verdicts.items():
                set_condition(obj, name, "True" if verdict else "False", world.stamp)
            if condition_of(obj, "RenderDegraded") is None:
                set_condition(obj, "RenderDegraded", "False", world.stamp)

        world.change(KEY, pool, edit)


def _annotation(node: Manifest, name: str) -> str:
    return str((node["metadata"].get("annotations") or {}).get(_PREFIX + name, ""))


def _updated(node: Manifest, target: str) -> bool:
    current, desired = _annotation(node, "currentConfig"), _annotation(node, "desiredConfig")
    return (
        current == desired
        and (not target or not current or current == target)
        and _annotation(node, "state") in ("", "Done")
    )


def _available(node: Manifest) -> bool:
    ready = (condition_of(node, "Ready") or {}).get("status") == "True"
    return ready and not (node.get("spec") or {}).get("unschedulable")
