"""How the emulated cluster behaves over time: pure functions of a seed and the time, for history and live alike.

Evaluating a signal at one instant or over a week gives the same numbers, so live samples continue the history.
All times are seconds since the epoch, UTC, float64 arrays.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.local.world import GIB, MIB, NodeSpec, WorkloadSpec

Float64 = npt.NDArray[np.float64]
DAY_SECONDS = 86_400.0
WARM_UP_SECONDS = 30.0
CREEP_SECONDS = 6 * 3600.0
JOB_SECONDS = 900.0
JOB_LIFT = 0.35  # little enough that no CPU limit is met at the daily peak


def stable_key(seed: int, *parts: object) -> int:
    """A 64-bit key that is the same on every machine and in every process."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _uniform(key: int, index: npt.NDArray[Any]) -> Float64:
    """Uniform in (0, 1) for every integer of `index`: splitmix64 of key and index."""
    with np.errstate(over="ignore"):
        z = index.astype(np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)


def gaussian(key: int, index: npt.NDArray[Any]) -> Float64:
    """Standard normal for every integer of `index` (Box-Muller)."""
    first, second = _uniform(key, index), _uniform(key ^ 0x5DEECE66D, index)
    return np.asarray(np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second), np.float64)


def smooth_noise(key: int, t: Float64, period_seconds: float) -> Float64:
    """About standard normal, changing over `period_seconds`: random knots, smoothly joined."""
    position = t / period_seconds
    left = np.floor(position)
    share = position - left
    weight = share * share * (3.0 - 2.0 * share)
    before = gaussian(key, left.astype(np.int64))
    after = gaussian(key, left.astype(np.int64) + 1)
    norm = np.sqrt((1.0 - weight) ** 2 + weight**2)
    return np.asarray((before * (1.0 - weight) + after * weight) / norm, np.float64)


def white_noise(key: int, t: Float64) -> Float64:
    """Standard normal, new every second."""
    return gaussian(key, np.floor(t).astype(np.int64))


def load(seed: int, workload: WorkloadSpec, t: Float64) -> Float64:
    """Demand on a workload relative to its average: daily and weekly season, hourly job, slow drift, short bursts."""
    hour = (t % DAY_SECONDS) / 3600.0
    shape = np.cos(2.0 * np.pi * (hour - workload.peak_hour) / 24.0)
    second_peak = 0.3 * np.cos(4.0 * np.pi * (hour - workload.peak_hour + 2.0) / 24.0)
    weekday = np.floor(t / DAY_SECONDS + 3) % 7  # the epoch was a Thursday; 0 is Monday
    week = np.where(weekday >= 5, workload.weekend, 1.0)
    key = stable_key(seed, "load", workload.key)
    drift = 0.06 * smooth_noise(key, t, 2400.0) + 0.04 * smooth_noise(key ^ 1, t, 420.0)
    season = np.maximum(0.05, (1.0 + 0.5 * workload.daily * (shape + second_peak)) * week)
    return np.asarray(season * (1.0 + JOB_LIFT * job(workload, t)) * np.exp(drift))


def job(workload: WorkloadSpec, t: Float64) -> Float64:
    """How far the workload's scheduled job is under way, 0..1: it swells and ebbs once an hour."""
    if workload.job_minute is None:
        return np.zeros_like(t)
    since = (t - 60.0 * workload.job_minute) % 3600.0
    return np.where(since < JOB_SECONDS, np.sin(np.pi * since / JOB_SECONDS) ** 2, 0.0)


def pod_cpu(seed: int, workload: WorkloadSpec, pod: str, demand: Float64, t: Float64, age: Float64) -> Float64:
    """Cores that a pod wants for `demand` (1 = its share at average load), limit aside; warms up when young."""
    key = stable_key(seed, "cpu", pod)
    own = 1.0 + 0.05 * gaussian(key, np.zeros(1, np.int64))[0]
    warm_up = 1.0 + 0.5 * np.exp(-age / WARM_UP_SECONDS)
    wobble = np.exp(0.05 * smooth_noise(key ^ 2, t, 180.0) + 0.02 * white_noise(key ^ 3, t))
    return np.asarray(workload.cpu * own * (0.15 + 0.85 * demand) * warm_up * wobble)


def pod_memory(seed: int, workload: WorkloadSpec, pod: str, demand: Float64, t: Float64, age: Float64) -> Float64:
    """Working set in bytes: a base, what the load adds, caches that fill over hours, noise."""
    key = stable_key(seed, "memory", pod)
    own = 1.0 + 0.03 * gaussian(key, np.zeros(1, np.int64))[0]
    fill = 0.80 + 0.20 * (1.0 - np.exp(-age / CREEP_SECONDS))
    noise = 0.01 * smooth_noise(key ^ 2, t, 900.0) + 0.004 * white_noise(key ^ 3, t)
    return np.asarray(workload.memory * own * (fill + 0.10 * (demand - 1.0) + noise))


def throttled_share(cpu: Float64, limit: float) -> Float64:
    """Share of CFS periods in which a container that wants `cpu` cores under `limit` is throttled."""
    return np.asarray(np.clip((cpu / limit - 0.75) / 0.5, 0.0, 0.95) ** 1.5 + 0.002)


def network_bytes(seed: int, workload: WorkloadSpec, pod: str, demand: Float64, t: Float64, *, sent: bool) -> Float64:
    """Bytes per second received, or sent, by a pod."""
    key = stable_key(seed, "sent" if sent else "received", pod)
    factor = 1.6 if sent else 1.0
    return np.asarray(workload.network * factor * demand * np.exp(0.08 * smooth_noise(key, t, 150.0)))


def node_system_cpu(seed: int, node: NodeSpec, t: Float64) -> Float64:
    """Cores used by the operating system, the kubelet and the platform's own pods."""
    key = stable_key(seed, "system", node.name)
    return np.asarray(0.55 + 0.05 * smooth_noise(key, t, 600.0) + 0.02 * white_noise(key ^ 1, t))


def node_system_memory(seed: int, node: NodeSpec, t: Float64) -> Float64:
    """Bytes used outside the workloads."""
    key = stable_key(seed, "system memory", node.name)
    return np.asarray(6.0 * GIB + 180.0 * MIB * smooth_noise(key, t, 3600.0) + 12.0 * MIB * white_noise(key ^ 1, t))


def node_disk_available(seed: int, node: NodeSpec, t: Float64) -> Float64:
    """Bytes free on the root file system: logs and images fill it, a daily clean-up frees it."""
    key = stable_key(seed, "disk", node.name)
    since_cleanup = ((t + (key % 86_400)) % DAY_SECONDS) / DAY_SECONDS
    return np.asarray(node.disk * (0.58 - 0.06 * since_cleanup) + 40.0 * MIB * smooth_noise(key, t, 1200.0))


def node_disk_busy(seed: int, node: NodeSpec, t: Float64) -> Float64:
    """Share of time that the disk is busy, 0..1."""
    key = stable_key(seed, "disk busy", node.name)
    return np.asarray(np.clip(0.06 * np.exp(0.4 * smooth_noise(key, t, 300.0) + 0.1 * white_noise(key ^ 1, t)), 0, 1))


__all__ = [
    "Float64",
    "gaussian",
    "job",
    "load",
    "network_bytes",
    "node_disk_available",
    "node_disk_busy",
    "node_system_cpu",
    "node_system_memory",
    "pod_cpu",
    "pod_memory",
    "smooth_noise",
    "stable_key",
    "throttled_share",
    "white_noise",
]
