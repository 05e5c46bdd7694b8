"""`as=Table` answers: the columns that `kubectl get` prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from clusterheal.clock import Clock
from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.kinds import Column, ResourceType
from clusterheal.local.kube.objects import parse_time

Cells = Callable[[Manifest], list[Any]]


def to_table(kind: ResourceType, body: Manifest, clock: Clock) -> Manifest:
    """An object or a list as a Table; other bodies (a bookmark too) keep a row of their own."""
    items = body["items"] if str(body.get("kind", "")).endswith("List") and "items" in body else [body]
    columns, cells = _columns(kind, clock)
    metadata = (
        body.get("metadata", {})
        if "items" in body
        else {"resourceVersion": body["metadata"].get("resourceVersion", "")}
    )
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            {
                "name": c.name,
                "type": c.type,
                "format": "name" if n == 0 else "",
                "description": c.description,
                "priority": c.priority,
            }
            for n, c in enumerate(columns)
        ],
        "rows": [{"cells": cells(item), "object": _partial(item)} for item in items],
    }


def _partial(obj: Manifest) -> Manifest:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def age(obj: Manifest, clock: Clock) -> str:
    created = obj["metadata"].get("creationTimestamp")
    return short_duration(clock.now() - parse_time(created)) if created else "<unknown>"


def short_duration(span: timedelta) -> str:
    seconds = max(int(span.total_seconds()), 0)
    if seconds < 120:
        return f"{seconds}s"
    minutes = seconds // 60
    if minutes < 10:
        rest = seconds % 60
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 8:
        rest = minutes % 60
        return f"{hours}h{rest}m" if rest else f"{hours}h"
    return f"{hours}h" if hours < 48 else f"{hours // 24}d"


def _dig(obj: Any, path: str) -> Any:
    """The simple JSON paths of printer columns, with `[?(@.type=="Ready")]` filters and indexes."""
    value = obj
    for part in re.findall(r"[^.\[\]]+|\[[^\]]*\]", re.sub(r"@\.", "@", path.lstrip("."))):
        if value is None:
            return None
        if found := re.fullmatch(r"\[\?\(@(\w+)\s*==\s*['\"](.*)['\"]\)\]", part):
            value = next((v for v in value if str(v.get(found[1])) == found[2]), None)
        elif part.startswith("["):
            index = part[1:-1]
            if index == "*":
                value = value[0] if value else None
            else:
                value = value[int(index)] if isinstance(value, list) and len(value) > int(index) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def _columns(kind: ResourceType, clock: Clock) -> tuple[list[Column], Cells]:
    name = Column(name="Name", type="string", path=".metadata.name")
    created = Column(name="Age", type="string", path=".metadata.creationTimestamp")
    if kind.columns:

        def custom(obj: Manifest) -> list[Any]:
            return [obj["metadata"].get("name", ""), *(_cell(obj, c, clock) for c in kind.columns)]

        return [name, *kind.columns], custom
    titles, values = _BUILTIN.get(kind.key, ((), lambda _obj: []))

    def builtin(obj: Manifest) -> list[Any]:
        return [obj["metadata"].get("name", ""), *values(obj), age(obj, clock)]

    return [name, *(Column(name=t, type="string", path="") for t in titles), created], builtin


def _cell(obj: Manifest, column: Column, clock: Clock) -> Any:
    value = _dig(obj, column.path)
    if value is None:
        return None
    if column.type == "date":
        return short_duration(clock.now() - parse_time(str(value)))
    return value if column.type in ("integer", "number", "boolean") else str(value)


def _ready_of(status: Manifest, field: str = "readyReplicas") -> int:
    return int(status.get(field) or 0)


def _pod_cells(pod: Manifest) -> list[Any]:
    status = pod.get("status") or {}
    containers = status.get("containerStatuses") or []
    shown = status.get("reason") or status.get("phase", "Unknown")
    for container in containers:
        state = container.get("state") or {}
        for name in ("waiting", "terminated"):
            if (state.get(name) or {}).get("reason"):
                shown = state[name]["reason"]
    if pod["metadata"].get("deletionTimestamp"):
        shown = "Terminating"
    total = len((pod.get("spec") or {}).get("containers") or [])
    ready = sum(bool(c.get("ready")) for c in containers)
    return [f"{ready}/{total}", shown, sum(int(c.get("restartCount", 0)) for c in containers)]


def _node_cells(node: Manifest) -> list[Any]:
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = next((c["status"] for c in conditions if c["type"] == "Ready"), "Unknown")
    shown = "Ready" if ready == "True" else "NotReady"
    if (node.get("spec") or {}).get("unschedulable"):
        shown += ",SchedulingDisabled"
    prefix = "node-role.kubernetes.io/"
    roles = sorted(k.removeprefix(prefix) for k in node["metadata"].get("labels") or {} if k.startswith(prefix))
    version = ((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion", "")
    return [shown, ",".join(roles) or "<none>", version]


def _deployment_cells(obj: Manifest) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    ready = f"{_ready_of(status)}/{spec.get('replicas', 0)}"
    return [ready, _ready_of(status, "updatedReplicas"), _ready_of(status, "availableReplicas")]


def _replica_set_cells(obj: Manifest) -> list[Any]:
    status = obj.get("status") or {}
    return [(obj.get("spec") or {}).get("replicas", 0), _ready_of(status, "replicas"), _ready_of(status)]


def _budget_cells(obj: Manifest) -> list[Any]:
    spec = obj.get("spec") or {}
    allowed = (obj.get("status") or {}).get("disruptionsAllowed", 0)
    return [spec.get("minAvailable", "N/A"), spec.get("maxUnavailable", "N/A"), allowed]


_BUILTIN: dict[str, tuple[tuple[str, ...], Cells]] = {
    "pods": (("Ready", "Status", "Restarts"), _pod_cells),
    "nodes": (("Status", "Roles", "Version"), _node_cells),
    "deployments.apps": (("Ready", "Up-to-date", "Available"), _deployment_cells),
    "replicasets.apps": (("Desired", "Current", "Ready"), _replica_set_cells),
    "namespaces": (("Status",), lambda o: [(o.get("status") or {}).get("phase", "")]),
    "configmaps": (("Data",), lambda o: [len(o.get("data") or {}) + len(o.get("binaryData") or {})]),
    "secrets": (("Type", "Data"), lambda o: [o.get("type", ""), len(o.get("data") or {})]),
    "poddisruptionbudgets.policy": (("Min Available", "Max Unavailable", "Allowed Disruptions"), _budget_cells),
    "leases.coordination.k8s.io": (("Holder",), lambda o: [(o.get("spec") or {}).get("holderIdentity", "")]),
}
