"""Checks of built-in objects: the required, the immutable, the impossible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.failures import Cause, forbidden_field, invalid_value, required
from clusterheal.local.kube.kinds import ResourceType
from clusterheal.local.kube.selectors import matches_object

_IMMUTABLE = "field is immutable"
_POD_UPDATE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def _selector_text(selector: Any) -> str:
    return str(selector).replace("'", '"')


def _pod_spec(spec: Any, field: str) -> list[Cause]:
    if not isinstance(spec, dict) or not spec.get("containers"):
        return [required(f"{field}.containers")]
    causes = []
    seen: set[str] = set()
    for n, container in enumerate(spec["containers"]):
        here = f"{field}.containers[{n}]"
        name = container.get("name")
        if not name:
            causes.append(required(f"{here}.name"))
        elif name in seen:
            causes.append(
                Cause(reason="FieldValueDuplicate", message=f'Duplicate value: "{name}"', field=f"{here}.name")
            )
        seen.add(name)
        if not container.get("image"):
            causes.append(required(f"{here}.image"))
    return causes


def _count(spec: Manifest, field: str) -> list[Cause]:
    value = spec.get(field)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return []
    return [invalid_value(f"spec.{field}", value, "must be greater than or equal to 0")]


def _workload(obj: Manifest, old: Manifest | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = _count(spec, "replicas")
    selector = spec.get("selector")
    if selector is None:
        causes.append(required("spec.selector"))
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        causes.append(
            invalid_value("spec.selector", _selector_text(selector), "empty selector is invalid for deployment")
        )
    else:
        labels = (spec.get("template") or {}).get("metadata", {}).get("labels") or {}
        if not matches_object(selector, labels):
            text = "`selector` does not match template `labels`"
            causes.append(invalid_value("spec.template.metadata.labels", _selector_text(labels), text))
    if old is not None and old["spec"].get("selector") != selector:
        causes.append(invalid_value("spec.selector", _selector_text(selector), _IMMUTABLE))
    return causes + _pod_spec((spec.get("template") or {}).get("spec"), "spec.template.spec")


def _pod(obj: Manifest, old: Manifest | None) -> list[Cause]:
    if old is None:
        return _pod_spec(obj.get("spec"), "spec")
    before, after = _fixed_pod_spec(old["spec"]), _fixed_pod_spec(obj["spec"])
    return [] if before == after else [forbidden_field("spec", _POD_UPDATE)]


def _fixed_pod_spec(spec: Manifest) -> Manifest:
    fixed = {k: v for k, v in spec.items() if k not in ("activeDeadlineSeconds", "tolerations")}
    for name in ("containers", "initContainers"):
        if name in spec:
            fixed[name] = [{k: v for k, v in c.items() if k != "image"} for c in spec[name]]
    return fixed


def _budget(obj: Manifest, _old: Manifest | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        return [invalid_value("spec", _selector_text(spec), "minAvailable and maxUnavailable cannot be both set")]
    return []


def _lease(obj: Manifest, _old: Manifest | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = []
    duration = spec.get("leaseDurationSeconds")
    if duration is not None and duration <= 0:
        causes.append(invalid_value("spec.leaseDurationSeconds", duration, "must be greater than 0"))
    transitions = spec.get("leaseTransitions")
    if transitions is not None and transitions < 0:
        causes.append(invalid_value("spec.leaseTransitions", transitions, "must be greater than or equal to 0"))
    return causes


def _config_map(obj: Manifest, old: Manifest | None) -> list[Cause]:
    if old is None or not old.get("immutable"):
        return []
    causes = []
    if not obj.get("immutable"):
        causes.append(forbidden_field("immutable", "field is immutable when `immutable` is set"))
    for field in ("data", "binaryData"):
        if old.get(field) != obj.get(field):
            causes.append(forbidden_field(field, "field is immutable when `immutable` is set"))
    return causes


def _service(obj: Manifest, old: Manifest | None) -> list[Cause]:
    spec = obj.get("spec") or {}
    causes = []
    if not spec.get("ports") and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
        causes.append(required("spec.ports"))
    if old is not None and old["spec"].get("clusterIP") and old["spec"]["clusterIP"] != spec.get("clusterIP"):
        spec.setdefault("clusterIP", old["spec"]["clusterIP"])
        if spec["clusterIP"] != old["spec"]["clusterIP"]:
            causes.append(invalid_value("spec.clusterIP", spec["clusterIP"], _IMMUTABLE))
    return causes


def _event(obj: Manifest, _old: Manifest | None) -> list[Cause]:
    involved = (obj.get("involvedObject") or {}).get("namespace") or "default"
    if involved != obj["metadata"].get("namespace"):
        return [invalid_value("involvedObject.namespace", involved, "does not match event.namespace")]
    return []


_CHECKS: dict[str, Callable[[Manifest, Manifest | None], list[Cause]]] = {
    "Deployment": _workload,
    "ReplicaSet": _workload,
    "StatefulSet": _workload,
    "DaemonSet": _workload,
    "Pod": _pod,
    "PodDisruptionBudget": _budget,
    "Lease": _lease,
    "ConfigMap": _config_map,
    "Secret": _config_map,
    "Service": _service,
    "Event": _event,
}


def validate_builtin(kind: ResourceType, obj: Manifest, old: Manifest | None) -> list[Cause]:
    check = None if kind.custom else _CHECKS.get(kind.resource.kind)
    return check(obj, old) if check else []
