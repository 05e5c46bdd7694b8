"""ReplicaSet -> Pods: as many as asked, the least useful go first."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.controllers.base import Settled, World, active, earliest, owner_reference, since
from clusterheal.local.kube.removal import is_ready
from clusterheal.local.kube.store import clone

KEY = "replicasets.apps"


class ReplicaSetController:
    reads = (KEY, "pods")

    def __init__(self) -> None:
        self._settled = Settled()

    def step(self, world: World) -> datetime | None:
        due = None
        self._settled.begin()
        for replica_set in world.items(KEY):
            if not replica_set["metadata"].get("deletionTimestamp"):
                due = earliest(due, self._looked_at(world, replica_set))
        return due

    def _looked_at(self, world: World, replica_set: Manifest) -> datetime | None:
        pods = list(active(world.owned("pods", replica_set)))
        reconcile = partial(self._reconcile, world, replica_set, pods)
        if replica_set["spec"]["replicas"] != len(pods):
            return reconcile()  # pods that the server refuses are tried again
        return self._settled.step((replica_set, *pods), world.now, reconcile)

    def _reconcile(self, world: World, replica_set: Manifest, pods: list[Manifest]) -> datetime | None:
        missing = replica_set["spec"]["replicas"] - len(pods)
        for _ in range(missing):
            world.create("pods", replica_set["metadata"]["namespace"], _new_pod(replica_set))
        for pod in sorted(pods, key=_usefulness)[: max(-missing, 0)]:
            world.delete("pods", pod)
        pods = list(active(world.owned("pods", replica_set)))
        return self._report(world, replica_set, pods)

    @staticmethod
    def _report(world: World, replica_set: Manifest, pods: list[Manifest]) -> datetime | None:
        patience = timedelta(seconds=replica_set["spec"].get("minReadySeconds", 0))
        ready = [p for p in pods if is_ready(p)]
        waiting = [since(p, "Ready") + patience for p in ready if since(p, "Ready") + patience > world.now]
        status: Manifest = {"replicas": len(pods), "observedGeneration": replica_set["metadata"]["generation"]}
        counts = {"fullyLabeledReplicas": len(pods), "readyReplicas": len(ready)}
        counts["availableReplicas"] = len(ready) - len(waiting)
        status.update({name: n for name, n in counts.items() if n})

        def edit(obj: Manifest) -> None:
            obj["status"] = status

        world.change(KEY, replica_set, edit)
        return min(waiting, default=None)


def _new_pod(replica_set: Manifest) -> Manifest:
    template = clone(replica_set["spec"]["template"])
    metadata = {k: v for k, v in (template.get("metadata") or {}).items() if k in ("labels", "annotations")}
    metadata["generateName"] = f"{replica_set['metadata']['name']}-"
    metadata["ownerReferences"] = [owner_reference(replica_set)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _usefulness(pod: Manifest) -> tuple[bool, bool, bool, float, str]:
    """Unscheduled, then pending, then not ready, then the youngest: the order of the real controller."""
    started = since(pod, "Ready").timestamp()
    return (
        bool(pod["spec"].get("nodeName")),
        pod["status"].get("phase") == "Running",
        is_ready(pod),
        -started,
        pod["metadata"]["name"],
    )
