"""The small OpenShift cluster of the demo: what runs where, and its objects for a Kubernetes API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clusterheal.kube import resources
from clusterheal.kube.ports import Manifest, Resource

MIB = 1024 * 1024
GIB = 1024 * MIB
REGISTRY = "image-registry.openshift-image-registry.svc:5000"
INSTANCE_ANNOTATION = "clusterheal.io/instance"
"""On a Deployment: the value of the `instance` label under which its recorded telemetry is found."""


@dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """One worker. `memory` and `disk` in bytes."""

    name: str
    cores: int = 8
    memory: int = 32 * GIB
    disk: int = 120 * GIB


@dataclass(frozen=True, kw_only=True)
class WorkloadSpec:
    """One Deployment and how its pods behave when nothing is wrong.

    `cpu` and `memory` are what one pod uses at average load, in cores and bytes; `daily` is how far the load swings
    around its mean over a day (0..1), `peak_hour` when it is highest (UTC), `weekend` the load's factor on Saturday
    and Sunday. `network` is bytes per second received by one pod at average load. `job_minute`: minute of every hour
    at which a scheduled job calls the workload; `None`: none does.
    """

    namespace: str
    name: str
    replicas: int
    cpu: float
    memory: int
    daily: float = 0.6
    peak_hour: float = 15.0
    weekend: float = 0.75
    network: float = 40_000.0
    job_minute: int | None = None
    instance: str | None = None

    @property
    def cpu_limit(self) -> float:
        """Cores, rounded to 10m: twice what the pod uses at average load."""
        return round(self.cpu * 2.2, 2)

    @property
    def memory_limit(self) -> int:
        """Bytes, rounded to MiB: well above the working set at peak."""
        return round(self.memory * 1.9 / MIB) * MIB

    @property
    def image(self) -> str:
        return f"{REGISTRY}/{self.namespace}/{self.name}:1.4.2"

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    """Nodes and workloads; everything else follows from them."""

    nodes: tuple[NodeSpec, ...]
    workloads: tuple[WorkloadSpec, ...]

    def workload(self, namespace: str, name: str) -> WorkloadSpec | None:
        return next((w for w in self.workloads if (w.namespace, w.name) == (namespace, name)), None)

    @property
    def namespaces(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(w.namespace for w in self.workloads))


def _nodes() -> tuple[NodeSpec, ...]:
    return tuple(NodeSpec(name=f"worker-{i}") for i in range(3))


def default_cluster() -> ClusterSpec:
    """Three workers and thirteen Deployments of an online shop."""
    return ClusterSpec(
        nodes=_nodes(),
        workloads=(
            WorkloadSpec(namespace="shop", name="cart", replicas=3, cpu=0.25, memory=420 * MIB),
            WorkloadSpec(namespace="shop", name="checkout", replicas=2, cpu=0.30, memory=512 * MIB, peak_hour=17.0),
            WorkloadSpec(namespace="shop", name="catalog", replicas=3, cpu=0.40, memory=700 * MIB, network=120_000.0),
            WorkloadSpec(namespace="shop", name="payments", replicas=2, cpu=0.20, memory=380 * MIB, weekend=0.6),
            WorkloadSpec(namespace="shop", name="orders", replicas=2, cpu=0.35, memory=640 * MIB, job_minute=10),
            WorkloadSpec(namespace="web", name="frontend", replicas=3, cpu=0.45, memory=300 * MIB, network=250_000.0),
            WorkloadSpec(namespace="web", name="gateway", replicas=2, cpu=0.50, memory=256 * MIB, network=400_000.0),
            WorkloadSpec(
                namespace="data", name="search", replicas=2, cpu=0.70, memory=1800 * MIB, daily=0.5, job_minute=5
            ),
            WorkloadSpec(
                namespace="data", name="recommender", replicas=2, cpu=0.60, memory=1500 * MIB, daily=0.45, job_minute=20
            ),
            WorkloadSpec(
                namespace="data",
                name="inventory",
                replicas=2,
                cpu=0.15,
                memory=450 * MIB,
                peak_hour=10.0,
                job_minute=35,
            ),
            WorkloadSpec(
                namespace="ops", name="reports", replicas=2, cpu=0.30, memory=900 * MIB, peak_hour=3.0, job_minute=0
            ),
            WorkloadSpec(
                namespace="ops", name="mailer", replicas=1, cpu=0.10, memory=200 * MIB, weekend=0.5, job_minute=30
            ),
            WorkloadSpec(
                namespace="ops", name="audit", replicas=2, cpu=0.12, memory=320 * MIB, daily=0.3, job_minute=50
            ),
        ),
    )


def recorded_cluster(instances: Sequence[str]) -> ClusterSpec:
    """One Deployment with two pods per recorded instance, in the namespace `recorded`."""
    return ClusterSpec(
        nodes=_nodes(),
        workloads=tuple(
            WorkloadSpec(
                namespace="recorded",
                name=object_name(instance),
                replicas=2,
                cpu=0.2,
                memory=400 * MIB,
                instance=instance,
            )
            for instance in instances
        ),
    )


def object_name(text: str) -> str:
    """A DNS label made of `text`: lower case, digits and dashes, at most 40 characters."""
    cleaned = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower()).strip("-")
    return cleaned[:40].strip("-") or "instance"


def manifests(spec: ClusterSpec) -> list[tuple[Resource, Manifest]]:
    """The workloads' objects in the order in which they can be created; the emulator comes with the nodes."""
    objects: list[tuple[Resource, Manifest]] = [(resources.NAMESPACES, _namespace(name)) for name in spec.namespaces]
    for workload in spec.workloads:
        objects.append((resources.DEPLOYMENTS, deployment(workload)))
        if workload.replicas > 1:
            objects.append((resources.POD_DISRUPTION_BUDGETS, _disruption_budget(workload)))
    return objects


def _namespace(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def deployment(workload: WorkloadSpec) -> Manifest:
    """The Deployment of a workload, one container named like it."""
    labels = {"app.kubernetes.io/name": workload.name}
    annotations = {INSTANCE_ANNOTATION: workload.instance} if workload.instance else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": workload.name,
            "namespace": workload.namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "replicas": workload.replicas,
            "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [
                        {
                            "name": workload.name,
                            "image": workload.image,
                            "resources": {
                                "requests": {"cpu": f"{round(workload.cpu * 1000)}m", "memory": str(workload.memory)},
                                "limits": {
                                    "cpu": f"{round(workload.cpu_limit * 1000)}m",
                                    "memory": str(workload.memory_limit),
                                },
                            },
                        }
                    ]
                },
            },
        },
    }


def _disruption_budget(workload: WorkloadSpec) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": workload.name, "namespace": workload.namespace},
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {"app.kubernetes.io/name": workload.name}},
        },
    }


__all__ = [
    "GIB",
    "INSTANCE_ANNOTATION",
    "MIB",
    "ClusterSpec",
    "NodeSpec",
    "WorkloadSpec",
    "default_cluster",
    "deployment",
    "manifests",
    "object_name",
    "recorded_cluster",
]
