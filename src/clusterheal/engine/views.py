"""Read-only views of the cluster: what decisions are made on. Nothing here talks to an API."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

from clusterheal.contracts import ObjectRef
from clusterheal.engine.names import INSTANCE
from clusterheal.kube.ports import Manifest, Resource
from clusterheal.kube.resources import (
    APPLICATIONS,
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    JOBS,
    MACHINE_CONFIG_POOLS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    REPLICA_SETS,
    STATEFUL_SETS,
)

Key = tuple[str | None, str]
"""Namespace (None for cluster-scoped) and name."""

WORKLOADS: Mapping[str, Resource] = {
    "Deployment": DEPLOYMENTS,
    "StatefulSet": STATEFUL_SETS,
    "DaemonSet": DAEMON_SETS,
    "Job": JOBS,
    "CronJob": CRON_JOBS,
}
KINDS: Mapping[str, Resource] = {
    **WORKLOADS,
    "ReplicaSet": REPLICA_SETS,
    "Pod": PODS,
    "Node": NODES,
    "MachineConfigPool": MACHINE_CONFIG_POOLS,
    "InferenceService": INFERENCE_SERVICES,
    "PersistentVolumeClaim": PERSISTENT_VOLUME_CLAIMS,
    "Application": APPLICATIONS,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerView:
    """One container's state. `waiting` and `terminated` are Kubernetes' reasons, `exit_code` of the last end."""

    name: str
    image: str
    ready: bool
    restarts: int
    waiting: str | None
    waiting_message: str
    last_reason: str | None
    last_exit_code: int | None
    last_finished_at: str | None
    memory_limit: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PodView:
    """What is kept of a pod; whole manifests of 10,000 pods would not fit the engine's memory."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    labels: Mapping[str, str]
    node: str | None
    owner_kind: str | None
    owner_name: str | None
    phase: str
    ready: bool
    deleting: bool
    mirror: bool
    priority: int
    unschedulable: str | None
    created_at: str | None
    containers: tuple[ContainerView, ...]

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef(api_version="v1", kind="Pod", namespace=self.namespace, name=self.name, uid=self.uid)


def _shared(text: str | None) -> str | None:
    """One copy of what thousands of pods have in common."""
    return None if text is None else sys.intern(text)


