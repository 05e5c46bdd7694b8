"""The cluster's metrics from now on: what the emulator's pods would expose, with the faults that they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clusterheal.kube.ports import Manifest
from clusterheal.local import world_signals as signals
from clusterheal.local.faults import SATURATED_DEMAND, Fault
from clusterheal.local.generator import PodState, WorldState, node_conditions, pod_constants, series_key
from clusterheal.local.prometheus_history import escape_label
from clusterheal.local.world import ClusterSpec, WorkloadSpec
from clusterheal.local.world_pods import (
    POD_CONTAINER_COUNTERS,
    NodeLoad,
    PodPlace,
    Stress,
    pod_use,
)

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels, value."""


@dataclass(frozen=True, kw_only=True)
class PodView:
    """What the world needs to know of a pod object."""

    place: PodPlace
    uid: str
    workload: WorkloadSpec
    image: str
    running: bool
    ready: bool
    restarts: int
    waiting_reason: str | None
    terminated_reason: str | None


def pod_view(pod: Manifest, spec: ClusterSpec) -> PodView | None:
    """Read a pod of one of the workloads; `None` for others and for pods not yet on a node."""
    meta, pod_spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    name = meta.get("labels", {}).get("app.kubernetes.io/name", "")
    workload = spec.workload(meta.get("namespace", ""), name)
    node = pod_spec.get("nodeName")
    if workload is None or not node:
        return None
    containers = status.get("containerStatuses") or [{}]
    state = containers[0].get("state") or {}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions", []))
    return PodView(
        place=PodPlace(namespace=meta["namespace"], name=meta["name"], node=node),
        uid=str(meta.get("uid", "")),
        workload=workload,
        image=str((pod_spec.get("containers") or [{}])[0].get("image", "")),
        running=status.get("phase") == "Running" and "waiting" not in state and "terminated" not in state,
        ready=ready,
        restarts=int(containers[0].get("restartCount", 0)),
        waiting_reason=(state.get("waiting") or {}).get("reason"),
        terminated_reason=((containers[0].get("lastState") or {}).get("terminated") or {}).get("reason"),
    )


@dataclass(kw_only=True)
class _Live:
    """A pod's counters between two scrapes, and how often its container restarted before the API's own count."""

    state: PodState
    base_restarts: int = 0
    seen_restarts: int = 0
    leak_since: float | None = None
    memory: float = 0.0


