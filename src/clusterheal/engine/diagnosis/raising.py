"""A container's limit, and a higher one: from what it used, within the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clusterheal.contracts import Plan
from clusterheal.engine.diagnosis.case import Case
from clusterheal.engine.quantities import binary, millicores, quantity
from clusterheal.engine.records import Observation
from clusterheal.engine.world import Usage

HEADROOM = 1.25  # above the highest use seen; the kernel counts page cache that a working set does not show
ROLLED = ("Deployment", "StatefulSet", "DaemonSet")


@dataclass(frozen=True, kw_only=True)
class Raise:
    """`plan` is `None` where the policy gives no room; `wanted` is what would hold in any case, as a quantity."""

    container: str
    limit: str
    wanted: str
    usage: Usage | None
    plan: Plan | None

    @property
    def evidence(self) -> dict[str, Any]:
        seen = None if self.usage is None else vars(self.usage)
        return {"container": self.container, "limit": self.limit, "wanted": self.wanted, "usage_last_day": seen}


def raised(case: Case, seen: Sequence[Observation], resource: str, *, playbook: str, priority: int) -> Raise | None:
    """The raise that the observed use asks for; `None` when no container with a limit can be told.

    A limit that was reached hides what would have been used above it, so the limit itself counts as used.
    """
    found = _limit(case, seen, resource)
    if found is None:
        return None
    container, limit = found
    usage = case.world.usage.get(case.record.name)
    used = max(quantity(limit), 0.0 if usage is None else usage.p99) * HEADROOM
    policy = case.world.policy_for("patch-resources", case.record.target)
    most = policy.memory_max if resource == "memory" else policy.cpu_max
    write = binary if resource == "memory" else millicores
    wanted = write(used)
    if most is not None and quantity(wanted) > most > quantity(limit):
        wanted = f"{int(most / 2**20)}Mi" if resource == "memory" else f"{int(most * 1000)}m"
    plan = None
    if most is not None and quantity(limit) < quantity(wanted) <= most and case.record.target.kind in ROLLED:
        parameters = {"container": container, "resource": resource, "from_limit": limit, "to_limit": wanted}
        plan = Plan(
            playbook=playbook,
            action="patch-resources",
            target=case.record.target,
            parameters=parameters,
            priority=priority,
            expected_effect=f"container {container} stays below its {resource} limit of {wanted}",
            verify_promql=None,
            rollback=f"set the {resource} limit back to {limit}",
        )
    return Raise(container=container, limit=limit, wanted=wanted, usage=usage, plan=plan)


def _limit(case: Case, seen: Sequence[Observation], resource: str) -> tuple[str, str] | None:
    """The container that the signals name, else the only one with such a limit, and its limit."""
    template = ((case.manifest or {}).get("spec") or {}).get("template") or {}
    limits = {
        c["name"]: str(limit)
        for c in (template.get("spec") or {}).get("containers") or []
        if (limit := ((c.get("resources") or {}).get("limits") or {}).get(resource)) is not None
    }
    for observation in seen:
        details = observation.signal.details
        name = details.get("container") or (details.get("labels") or {}).get("container")
        if name in limits:
            return str(name), limits[name]
    return next(iter(limits.items())) if len(limits) == 1 else None


def spread(usage: Usage | None, resource: str) -> str:
    """The distribution in words: a steady use near the limit, or a rare peak."""
    if usage is None:
        return ""
    write = binary if resource == "memory" else millicores
    steady = usage.median > 0.7 * usage.p99
    kind = "it uses that much all the time" if steady else "that is a peak, half of the time it uses far less"
    return (
        f" Over the last day its median was {write(usage.median)} and its 99th percentile {write(usage.p99)}: {kind}."
    )
