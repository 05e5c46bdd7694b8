"""PodDisruptionBudget status: how many pods may be evicted now."""

from __future__ import annotations

from datetime import datetime, timedelta

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.controllers.base import (
    World,
    active,
    earliest,
    resolve_count,
    set_condition,
)
from clusterheal.local.kube.objects import parse_time
from clusterheal.local.kube.removal import is_ready
from clusterheal.local.kube.selectors import matches_object
from clusterheal.local.kube.store import controller_uid

KEY = "poddisruptionbudgets.policy"
_OWNERS = ("replicasets.apps", "statefulsets.apps")
_EVICTION_TIME = timedelta(minutes=2)


class BudgetController:
    reads = (KEY, "pods", *_OWNERS)

    def step(self, world: World) -> datetime | None:
        due = None
        for budget in world.items(KEY):
            if not budget["metadata"].get("deletionTimestamp"):
                due = earliest(due, self._reconcile(world, budget))
        return due

    @staticmethod
    def _reconcile(world: World, budget: Manifest) -> datetime | None:
        namespace = budget["metadata"]["namespace"]
        selector = (budget.get("spec") or {}).get("selector")
        pods = [
            p
            for p in active(world.items("pods", namespace))
            if matches_object(selector, p["metadata"].get("labels") or {})
        ]
        names = {p["metadata"]["name"] for p in pods}
        old = (budget.get("status") or {}).get("disruptedPods") or {}
        evicted = {n: at for n, at in old.items() if n in names and world.now < parse_time(at) + _EVICTION_TIME}
        expected, desired = _counts(world, budget, pods)
        healthy = sum(is_ready(p) and p["metadata"]["name"] not in evicted for p in pods)
        allowed = max(healthy - desired, 0) if expected else 0
        status: Manifest = {
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "disruptionsAllowed": allowed,
            "expectedPods": expected,
            "observedGeneration": budget["metadata"]["generation"],
        }
        if evicted:
            status["disruptedPods"] = evicted

        def edit(obj: Manifest) -> None:
            conditions = (obj.get("status") or {}).get("conditions")
            obj["status"] = {**status, **({"conditions": conditions} if conditions else {})}
            verdict, reason = ("True", "SufficientPods") if allowed else ("False", "InsufficientPods")
            generation = obj["metadata"]["generation"]
            set_condition(obj, "DisruptionAllowed", verdict, world.stamp, reason=reason, observedGeneration=generation)

        world.change(KEY, budget, edit)
        return min((parse_time(at) + _EVICTION_TIME for at in evicted.values()), default=None)


def _counts(world: World, budget: Manifest, pods: list[Manifest]) -> tuple[int, int]:
    """(expected pods, healthy pods that must remain)."""
    spec = budget.get("spec") or {}
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if isinstance(least, int):
        return len(pods), least
    expected = _expected(world, budget, pods)
    if most is not None:
        return expected, max(expected - resolve_count(most, expected, up=True), 0)
    return expected, resolve_count(least if least is not None else 1, expected, up=True)


def _expected(world: World, budget: Manifest, pods: list[Manifest]) -> int:
    """The scale of the pods' controllers; unowned pods count themselves."""
    owners = {controller_uid(p) for p in pods}
    sizes = {
        o["metadata"]["uid"]: int(o["spec"].get("replicas", 1))
        for key in _OWNERS
        for o in world.items(key, budget["metadata"]["namespace"])
    }
    return sum(sizes.get(uid or "", 0) for uid in owners if uid) + sum(controller_uid(p) is None for p in pods)
