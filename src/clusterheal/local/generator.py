"""Seven days and more of a small OpenShift cluster's metrics, from a seed: the history before the demo begins.

Names and labels are those of kube-state-metrics, cAdvisor and node-exporter. It has daily and weekly seasons, deploys
(new pods, warm-up, filling caches), container restarts with counter resets, and gaps in the scrapes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.local.world import ClusterSpec, WorkloadSpec
from clusterheal.local.world_pods import (
    POD_CONTAINER_COUNTERS,
    POD_NETWORK_COUNTERS,
    NodeLoad,
    PodPlace,
    PodUse,
    SeriesKey,
    pod_use,
)
from clusterheal.local.world_signals import Float64, stable_key

Int64 = npt.NDArray[np.int64]

CONSTANT_EVERY_SECONDS = 240  # below Prometheus' look-back of 300 s, so that constant series stay visible
ROLLOUT_SECONDS = 240  # a replaced pod's last sample is this much before its successor's first: no double counting
ON_A_NAME = "abcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True, kw_only=True)
class Series:
    """One time series. `times`: int64 seconds since the epoch, rising; `values`: float64, same length."""

    name: str
    labels: Mapping[str, str]
    times: Int64
    values: Float64


@dataclass(kw_only=True)
class PodState:
    """Where a living pod's history ends, so that live samples go on from there."""

    started: float
    restarts: int = 0
    counters: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class WorldState:
    """Where the history ends: `at` in seconds, per pod, and per counter of each node (`name{labels}` -> value)."""

    at: float
    pods: dict[str, PodState] = field(default_factory=dict)
    nodes: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Life:
    """One pod's life within the history: first and last time, and when its container restarted (or None)."""

    place: PodPlace
    workload: WorkloadSpec
    first: float
    last: float
    restart: float | None
    living: bool


