"""Pods to nodes: taints, selectors and requests are respected; what does not fit says why."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.controllers.base import World, active, set_condition
from clusterheal.local.kube.controllers.pods import kubelet_alive

_FACTORS = {
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"


def quantity(value: object) -> float:
    """A Kubernetes quantity as a number: `250m` is 0.25, `1Gi` is 2**30."""
    found = re.fullmatch(r"([0-9.eE+-]+?)(m|k|[MGT]i?|Ki)?", str(value))
    if found is None:
        raise ValueError(f"expected a quantity such as 250m or 1Gi, got {value!r}")
    return float(found[1]) * _FACTORS[found[2] or ""]


def tolerates(pod: Manifest, taint: Manifest) -> bool:
    for toleration in pod["spec"].get("tolerations") or ():
        if toleration.get("effect") not in (None, "", taint["effect"]):
            continue
        operator = toleration.get("operator", "Equal")
        key = toleration.get("key")
        if operator == "Exists" and key in (None, "", taint["key"]):
            return True
        if operator == "Equal" and key == taint["key"] and toleration.get("value", "") == taint.get("value", ""):
            return True
    return False


class Scheduler:
    reads = ("nodes", "pods")

    def step(self, world: World) -> datetime | None:
        waiting = [p for p in active(world.items("pods")) if not p["spec"].get("nodeName")]
        if not waiting:
            return None
        nodes = world.items("nodes")
        load: dict[str, list[Manifest]] = {n["metadata"]["name"]: [] for n in nodes}
        for pod in active(world.items("pods")):
            if pod["spec"].get("nodeName") in load:
                load[pod["spec"]["nodeName"]].append(pod)
        for pod in waiting:
            if pod["spec"].get("schedulerName", "default-scheduler") == "default-scheduler":
                self._place(world, pod, nodes, load)
        return None

    @staticmethod
    def _place(world: World, pod: Manifest, nodes: list[Manifest], load: dict[str, list[Manifest]]) -> None:
        refusals: Counter[str] = Counter()
        fitting = []
        for node in nodes:
            why = _refusal(pod, node, load[node["metadata"]["name"]])
            if why is None:
                fitting.append(node["metadata"]["name"])
            else:
                refusals[why] += 1
        if not fitting:
            reasons = ", ".join(f"{n} {why}" for why, n in sorted(refusals.items()))
            message = (
                f"0/{len(nodes)} nodes are available: {reasons}." if nodes else "no nodes available to schedule pods"
            )

            def refuse(obj: Manifest) -> None:
                set_condition(obj, "PodScheduled", "False", world.stamp, reason="Unschedulable", message=message)

            world.change("pods", pod, refuse)
            return
        owner = pod["metadata"].get("generateName", "")

        def burden(name: str) -> tuple[int, int, str]:
            siblings = sum(p["metadata"].get("generateName") == owner for p in load[name])
            return (siblings, len(load[name]), name)

        chosen = min(fitting, key=burden)
        node = next(n for n in nodes if n["metadata"]["name"] == chosen)

        def bind(obj: Manifest) -> None:
            obj["spec"]["nodeName"] = chosen
            set_condition(obj, "PodScheduled", "True", world.stamp)
            addresses = (node.get("status") or {}).get("addresses") or ()
            obj["status"]["hostIP"] = next((a["address"] for a in addresses if a["type"] == "InternalIP"), "")

        load[chosen].append(world.change("pods", pod, bind))


def _refusal(pod: Manifest, node: Manifest, pods: list[Manifest]) -> str | None:
    """Why a node cannot take a pod, in the scheduler's words; `None` = it can."""
    spec, labels = node.get("spec") or {}, node["metadata"].get("labels") or {}
    if node["metadata"].get("deletionTimestamp") or not kubelet_alive(node):
        return "node(s) were not ready"
    unschedulable = {"key": UNSCHEDULABLE, "effect": "NoSchedule"}
    if spec.get("unschedulable") and not tolerates(pod, unschedulable):
        return "node(s) were unschedulable"
    for taint in spec.get("taints") or ():
        if taint["effect"] != "PreferNoSchedule" and not tolerates(pod, taint):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    wanted = pod["spec"].get("nodeSelector") or {}
    if any(labels.get(k) != v for k, v in wanted.items()):
        return "node(s) didn't match Pod's node affinity/selector"
    room = (node.get("status") or {}).get("allocatable") or {}
    for resource in room:
        asked = _requested(pod, resource)
        if asked and asked + sum(_requested(p, resource) for p in pods) > quantity(room[resource]):
            return f"Insufficient {resource}"
    if "pods" in room and len(pods) >= quantity(room["pods"]):
        return "Too many pods"
    return None


def _requested(pod: Manifest, resource: str) -> float:
    total = 0.0
    for container in pod["spec"]["containers"]:
        value = ((container.get("resources") or {}).get("requests") or {}).get(resource)
        total += quantity(value) if value is not None else 0.0
    return total