@lru_cache(maxsize=4096)
def _labels(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """One mapping for the pods of one template, which have the same labels."""
    return {sys.intern(k): sys.intern(v) for k, v in items}


@lru_cache(maxsize=4096)
def _healthy(name: str, image: str, memory_limit: str | None) -> ContainerView:
    """One view for all containers of a template that run and have never ended: most of a cluster's."""
    return ContainerView(
        name=name,
        image=image,
        ready=True,
        restarts=0,
        waiting=None,
        waiting_message="",
        last_reason=None,
        last_exit_code=None,
        last_finished_at=None,
        memory_limit=memory_limit,
    )


def pod_view(obj: Manifest) -> PodView:
    """Project a pod's manifest."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    conditions = {c.get("type"): c for c in status.get("conditions") or []}
    owner = _controller(obj) or {}
    scheduled = conditions.get("PodScheduled") or {}
    specs = {c["name"]: c for c in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]}
    statuses = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return PodView(
        namespace=sys.intern(meta["namespace"]),
        name=meta["name"],
        uid=meta.get("uid", ""),
        resource_version=str(meta.get("resourceVersion", "")),
        labels=_labels(tuple((meta.get("labels") or {}).items())),
        node=_shared(spec.get("nodeName")),
        owner_kind=_shared(owner.get("kind")),
        owner_name=_shared(owner.get("name")),
        phase=sys.intern(status.get("phase", "Unknown")),
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        deleting=meta.get("deletionTimestamp") is not None,
        mirror="kubernetes.io/config.mirror" in (meta.get("annotations") or {}),
        priority=int(spec.get("priority") or 0),
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else None,
        created_at=_shared(meta.get("creationTimestamp")),
        containers=tuple(_container(s, specs.get(s.get("name", ""), {})) for s in statuses),
    )


def _container(status: Mapping[str, Any], spec: Mapping[str, Any]) -> ContainerView:
    waiting = (status.get("state") or {}).get("waiting") or {}
    ended = (status.get("lastState") or {}).get("terminated") or (status.get("state") or {}).get("terminated") or {}
    name, image = sys.intern(status.get("name", "")), sys.intern(status.get("image", spec.get("image", "")))
    memory_limit = ((spec.get("resources") or {}).get("limits") or {}).get("memory")
    if status.get("ready") and not (status.get("restartCount") or waiting or ended):
        return _healthy(name, image, memory_limit)
    return ContainerView(
        name=name,
        image=image,
        ready=bool(status.get("ready")),
        restarts=int(status.get("restartCount") or 0),
        waiting=waiting.get("reason"),
        waiting_message=str(waiting.get("message") or "")[:300],
        last_reason=ended.get("reason"),
        last_exit_code=ended.get("exitCode"),
        last_finished_at=ended.get("finishedAt"),
        memory_limit=memory_limit,
    )


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The cluster as this replica knows it at `taken_at`.

    `synced_at`: when each resource's list or watch last answered. `unreadable`: resources whose list is refused, with
    the reason. `absent`: resources that this cluster does not have.
    """

    taken_at: datetime
    pods: Mapping[Key, PodView] = field(default_factory=dict)
    objects: Mapping[Resource, Mapping[Key, Manifest]] = field(default_factory=dict)
    synced_at: Mapping[Resource, datetime] = field(default_factory=dict)
    unreadable: Mapping[Resource, str] = field(default_factory=dict)
    absent: frozenset[Resource] = frozenset()

    def all(self, resource: Resource) -> Iterable[Manifest]:
        return self.objects.get(resource, {}).values()

    def get(self, resource: Resource, namespace: str | None, name: str) -> Manifest | None:
        return self.objects.get(resource, {}).get((namespace, name))

    def find(self, ref: ObjectRef) -> Manifest | PodView | None:
        """The object that `ref` names, if this replica knows it."""
        if ref.kind == "Pod":
            return self.pods.get((ref.namespace, ref.name))
        resource = KINDS.get(ref.kind)
        return None if resource is None else self.get(resource, ref.namespace, ref.name)

    def manifest(self, ref: ObjectRef) -> Manifest | None:
        found = self.find(ref)
        return found if isinstance(found, dict) else None

    @cached_property
    def _by_root(self) -> dict[tuple[str, str | None, str], list[PodView]]:
        index: dict[tuple[str, str | None, str], list[PodView]] = {}
        for pod in self.pods.values():
            root = self.root_of_pod(pod)
            index.setdefault((root.kind, root.namespace, root.name), []).append(pod)
        return index

    @cached_property
    def _by_node(self) -> dict[str, list[PodView]]:
        index: dict[str, list[PodView]] = {}
        for pod in self.pods.values():
            if pod.node is not None:
                index.setdefault(pod.node, []).append(pod)
        return index

    @cached_property
    def _by_instance(self) -> dict[str, ObjectRef]:
        found: dict[str, ObjectRef] = {}
        for resource in (DEPLOYMENTS, STATEFUL_SETS):
            for obj in self.all(resource):
                instance = (obj["metadata"].get("annotations") or {}).get(INSTANCE)
                if instance:
                    found[instance] = ref_of(resource, obj)
        return found

    def pods_of(self, ref: ObjectRef) -> list[PodView]:
        """Pods that belong to a workload, or run on a node."""
        if ref.kind == "Node":
            return self.pods_on(ref.name)
        return list(self._by_root.get((ref.kind, ref.namespace, ref.name), ()))

    def pods_on(self, node: str) -> list[PodView]:
        return list(self._by_node.get(node, ()))

    def root_of_pod(self, pod: PodView) -> ObjectRef:
        """Pod -> ReplicaSet -> Deployment; a pod without an owner that we know is its own root."""
        kind, name = pod.owner_kind, pod.owner_name
        if kind is None or name is None:
            return pod.ref
        if kind == "ReplicaSet":
            replica_set = self.get(REPLICA_SETS, pod.namespace, name)
            owner = _controller(replica_set) if replica_set is not None else None
            if owner is None:
                return self._ref("ReplicaSet", pod.namespace, name)
            kind, name = owner["kind"], owner["name"]
        kind, name = self._served_by(pod.namespace, kind, name)
        return self._ref(kind, pod.namespace, name) if kind in KINDS and kind != "Node" else pod.ref

    def _served_by(self, namespace: str, kind: str, name: str) -> tuple[str, str]:
        """What owns a workload: a predictor's Deployment is KServe's, which would revert a change; a Job is its
        CronJob's, whose next run tells whether the trouble is over."""
        deployment = self.get(DEPLOYMENTS, namespace, name) if kind == "Deployment" else None
        job = self.get(JOBS, namespace, name) if kind == "Job" else None
        owner = _controller(deployment or job or {"metadata": {}})
        if owner is not None and owner["kind"] in ("InferenceService", "CronJob"):
            return owner["kind"], owner["name"]
        return kind, name

    def _ref(self, kind: str, namespace: str | None, name: str) -> ObjectRef:
        resource = KINDS[kind]
        obj = self.get(resource, namespace, name)
        uid = obj["metadata"].get("uid") if obj else None
        return ObjectRef(api_version=resource.api_version, kind=kind, namespace=namespace, name=name, uid=uid)

    def workload(self, namespace: str, name: str, kind: str | None = None) -> ObjectRef | None:
        """The workload of that name; without `kind` Deployments come first."""
        for candidate in [kind] if kind in WORKLOADS else list(WORKLOADS):
            if candidate and self.get(WORKLOADS[candidate], namespace, name) is not None:
                return self.root_of_workload(candidate, namespace, name)
        return None

    def inference_service(self, name: str, namespace: str | None) -> ObjectRef | None:
        """The InferenceService of that name, in this namespace where it has one, else the only one in the cluster."""
        found = [ref_of(INFERENCE_SERVICES, o) for o in self.all(INFERENCE_SERVICES) if o["metadata"]["name"] == name]
        near = [ref for ref in found if ref.namespace == namespace]
        return near[0] if near else found[0] if len(found) == 1 else None

    def claim(self, namespace: str, name: str) -> ObjectRef | None:
        """A PersistentVolumeClaim."""
        known = self.get(PERSISTENT_VOLUME_CLAIMS, namespace, name) is not None
        return self._ref("PersistentVolumeClaim", namespace, name) if known else None

    def root_of_workload(self, kind: str, namespace: str, name: str) -> ObjectRef:
        """The workload itself, or what owns it."""
        owner, named = self._served_by(namespace, kind, name)
        return self._ref(owner, namespace, named)

    def node(self, name: str) -> ObjectRef | None:
        return self._ref("Node", None, name) if self.get(NODES, None, name) is not None else None

    def node_by_address(self, instance: str) -> ObjectRef | None:
        """A node by `host:port` or host: its name or one of its addresses."""
        host = instance.rsplit(":", 1)[0] if instance.count(":") == 1 else instance
        if (found := self.node(host)) is not None:
            return found
        for obj in self.all(NODES):
            addresses = (obj.get("status") or {}).get("addresses") or []
            if any(a.get("address") == host for a in addresses):
                return ref_of(NODES, obj)
        return None

    def by_instance(self, instance: str) -> ObjectRef | None:
        """The workload whose annotation maps it to this `instance` label."""
        return self._by_instance.get(instance)

    def replica_sets_of(self, ref: ObjectRef) -> Iterator[Manifest]:
        """A Deployment's ReplicaSets."""
        for obj in self.all(REPLICA_SETS):
            owner = _controller(obj)
            if (
                owner is not None
                and obj["metadata"].get("namespace") == ref.namespace
                and (owner["kind"], owner["name"]) == (ref.kind, ref.name)
            ):
                yield obj


def ref_of(resource: Resource, obj: Manifest) -> ObjectRef:
    meta = obj["metadata"]
    return ObjectRef(
        api_version=resource.api_version,
        kind=resource.kind,
        namespace=meta.get("namespace") if resource.namespaced else None,
        name=meta["name"],
        uid=meta.get("uid"),
    )


def _controller(obj: Manifest) -> Mapping[str, Any] | None:
    owners = obj["metadata"].get("ownerReferences") or []
    return next((o for o in owners if o.get("controller", True)), None)


def condition(obj: Manifest, kind: str) -> Mapping[str, Any]:
    """A status condition by type; empty when absent."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind), {})


def replicas_wanted(obj: Manifest) -> int:
    value = (obj.get("spec") or {}).get("replicas")
    return 1 if value is None else int(value)


def rollout_complete(obj: Manifest) -> bool:
    """All of a Deployment's or StatefulSet's replicas are updated, available and nothing old remains."""
    status, wanted = obj.get("status") or {}, replicas_wanted(obj)
    if int(status.get("observedGeneration") or 0) < int(obj["metadata"].get("generation") or 0):
        return False
    updated, available = int(status.get("updatedReplicas") or 0), int(status.get("availableReplicas") or 0)
    return updated >= wanted and available >= wanted and int(status.get("replicas") or 0) <= wanted