@dataclass(kw_only=True)
class LiveWorld:
    """Advances counters with the time and renders every series; `observe` tells it which pods there are."""

    spec: ClusterSpec
    seed: int
    state: WorldState
    faults: list[Fault] = field(default_factory=list)
    pods: list[PodView] = field(default_factory=list)
    deployments: list[Manifest] = field(default_factory=list)
    _live: dict[str, _Live] = field(default_factory=dict)
    _samples: list[Sample] = field(default_factory=list)

    def observe(self, pods: Sequence[Manifest], deployments: Sequence[Manifest], *, now: float) -> None:
        """Take over the cluster's pods and Deployments as they are at `now` (seconds)."""
        views = [pod_view(pod, self.spec) for pod in pods]
        self.pods = [view for view in views if view is not None]
        self.deployments = list(deployments)
        known = {view.place.key for view in self.pods}
        for gone in set(self._live) - known:
            del self._live[gone]
        for view in self.pods:
            live = self._live.get(view.place.key)
            if live is None:
                past = self.state.pods.get(view.place.key)
                state = past or PodState(started=now)
                live = _Live(state=state, base_restarts=state.restarts if past else 0, seen_restarts=view.restarts)
                self._live[view.place.key] = live
            if view.restarts > live.seen_restarts:
                live.seen_restarts, live.state.started, live.leak_since = view.restarts, now, now
                for name in POD_CONTAINER_COUNTERS:
                    live.state.counters[name] = 0.0

    def advance(self, now: float) -> None:
        """Let the time go on to `now` (seconds) and compute every sample."""
        elapsed = max(0.0, now - self.state.at)
        self.state.at = max(self.state.at, now)
        t = np.array([now], np.float64)
        nodes = {node.name: NodeLoad(node=node, t=t) for node in self.spec.nodes}
        samples: list[Sample] = []
        for view in self.pods:
            samples += self._pod_samples(view, t, elapsed, nodes)
        for load in nodes.values():
            samples += self._node_samples(load, elapsed)
        for deployment in self.deployments:
            samples += _deployment_samples(deployment)
        self._samples = samples

    def out_of_memory(self) -> list[PodView]:
        """Running pods whose working set has reached their limit: the kernel would kill them now."""
        return [
            view
            for view in self.pods
            if view.running and self._live[view.place.key].memory >= 0.995 * view.workload.memory_limit
        ]

    def render(self) -> str:
        """The exposition that Prometheus scrapes."""
        return render(self._samples)

    def _stress(self, view: PodView, now: float) -> Stress:
        demand, leaked = 1.0, 0.0
        for fault in self.faults:
            if (fault.namespace, fault.workload) != (view.workload.namespace, view.workload.name):
                continue
            if fault.kind == "cpu-saturation":
                normal = float(signals.load(self.seed, view.workload, np.array([now]))[0])
                demand = 1.0 + (SATURATED_DEMAND / normal - 1.0) * fault.progress(now)
            if fault.kind == "memory-leak" and view.uid in fault.victims:
                since = self._live[view.place.key].leak_since or fault.started_at
                room = view.workload.memory_limit - view.workload.memory * 0.9
                leaked = room * max(0.0, now - since) / fault.ramp_seconds
        return Stress(demand=demand, leaked_bytes=leaked, running=view.running)

    def _pod_samples(
        self, view: PodView, t: signals.Float64, elapsed: float, nodes: Mapping[str, NodeLoad]
    ) -> list[Sample]:
        live = self._live[view.place.key]
        working = sum(1 for p in self.pods if p.workload == view.workload and p.running and p.ready)
        use = pod_use(
            self.seed,
            view.workload,
            view.place.name,
            t,
            started=np.array([live.state.started]),
            share=view.workload.replicas / max(1, working),
            stress=self._stress(view, float(t[0])),
        )
        live.memory = float(use.memory[0])
        if view.place.node in nodes:
            nodes[view.place.node].add(use)
        pod = {"namespace": view.place.namespace, "pod": view.place.name}
        container = {**pod, "container": view.workload.name, "node": view.place.node}
        network = {**pod, "node": view.place.node, "interface": "eth0"}
        samples: list[Sample] = []
        for name, rate in use.rates.items():
            value = live.state.counters.get(name, 0.0) + float(rate[0]) * elapsed
            live.state.counters[name] = value
            samples.append((name, container if name in POD_CONTAINER_COUNTERS else network, value))
        if view.running:
            samples.append(("container_memory_working_set_bytes", container, live.memory))
        constants = pod_constants(view.place, view.workload)
        samples += [(name, dict(labels), value) for (name, labels), value in constants.items()]
        samples += pod_status_samples(view, live.base_restarts)
        return samples

    def _node_samples(self, load: NodeLoad, elapsed: float) -> list[Sample]:
        instance = {"instance": load.node.name}
        counters = self.state.nodes.setdefault(load.node.name, {})
        samples: list[Sample] = []
        for (name, labels), rate in load.rates(self.seed).items():
            key = series_key(name, labels)
            counters[key] = counters.get(key, 0.0) + float(rate[0]) * elapsed
            samples.append((name, {**instance, **dict(labels)}, counters[key]))
        for (name, labels), gauge in load.gauges(self.seed).items():
            samples.append((name, {**instance, **dict(labels)}, float(gauge[0])))
        for (name, labels), value in load.constants().items():
            samples.append((name, {**instance, **dict(labels)}, value))
        samples += [(name, dict(labels), value) for (name, labels), value in node_conditions(load.node.name).items()]
        return samples


def pod_status_samples(view: PodView, base_restarts: int = 0) -> list[Sample]:
    """What kube-state-metrics says of a pod's containers; `base_restarts` happened before the API's own count."""
    pod = {"namespace": view.place.namespace, "pod": view.place.name}
    container = {**pod, "container": view.workload.name}
    samples: list[Sample] = [
        ("kube_pod_container_status_restarts_total", container, float(base_restarts + view.restarts)),
        ("kube_pod_status_ready", {**pod, "condition": "true"}, float(view.ready)),
    ]
    if view.waiting_reason:
        reason = {**container, "reason": view.waiting_reason}
        samples.append(("kube_pod_container_status_waiting_reason", reason, 1.0))
    if view.terminated_reason:
        reason = {**container, "reason": view.terminated_reason}
        samples.append(("kube_pod_container_status_last_terminated_reason", reason, 1.0))
    return samples


def _deployment_samples(deployment: Manifest) -> list[Sample]:
    meta, status = deployment["metadata"], deployment.get("status", {})
    labels = {"namespace": meta["namespace"], "deployment": meta["name"]}
    wanted = float(deployment["spec"].get("replicas", 1))
    available = float(status.get("availableReplicas", 0))
    unavailable = float(status.get("unavailableReplicas", max(0.0, wanted - available)))
    return [
        ("kube_deployment_spec_replicas", labels, wanted),
        ("kube_deployment_status_replicas_available", labels, available),
        ("kube_deployment_status_replicas_unavailable", labels, unavailable),
    ]


def render(samples: Sequence[Sample]) -> str:
    """Samples in the text exposition format."""
    lines = []
    for name, labels, value in samples:
        inner = ",".join(f'{key}="{escape_label(str(label))}"' for key, label in labels.items())
        lines.append(f"{name}{{{inner}}} {value:.12g}\n")
    return "".join(lines)


__all__ = ["LiveWorld", "PodView", "Sample", "pod_status_samples", "pod_view", "render"]
