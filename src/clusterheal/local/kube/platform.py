"""Definitions of the OpenShift, KServe and GitOps types that the engine meets, without their full schemas.

A world that has the real CRDs loads those instead.
"""

from __future__ import annotations

from clusterheal.kube.ports import Manifest

_TYPES = (
    ("machineconfiguration.openshift.io", "v1", "MachineConfigPool", "machineconfigpools", "Cluster", "mcp"),
    ("machineconfiguration.openshift.io", "v1", "MachineConfig", "machineconfigs", "Cluster", "mc"),
    ("serving.kserve.io", "v1beta1", "InferenceService", "inferenceservices", "Namespaced", "isvc"),
    ("serving.kserve.io", "v1alpha1", "ServingRuntime", "servingruntimes", "Namespaced", ""),
    ("argoproj.io", "v1alpha1", "Application", "applications", "Namespaced", "app"),
    ("remediation.medik8s.io", "v1alpha1", "NodeHealthCheck", "nodehealthchecks", "Cluster", "nhc"),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules", "Namespaced", ""),
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors", "Namespaced", "smon"),
    ("config.openshift.io", "v1", "ClusterVersion", "clusterversions", "Cluster", ""),
)
_OPEN: Manifest = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_READY = {
    "name": "Ready",
    "type": "string",
    "jsonPath": '.status.conditions[?(@.type=="Ready")].status',
}
_COLUMNS: dict[str, list[Manifest]] = {
    "InferenceService": [{"name": "URL", "type": "string", "jsonPath": ".status.url"}, _READY],
    "MachineConfigPool": [
        {"name": name, "type": "string", "jsonPath": f'.status.conditions[?(@.type=="{name}")].status'}
        for name in ("Updated", "Updating", "Degraded")
    ],
}


def platform_definitions() -> list[Manifest]:
    """One CustomResourceDefinition per type, with a status subresource and open spec and status."""
    return [_definition(*entry) for entry in _TYPES]


def _definition(group: str, version: str, kind: str, plural: str, scope: str, short: str) -> Manifest:
    names: Manifest = {"kind": kind, "plural": plural, "singular": kind.lower()}
    if short:
        names["shortNames"] = [short]
    schema = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": {"spec": _OPEN, "status": _OPEN},
    }
    age = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": names,
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                    "additionalPrinterColumns": [*_COLUMNS.get(kind, []), age],
                }
            ],
        },
    }


def worker_nodes(
    count: int, *, cpu: str = "8", memory: str = "32Gi", config: str = "rendered-worker-1"
) -> list[Manifest]:
    """Ready nodes `worker-0` and on, up to date with the machine config `config`."""
    state = "machineconfiguration.openshift.io"
    room = {"cpu": cpu, "memory": memory, "pods": "110"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": f"worker-{n}",
                "labels": {"kubernetes.io/hostname": f"worker-{n}", "node-role.kubernetes.io/worker": ""},
                "annotations": {
                    f"{state}/currentConfig": config,
                    f"{state}/desiredConfig": config,
                    f"{state}/state": "Done",
                },
            },
            "spec": {},
            "status": {
                "capacity": room,
                "allocatable": room,
                "addresses": [{"type": "InternalIP", "address": f"10.0.0.{n + 10}"}],
                "nodeInfo": {"kubeletVersion": "v1.32.0"},
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True",
                        "reason": "KubeletReady",
                        "message": "kubelet is posting ready status",
                        "lastTransitionTime": "2026-01-01T00:00:00Z",
                    }
                ],
            },
        }
        for n in range(count)
    ]


def worker_pool(config: str = "rendered-worker-1", *, max_unavailable: int = 1) -> Manifest:
    """The MachineConfigPool `worker` over those nodes."""
    return {
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfigPool",
        "metadata": {"name": "worker"},
        "spec": {
            "configuration": {"name": config},
            "maxUnavailable": max_unavailable,
            "nodeSelector": {"matchLabels": {"node-role.kubernetes.io/worker": ""}},
            "paused": False,
        },
    }
