"""From what a signal names (a pod, a label, an entity key) to the object that an incident is about."""

from __future__ import annotations

from collections.abc import Mapping

from clusterheal.contracts import ObjectRef, split_entity_key
from clusterheal.engine.signals.symptoms import Symptom, symptom_of_alert
from clusterheal.engine.views import WORKLOADS, Snapshot
from clusterheal.kube.resources import MACHINE_CONFIG_POOLS

_WORKLOAD_LABELS = (("deployment", "Deployment"), ("statefulset", "StatefulSet"), ("daemonset", "DaemonSet"))
_TYPES = {"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet", "job": "Job"}


def target_of_labels(labels: Mapping[str, str], snapshot: Snapshot) -> ObjectRef | None:
    """The root object that an alert's labels name; `None` when nothing in this cluster matches.

    The most specific label wins: a model, a volume claim, a workload, a pod, an annotated instance, a pool, a node.
    `job` is no hint: in Prometheus it is the scrape job.
    """
    namespace = labels.get("namespace") or labels.get("exported_namespace")
    if (model := labels.get("model_name")) and (service := snapshot.inference_service(model, namespace)) is not None:
        return service
    if namespace:
        found = _in_namespace(namespace, labels, snapshot) or _told(namespace, labels)
        if found is not None:
            return found
    instance = labels.get("instance")
    if instance and (mapped := snapshot.by_instance(instance)) is not None:
        return mapped
    pool = labels.get("machineconfigpool") or labels.get("pool")
    if pool and snapshot.get(MACHINE_CONFIG_POOLS, None, pool) is not None:
        return _pool(pool)
    if labels.get("node"):
        return snapshot.node(labels["node"])
    return snapshot.node_by_address(instance) if instance and not namespace else None


def _in_namespace(namespace: str, labels: Mapping[str, str], snapshot: Snapshot) -> ObjectRef | None:
    if (name := labels.get("persistentvolumeclaim")) and (claim := snapshot.claim(namespace, name)) is not None:
        return claim
    for label, kind in _WORKLOAD_LABELS:
        if name := labels.get(label):
            return snapshot.workload(namespace, name, kind)
    if name := labels.get("workload"):
        return snapshot.workload(namespace, name, _TYPES.get(labels.get("workload_type", "").lower()))
    if name := labels.get("job_name"):
        return snapshot.workload(namespace, name, "Job")
    if name := labels.get("cronjob"):
        return snapshot.workload(namespace, name, "CronJob")
    if symptom_of_alert(labels) is Symptom.TARGET_DOWN and (name := labels.get("service")):
        found = snapshot.workload(namespace, name)
        if found is not None:
            return found
    for label in ("pod", "exported_pod"):
        if name := labels.get(label):
            pod = snapshot.pods.get((namespace, name))
            return snapshot.root_of_pod(pod) if pod is not None else _owner_of_gone_pod(namespace, name, snapshot)
    return None


def _told(namespace: str, labels: Mapping[str, str]) -> ObjectRef | None:
    """Objects that this engine does not follow and only tells people about: the alert itself says that they exist."""
    name = labels.get("alertname")
    kind = symptom_of_alert(labels)
    if kind is Symptom.TARGET_DOWN and (service := labels.get("service") or labels.get("job")):
        return ObjectRef(api_version="v1", kind="Service", namespace=namespace, name=service)
    if kind is Symptom.CERTIFICATE:
        if certificate := labels.get("name") or labels.get("exported_name"):
            return ObjectRef(
                api_version="cert-manager.io/v1", kind="Certificate", namespace=namespace, name=certificate
            )
        return ObjectRef(api_version="v1", kind="Secret", namespace=namespace, name=labels.get("secret") or str(name))
    return None


def _owner_of_gone_pod(namespace: str, pod: str, snapshot: Snapshot) -> ObjectRef | None:
    """A pod that was replaced already: Deployment pods are `<deployment>-<template hash>-<5 characters>`."""
    parts = pod.rsplit("-", 2)
    return snapshot.workload(namespace, parts[0], "Deployment") if len(parts) == 3 else None


def target_of_entity(entity: str, snapshot: Snapshot) -> ObjectRef | None:
    """The object behind a model's entity key (`workload/<ns>/<name>`, `node/<name>`, `instance/<label>`, ...)."""
    kind, values = split_entity_key(entity)
    if kind == "workload" and len(values) == 2:
        return snapshot.workload(values[0], values[1])
    if kind == "pvc" and len(values) == 2:
        return snapshot.claim(values[0], values[1])
    if kind in ("node", "gpu") and values:
        return snapshot.node(values[0])
    if kind == "instance" and len(values) == 1:
        return snapshot.by_instance(values[0]) or snapshot.node_by_address(values[0])
    return None


def normalised(ref: ObjectRef, snapshot: Snapshot) -> ObjectRef | None:
    """A reference given by a person or another program, as the root object with its uid; `None`: does not exist."""
    if ref.kind == "Pod":
        pod = snapshot.pods.get((ref.namespace, ref.name))
        return None if pod is None else snapshot.root_of_pod(pod)
    if ref.kind == "Node":
        return snapshot.node(ref.name)
    if ref.kind == "MachineConfigPool":
        return _pool(ref.name) if snapshot.get(MACHINE_CONFIG_POOLS, None, ref.name) is not None else None
    if ref.namespace is None:
        return None
    if ref.kind == "PersistentVolumeClaim":
        return snapshot.claim(ref.namespace, ref.name)
    if ref.kind == "InferenceService":
        return snapshot.inference_service(ref.name, ref.namespace)
    return snapshot.workload(ref.namespace, ref.name, ref.kind) if ref.kind in WORKLOADS else None


def _pool(name: str) -> ObjectRef:
    resource = MACHINE_CONFIG_POOLS
    return ObjectRef(api_version=resource.api_version, kind=resource.kind, namespace=None, name=name)
