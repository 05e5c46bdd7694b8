"""PodDisruptionBudgets, for what takes healthy pods away. Evictions ask the API server again, pod by pod."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.engine.guards.case import Answer, GuardCase
from clusterheal.kube.resources import POD_DISRUPTION_BUDGETS

DISRUPTIVE = frozenset({"restart", "patch-resources"})


def check(case: GuardCase) -> Answer:
    resource = POD_DISRUPTION_BUDGETS
    if case.plan.action not in DISRUPTIVE:
        return True, "evictions ask for each pod" if case.plan.action == "drain" else "takes no healthy pod away"
    if resource in case.snapshot.unreadable:
        return False, f"cannot read PodDisruptionBudgets: {case.snapshot.unreadable[resource]}"
    if resource not in case.snapshot.synced_at:
        return False, "PodDisruptionBudgets have not been read yet"
    if case.plan.action == "patch-resources" and any(not pod.ready for pod in case.pods):
        # What is down for want of memory keeps its budget at 0; its own rolling update spares the pods that are up.
        return True, "some of its pods are down already; the rolling update spares the others"
    for budget in case.snapshot.all(resource):
        meta, status = budget["metadata"], budget.get("status") or {}
        selector = (budget.get("spec") or {}).get("selector") or {}
        if meta.get("namespace") != case.target.namespace:
            continue
        if not any(selects(selector, pod.labels) for pod in case.pods):
            continue
        if int(status.get("observedGeneration") or 0) < int(meta.get("generation") or 0):
            return False, f"PodDisruptionBudget {meta['name']} has not been evaluated since it changed"
        if int(status.get("disruptionsAllowed") or 0) < 1:
            return False, f"PodDisruptionBudget {meta['name']} allows no disruption now"
    return True, "disruption budgets allow it"


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """A LabelSelector on labels; the empty one selects everything in policy/v1."""
    if any(labels.get(k) != v for k, v in (selector.get("matchLabels") or {}).items()):
        return False
    for rule in selector.get("matchExpressions") or []:
        key, operator, values = rule["key"], rule["operator"], rule.get("values") or []
        ok = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not ok:
            return False
    return True
