"""Defaults that a real server writes into built-in objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.kinds import ResourceType


def _default_container(container: Manifest) -> None:
    image = container.get("image") or ""
    floating = ":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest")
    container.setdefault("imagePullPolicy", "Always" if floating and "@" not in image else "IfNotPresent")
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")


def _default_pod_spec(spec: Manifest) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    for name in ("containers", "initContainers"):
        for container in spec.get(name) or ():
            _default_container(container)


def _default_template(spec: Manifest) -> None:
    pod = spec.get("template", {}).get("spec")
    if isinstance(pod, dict):
        _default_pod_spec(pod)


def _deployment(obj: Manifest) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    _default_template(spec)


def _replica_set(obj: Manifest) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    _default_template(spec)


def _stateful_set(obj: Manifest) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    if spec.setdefault("updateStrategy", {}).setdefault("type", "RollingUpdate") == "RollingUpdate":
        spec["updateStrategy"].setdefault("rollingUpdate", {}).setdefault("partition", 0)
    _default_template(spec)


def _daemon_set(obj: Manifest) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("updateStrategy", {}).setdefault("type", "RollingUpdate")
    _default_template(spec)


def _quality_of_service(spec: Manifest) -> str:
    """Guaranteed, Burstable or BestEffort, by requests and limits of cpu and memory."""
    containers = spec.get("containers") or []
    wanted = [c.get("resources") or {} for c in containers]
    if not any(r.get("requests") or r.get("limits") for r in wanted):
        return "BestEffort"
    full = all(
        {"cpu", "memory"} <= set(r.get("limits") or {}) and (r.get("requests") or r["limits"]) == r["limits"]
        for r in wanted
    )
    return "Guaranteed" if full else "Burstable"


def _pod(obj: Manifest) -> None:
    spec = obj.setdefault("spec", {})
    _default_pod_spec(spec)
    for container in spec.get("containers") or ():
        resources = container["resources"]
        if resources.get("limits"):
            resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}
    spec.setdefault("serviceAccountName", "default")
    status = obj.setdefault("status", {})
    status.setdefault("phase", "Pending")
    status.setdefault("qosClass", _quality_of_service(spec))


def _service(obj: Manifest) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    obj.setdefault("status", {}).setdefault("loadBalancer", {})


def _namespace(obj: Manifest) -> None:
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")
    obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    obj.setdefault("status", {}).setdefault("phase", "Active")


def _secret(obj: Manifest) -> None:
    obj.setdefault("type", "Opaque")


def _claim(obj: Manifest) -> None:
    obj.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
    obj.setdefault("status", {}).setdefault("phase", "Pending")


def _job(obj: Manifest) -> None:
    spec = obj.setdefault("spec", {})
    for field, value in (("parallelism", 1), ("completions", 1), ("backoffLimit", 6), ("suspend", False)):
        spec.setdefault(field, value)
    _default_template(spec)


def _cron_job(obj: Manifest) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("concurrencyPolicy", "Allow")
    spec.setdefault("suspend", False)
    spec.setdefault("successfulJobsHistoryLimit", 3)
    spec.setdefault("failedJobsHistoryLimit", 1)


_DEFAULTS: dict[str, Callable[[Manifest], None]] = {
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Pod": _pod,
    "Service": _service,
    "Namespace": _namespace,
    "Secret": _secret,
    "PersistentVolumeClaim": _claim,
    "Job": _job,
    "CronJob": _cron_job,
}


def drop_nulls(value: Any) -> None:
    """In place: a null in a built-in object is the same as leaving the field out."""
    if isinstance(value, dict):
        for key in [k for k, v in value.items() if v is None]:
            del value[key]
        for below in value.values():
            drop_nulls(below)
    elif isinstance(value, list):
        for item in value:
            drop_nulls(item)


def apply_defaults(kind: ResourceType, obj: Manifest) -> None:
    if kind.custom:
        return
    drop_nulls(obj)
    if fill := _DEFAULTS.get(kind.resource.kind):
        fill(obj)
