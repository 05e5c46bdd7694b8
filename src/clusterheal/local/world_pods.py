"""What one pod and one node expose, as rates of counters and as gauges, at any time of the emulated cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from clusterheal.local import world_signals as signals
from clusterheal.local.world import NodeSpec, WorkloadSpec
from clusterheal.local.world_signals import Float64

CFS_PERIODS_PER_SECOND = 10.0
NODE_CPUS = 2  # CPUs that node-exporter tells apart; each stands for half of the node's cores

POD_CONTAINER_COUNTERS = (
    "container_cpu_usage_seconds_total",
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
)
POD_NETWORK_COUNTERS = ("container_network_receive_bytes_total", "container_network_transmit_bytes_total")


SeriesKey = tuple[str, tuple[tuple[str, str], ...]]
"""A metric's name and the labels beside those that name the pod or node."""


@dataclass(frozen=True, kw_only=True)
class PodPlace:
    """A pod of a workload and the node it runs on."""

    namespace: str
    name: str
    node: str

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Stress:
    """What a fault does to a pod: more demand (a factor), and bytes that leaked."""

    demand: float = 1.0
    leaked_bytes: float = 0.0
    running: bool = True


HEALTHY = Stress()


@dataclass(frozen=True, kw_only=True)
class PodUse:
    """One pod over `t`: `rates` per second of each counter, and the working set in bytes; float64 `(n_times,)`."""

    rates: Mapping[str, Float64]
    memory: Float64

    @property
    def cpu(self) -> Float64:
        return self.rates["container_cpu_usage_seconds_total"]


def pod_use(
    seed: int,
    workload: WorkloadSpec,
    pod: str,
    t: Float64,
    *,
    started: Float64,
    share: Float64 | float = 1.0,
    stress: Stress = HEALTHY,
) -> PodUse:
    """What a pod uses.

    `started` is when its container last started, per time; `share` is the pod's part of the workload's demand
    relative to the planned number of replicas (2/3 when three pods do the work of two).
    """
    age = np.maximum(0.0, t - started)
    alive = 1.0 if stress.running else 0.0
    demand = signals.load(seed, workload, t) * share * stress.demand
    wanted = signals.pod_cpu(seed, workload, pod, demand, t, age)
    cpu = np.minimum(wanted, workload.cpu_limit) * alive
    memory = signals.pod_memory(seed, workload, pod, np.minimum(demand, 2.0), t, age) + stress.leaked_bytes
    throttled = CFS_PERIODS_PER_SECOND * signals.throttled_share(wanted, workload.cpu_limit)
    received = signals.network_bytes(seed, workload, pod, demand, t, sent=False)
    sent = signals.network_bytes(seed, workload, pod, demand, t, sent=True)
    return PodUse(
        rates={
            "container_cpu_usage_seconds_total": cpu,
            "container_cpu_cfs_periods_total": np.full(len(t), CFS_PERIODS_PER_SECOND * alive),
            "container_cpu_cfs_throttled_periods_total": throttled * alive,
            "container_network_receive_bytes_total": received * alive,
            "container_network_transmit_bytes_total": sent * alive,
        },
        memory=np.minimum(memory, workload.memory_limit * 1.0) * alive,
    )


@dataclass(kw_only=True)
class NodeLoad:
    """What the pods of one node use together; add pods, then ask for the node's series."""

    node: NodeSpec
    t: Float64
    cpu: Float64 = field(init=False)
    memory: Float64 = field(init=False)
    received: Float64 = field(init=False)
    sent: Float64 = field(init=False)

    def __post_init__(self) -> None:
        self.cpu, self.memory = np.zeros(len(self.t)), np.zeros(len(self.t))
        self.received, self.sent = np.zeros(len(self.t)), np.zeros(len(self.t))

    def add(self, use: PodUse, present: Float64 | float = 1.0) -> None:
        """Count a pod in; `present` is 1 where it existed and 0 elsewhere."""
        self.cpu += use.cpu * present
        self.memory += use.memory * present
        self.received += use.rates["container_network_receive_bytes_total"] * present
        self.sent += use.rates["container_network_transmit_bytes_total"] * present

    def busy(self, seed: int) -> Float64:
        """Share of the node's CPU time that is not idle, 0..1."""
        cores = self.cpu + signals.node_system_cpu(seed, self.node, self.t)
        return np.asarray(np.clip(cores / self.node.cores, 0.0, 0.99))

    def rates(self, seed: int) -> dict[SeriesKey, Float64]:
        """Counters of node-exporter, per second, keyed by name and the labels beside `instance`."""
        busy = self.busy(seed)
        disk = signals.node_disk_busy(seed, self.node, self.t)
        modes = {
            "idle": 1.0 - busy,
            "user": busy * 0.72,
            "system": busy * 0.24,
            "iowait": busy * 0.04,
        }
        rates: dict[SeriesKey, Float64] = {
            ("node_cpu_seconds_total", (("cpu", str(cpu)), ("mode", mode))): rate
            for cpu in range(NODE_CPUS)
            for mode, rate in modes.items()
        }
        rates[("node_disk_io_time_seconds_total", (("device", "nvme0n1"),))] = disk
        rates[("node_network_receive_bytes_total", (("device", "ens5"),))] = self.received + 60_000.0
        rates[("node_network_transmit_bytes_total", (("device", "ens5"),))] = self.sent + 50_000.0
        return rates

    def gauges(self, seed: int) -> dict[SeriesKey, Float64]:
        """Gauges of node-exporter, keyed like `rates`."""
        used = self.memory + signals.node_system_memory(seed, self.node, self.t)
        disk = (("device", "/dev/nvme0n1p4"), ("fstype", "xfs"), ("mountpoint", "/sysroot"))
        return {
            ("node_memory_MemAvailable_bytes", ()): np.maximum(0.0, self.node.memory - used),
            ("node_load1", ()): self.busy(seed) * self.node.cores * 1.1,
            ("node_filesystem_avail_bytes", disk): signals.node_disk_available(seed, self.node, self.t),
        }

    def constants(self) -> dict[SeriesKey, float]:
        """Gauges that never change."""
        disk = (("device", "/dev/nvme0n1p4"), ("fstype", "xfs"), ("mountpoint", "/sysroot"))
        return {
            ("node_memory_MemTotal_bytes", ()): float(self.node.memory),
            ("node_filesystem_size_bytes", disk): float(self.node.disk),
        }


__all__ = [
    "HEALTHY",
    "NODE_CPUS",
    "POD_CONTAINER_COUNTERS",
    "POD_NETWORK_COUNTERS",
    "NodeLoad",
    "PodPlace",
    "PodUse",
    "SeriesKey",
    "Stress",
    "pod_use",
]