class HistoryGenerator:
    """Makes every series of `[start, end]`, and the state in which the live world goes on.

    `pods` are the pods that exist now, per workload key: they have the last part of the history.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        pods: Mapping[str, Sequence[PodPlace]],
        *,
        seed: int,
        start: int,
        end: int,
        step_seconds: int = 60,
    ) -> None:
        self._spec = spec
        self._seed = seed
        self._times = np.arange(start, end + 1, step_seconds, dtype=np.int64)
        self._t = self._times.astype(np.float64)
        self._constant = slice(None, None, max(1, CONSTANT_EVERY_SECONDS // step_seconds))
        self._rng = np.random.default_rng(stable_key(seed, "history"))
        self._lives = [life for w in spec.workloads for life in self._lives_of(w, pods.get(w.key, ()))]
        self._missing = self._scrape_gaps()
        self.state = WorldState(at=float(self._times[-1]))

    def series(self) -> Iterator[Series]:
        """All series, one after the other; `state` is complete after the last one."""
        nodes = {node.name: NodeLoad(node=node, t=self._t) for node in self._spec.nodes}
        for life in self._lives:
            yield from self._pod_series(life, nodes[life.place.node])
        for workload in self._spec.workloads:
            yield from self._deployment_series(workload)
        for load in nodes.values():
            yield from self._node_series(load)

    def _lives_of(self, workload: WorkloadSpec, now: Sequence[PodPlace]) -> list[_Life]:
        """Past generations with made-up pods, then the pods that exist now."""
        start, end = self._t[0], self._t[-1]
        span = end - start
        count = int(self._rng.integers(1, 4)) if span > 86_400 else 0
        deploys = sorted(start + span * self._rng.uniform(0.08, 0.90, count))
        bounds = [start, *deploys, end]
        lives = []
        for generation, (first, last) in enumerate(itertools.pairwise(bounds)):
            living = generation == len(bounds) - 2
            places = now if living else self._made_up_pods(workload, now)
            for place in places:
                restarts = self._rng.random() < 0.15 and last - first > 7200
                restart = float(self._rng.uniform(first + 3600, last - 1800)) if restarts else None
                until = last if living else last - ROLLOUT_SECONDS
                lives.append(
                    _Life(place=place, workload=workload, first=first, last=until, restart=restart, living=living)
                )
        return lives

    def _made_up_pods(self, workload: WorkloadSpec, now: Sequence[PodPlace]) -> list[PodPlace]:
        def text(length: int) -> str:
            return "".join(self._rng.choice(list(ON_A_NAME), length))

        revision = text(9)
        names = [node.name for node in self._spec.nodes]
        count = len(now) or workload.replicas
        first = int(self._rng.integers(len(names)))
        return [
            PodPlace(
                namespace=workload.namespace,
                name=f"{workload.name}-{revision}-{text(5)}",
                node=names[(first + i) % len(names)],
            )
            for i in range(count)
        ]

    def _scrape_gaps(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Per node, where the kubelet's and node-exporter's scrapes failed; single misses and outages of minutes."""
        n = len(self._times)
        outage = np.zeros(n, bool)
        for _ in range(max(1, n // 8000)):
            begin = int(self._rng.integers(0, max(1, int(n * 0.97))))
            outage[begin : begin + 6] = True
        gaps = {}
        for node in self._spec.nodes:
            missing = outage | (self._rng.random(n) < 0.001)
            begin = int(self._rng.integers(0, max(1, int(n * 0.97))))
            missing[begin : begin + 12] = True
            missing[-1] = False  # the live samples go on from the last one
            gaps[node.name] = missing
        return gaps

    def _pod_series(self, life: _Life, node: NodeLoad) -> Iterator[Series]:
        here = (self._t >= life.first) & (self._t <= life.last)
        t, times = self._t[here], self._times[here]
        if not len(t):
            return
        started = np.full(len(t), life.first - (1800.0 if life.first == self._t[0] else 0.0))
        if life.restart is not None:
            started[t >= life.restart] = life.restart
        use = pod_use(self._seed, life.workload, life.place.name, t, started=started)
        node.add(_spread(use, here), 1.0)
        restarts = (t >= life.restart).astype(np.float64) if life.restart is not None else np.zeros(len(t))
        keep = ~self._missing[life.place.node][here]
        state = PodState(started=float(started[-1]), restarts=int(restarts[-1]))
        container = {
            "namespace": life.place.namespace,
            "pod": life.place.name,
            "container": life.workload.name,
            "node": life.place.node,
        }
        network = {k: v for k, v in container.items() if k != "container"} | {"interface": "eth0"}
        for name in (*POD_CONTAINER_COUNTERS, *POD_NETWORK_COUNTERS):
            resets = name in POD_CONTAINER_COUNTERS
            values = _counter(use.rates[name], t, restarts if resets else None)
            state.counters[name] = float(values[-1])
            labels = container if resets else network
            yield Series(name=name, labels=labels, times=times[keep], values=values[keep])
        memory = use.memory[keep]
        yield Series(name="container_memory_working_set_bytes", labels=container, times=times[keep], values=memory)
        yield from _pod_status(life, times, t, restarts)
        yield from self._pod_constants(life, times)
        if life.living:
            self.state.pods[life.place.key] = state

    def _pod_constants(self, life: _Life, times: Int64) -> Iterator[Series]:
        few = (
            np.append(times[self._constant], times[-1])
            if times[self._constant][-1] != times[-1]
            else times[self._constant]
        )
        for (name, labels), value in pod_constants(life.place, life.workload).items():
            yield Series(name=name, labels=dict(labels), times=few, values=np.full(len(few), value))

    def _deployment_series(self, workload: WorkloadSpec) -> Iterator[Series]:
        times = self._times[::2]
        labels = {"namespace": workload.namespace, "deployment": workload.name}
        unavailable = np.zeros(len(times))
        for life in self._lives:
            if life.workload == workload and life.restart is not None:
                unavailable += (times >= life.restart) & (times < life.restart + 120)
        wanted = np.full(len(times), float(workload.replicas))
        for name, values in (
            ("kube_deployment_spec_replicas", wanted),
            ("kube_deployment_status_replicas_available", wanted - unavailable),
            ("kube_deployment_status_replicas_unavailable", unavailable),
        ):
            yield Series(name=name, labels=labels, times=times, values=values)

    def _node_series(self, load: NodeLoad) -> Iterator[Series]:
        name = load.node.name
        keep = ~self._missing[name]
        counters = self.state.nodes.setdefault(name, {})
        for (metric, labels), rate in load.rates(self._seed).items():
            values = _counter(rate, self._t, None) + 3_000_000.0 * float(rate.mean())
            counters[series_key(metric, labels)] = float(values[-1])
            yield Series(
                name=metric, labels={"instance": name, **dict(labels)}, times=self._times[keep], values=values[keep]
            )
        for (metric, labels), gauge in load.gauges(self._seed).items():
            yield Series(
                name=metric, labels={"instance": name, **dict(labels)}, times=self._times[keep], values=gauge[keep]
            )
        few = self._times[self._constant]
        for (metric, labels), value in load.constants().items():
            yield Series(
                name=metric, labels={"instance": name, **dict(labels)}, times=few, values=np.full(len(few), value)
            )
        for (metric, labels), value in node_conditions(name).items():
            yield Series(name=metric, labels=dict(labels), times=few, values=np.full(len(few), value))


def _spread(use: PodUse, here: npt.NDArray[np.bool_]) -> PodUse:
    """The same use on the whole grid, zero where the pod did not exist."""

    def widen(values: Float64) -> Float64:
        out = np.zeros(len(here))
        out[here] = values
        return out

    return PodUse(rates={name: widen(rate) for name, rate in use.rates.items()}, memory=widen(use.memory))


def _counter(rate: Float64, t: Float64, restarts: Float64 | None) -> Float64:
    """The counter that grows by `rate` per second, from 0, and falls back to 0 at each restart."""
    steps = np.diff(t, prepend=t[0] - (t[1] - t[0] if len(t) > 1 else 60.0))
    total = np.cumsum(rate * steps)
    if restarts is not None and restarts[-1] > 0:
        at = int(np.argmax(restarts > 0))
        total[at:] -= total[at] - rate[at]
    return np.asarray(total, np.float64)


def _pod_status(life: _Life, times: Int64, t: Float64, restarts: Float64) -> Iterator[Series]:
    pod = {"namespace": life.place.namespace, "pod": life.place.name}
    ready = np.ones(len(t))
    if life.restart is not None:
        ready[(t >= life.restart) & (t < life.restart + 120)] = 0.0
    container = {**pod, "container": life.workload.name}
    half = slice(None, None, 2)
    yield Series(
        name="kube_pod_container_status_restarts_total", labels=container, times=times[half], values=restarts[half]
    )
    ready_labels = {**pod, "condition": "true"}
    yield Series(name="kube_pod_status_ready", labels=ready_labels, times=times[half], values=ready[half])


def pod_constants(place: PodPlace, workload: WorkloadSpec) -> dict[SeriesKey, float]:
    """Series of kube-state-metrics and the recording rules that do not change while a pod lives."""
    pod = (("namespace", place.namespace), ("pod", place.name))
    container = (*pod, ("container", workload.name), ("node", place.node))
    cpu, memory = (("resource", "cpu"), ("unit", "core")), (("resource", "memory"), ("unit", "byte"))
    owner = (
        ("namespace", place.namespace),
        ("workload", workload.name),
        ("workload_type", "deployment"),
        ("pod", place.name),
    )
    return {
        ("namespace_workload_pod:kube_pod_owner:relabel", owner): 1.0,
        ("kube_pod_info", (*pod, ("node", place.node))): 1.0,
        ("kube_pod_container_resource_limits", (*container, *cpu)): workload.cpu_limit,
        ("kube_pod_container_resource_limits", (*container, *memory)): float(workload.memory_limit),
        ("kube_pod_container_resource_requests", (*container, *cpu)): workload.cpu,
        ("kube_pod_container_resource_requests", (*container, *memory)): float(workload.memory),
    }


def node_conditions(node: str, *, ready: bool = True) -> dict[SeriesKey, float]:
    """`kube_node_status_condition` of one node."""
    states = {"Ready": ready, "MemoryPressure": False, "DiskPressure": False}
    return {
        (
            "kube_node_status_condition",
            (("node", node), ("condition", kind), ("status", "true")),
        ): float(state)
        for kind, state in states.items()
    }


def series_key(name: str, labels: Sequence[tuple[str, str]]) -> str:
    """`name{a="b"}`: a series in the form of the exposition format (label values here need no escapes)."""
    return name + "{" + ",".join(f'{k}="{v}"' for k, v in labels) + "}"


def state_to_dict(state: WorldState) -> dict[str, Any]:
    """JSON form of a `WorldState`."""
    return {
        "at": state.at,
        "pods": {key: vars(pod) for key, pod in state.pods.items()},
        "nodes": state.nodes,
    }


def state_from_dict(data: Mapping[str, Any]) -> WorldState:
    """Inverse of `state_to_dict`."""
    return WorldState(
        at=float(data["at"]),
        pods={key: PodState(**pod) for key, pod in data["pods"].items()},
        nodes={node: dict(counters) for node, counters in data["nodes"].items()},
    )


__all__ = [
    "HistoryGenerator",
    "PodState",
    "Series",
    "WorldState",
    "node_conditions",
    "pod_constants",
    "series_key",
    "state_from_dict",
    "state_to_dict",
]
