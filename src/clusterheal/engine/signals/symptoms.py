"""What a signal is about, in the engine's own words, so that rules need not know every alert's name."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from clusterheal.contracts import Signal, SignalSource
from clusterheal.engine.names import GROUP, tokens


class Symptom(StrEnum):
    MEMORY_LEAK = "memory-leak"
    OOM_KILLED = "oom-killed"
    CRASH_LOOP = "crash-loop"
    IMAGE_PULL = "image-pull"
    UNSCHEDULABLE = "unschedulable"
    ROLLOUT_STUCK = "rollout-stuck"
    SATURATION = "saturation"
    CPU_THROTTLING = "cpu-throttling"
    NODE_NOT_READY = "node-not-ready"
    NODE_PRESSURE = "node-pressure"
    NODE_DISK = "node-disk"
    POOL_DEGRADED = "pool-degraded"
    VOLUME_FILLING = "volume-filling"
    GPU_FAULT = "gpu-fault"
    CERTIFICATE = "certificate-expiry"
    JOB_FAILED = "job-failed"
    TARGET_DOWN = "target-down"
    CORDON_ORPHANED = "cordon-orphaned"
    MODEL_UNHEALTHY = "model-unhealthy"
    MODEL_CONTRACT = "model-contract"
    MODEL_WORSE = "model-worse"
    MODEL_STALE = "model-stale"
    ANOMALY = "anomaly"
    OTHER = "other"


SYMPTOM_LABEL = f"{GROUP}_symptom".replace(".", "_")  # Prometheus label names have neither dots nor slashes

_ALERTS: Mapping[str, Symptom] = {
    "KubePodCrashLooping": Symptom.CRASH_LOOP,
    "KubeContainerOOMKilled": Symptom.OOM_KILLED,
    "ContainerOOMKilled": Symptom.OOM_KILLED,
    "KubeDeploymentRolloutStuck": Symptom.ROLLOUT_STUCK,
    "KubeDeploymentGenerationMismatch": Symptom.ROLLOUT_STUCK,
    "KubeDeploymentReplicasMismatch": Symptom.ROLLOUT_STUCK,
    "CPUThrottlingHigh": Symptom.CPU_THROTTLING,
    "KubeNodeNotReady": Symptom.NODE_NOT_READY,
    "KubeNodeUnreachable": Symptom.NODE_NOT_READY,
    "KubeNodePressure": Symptom.NODE_PRESSURE,
    "NodeFilesystemSpaceFillingUp": Symptom.NODE_DISK,
    "NodeFilesystemAlmostOutOfSpace": Symptom.NODE_DISK,
    "KubePersistentVolumeFillingUp": Symptom.VOLUME_FILLING,
    "KubeJobFailed": Symptom.JOB_FAILED,
    "KubeJobNotCompleted": Symptom.JOB_FAILED,
    "TargetDown": Symptom.TARGET_DOWN,
    "MCDRebootError": Symptom.POOL_DEGRADED,
    "MCCPoolAlert": Symptom.POOL_DEGRADED,
    "MachineConfigPoolDegraded": Symptom.POOL_DEGRADED,
    "CertManagerCertExpirySoon": Symptom.CERTIFICATE,
    "CertManagerCertNotReady": Symptom.CERTIFICATE,
    "KubeClientCertificateExpiration": Symptom.CERTIFICATE,
    "KubeletClientCertificateExpiration": Symptom.CERTIFICATE,
    "KubeletServerCertificateExpiration": Symptom.CERTIFICATE,
    "MemoryLeakPredicted": Symptom.MEMORY_LEAK,
    "ContainerMemoryLeak": Symptom.MEMORY_LEAK,
    "WorkloadSaturated": Symptom.SATURATION,
    "ModelServerDown": Symptom.MODEL_UNHEALTHY,
    "ModelContractMismatch": Symptom.MODEL_CONTRACT,
    "ModelStale": Symptom.MODEL_STALE,
    "ModelDrifting": Symptom.MODEL_WORSE,
    "ModelWorseThanPeers": Symptom.MODEL_WORSE,
}
_WORDS: tuple[tuple[frozenset[str], Symptom], ...] = (
    (frozenset({"memory", "leak"}), Symptom.MEMORY_LEAK),
    (frozenset({"memory", "limit"}), Symptom.MEMORY_LEAK),
    (frozenset({"crash", "looping"}), Symptom.CRASH_LOOP),
    (frozenset({"crash", "loop"}), Symptom.CRASH_LOOP),
    (frozenset({"saturation"}), Symptom.SATURATION),
    (frozenset({"saturated"}), Symptom.SATURATION),
    (frozenset({"node", "not", "ready"}), Symptom.NODE_NOT_READY),
    (frozenset({"gpu", "xid"}), Symptom.GPU_FAULT),
    (frozenset({"certificate", "expiring"}), Symptom.CERTIFICATE),
    (frozenset({"certificate", "expiration"}), Symptom.CERTIFICATE),
    (frozenset({"certificate", "expiry"}), Symptom.CERTIFICATE),
)
_VALUES = {s.value: s for s in Symptom}


def symptom_of_alert(labels: Mapping[str, str]) -> Symptom:
    """By the rule author's own label, else by the alert's known name, else by whole words of it."""
    given = _VALUES.get(labels.get(SYMPTOM_LABEL, ""))
    if given is not None:
        return given
    name = labels.get("alertname", "")
    if name in _ALERTS:
        return _ALERTS[name]
    words = tokens(name)
    return next((symptom for needed, symptom in _WORDS if needed <= words), Symptom.OTHER)


def symptom(signal: Signal) -> Symptom:
    """The symptom stored with the signal by its source."""
    return _VALUES.get(str(signal.details.get("symptom", "")), Symptom.OTHER)


def symptom_of_feature(feature: str, source: SignalSource) -> Symptom:
    """What it means that a model sees this feature leave its normal range."""
    words = tokens(feature)
    if words & {"memory", "mem", "rss"}:
        return Symptom.NODE_PRESSURE if "node" in words else Symptom.MEMORY_LEAK
    if "throttled" in words:
        return Symptom.CPU_THROTTLING
    if words & {"filesystem", "disk"} and "node" in words:
        return Symptom.NODE_DISK
    if "volume" in words or "pvc" in words:
        return Symptom.VOLUME_FILLING
    if source is SignalSource.FORECASTER and words & {"cpu", "latency", "queue", "requests", "busy", "saturation"}:
        return Symptom.SATURATION
    return Symptom.ANOMALY
