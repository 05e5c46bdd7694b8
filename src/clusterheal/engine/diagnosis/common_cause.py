"""Several symptoms, one cause: what is wrong only where a node is in trouble is that node's incident."""

from __future__ import annotations

from clusterheal.contracts import ObjectRef
from clusterheal.engine.records import Record
from clusterheal.engine.signals.symptoms import Symptom, symptom
from clusterheal.engine.views import PodView
from clusterheal.engine.world import World

NODE_SYMPTOMS = frozenset(
    {Symptom.NODE_NOT_READY, Symptom.NODE_PRESSURE, Symptom.NODE_DISK, Symptom.GPU_FAULT, Symptom.POOL_DEGRADED}
)


def common_cause(record: Record, world: World) -> Record | None:
    """The open incident of the one node that all troubled pods of this one run on; `None`: it stands for itself."""
    if record.target.kind == "Node" or record.request is not None:
        return None
    nodes = {pod.node for pod in troubled(record, world)}
    if len(nodes) != 1:
        return None
    return next((r for r in world.open_records if r.target.name in nodes and _node_in_trouble(r)), None)


def troubled(record: Record, world: World) -> list[PodView]:
    """The pods that the signals name, and those of the target that are not ready."""
    named = {str(name) for o in record.active for name in o.signal.details.get("pods", ())}
    return [p for p in _pods(record.target, world) if p.name in named or not p.ready]


def _pods(target: ObjectRef, world: World) -> list[PodView]:
    if target.kind == "Pod":
        pod = world.snapshot.pods.get((target.namespace, target.name))
        return [] if pod is None else [pod]
    return world.snapshot.pods_of(target)


def _node_in_trouble(record: Record) -> bool:
    return record.target.kind == "Node" and any(symptom(o.signal) in NODE_SYMPTOMS for o in record.active)
