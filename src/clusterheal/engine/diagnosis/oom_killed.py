"""Containers that the kernel killed for memory. The limit is somebody's decision, so a raise is only proposed."""

from __future__ import annotations

from clusterheal.engine.diagnosis.case import Case, Finding, report
from clusterheal.engine.quantities import quantity
from clusterheal.engine.signals.symptoms import Symptom

HEADROOM = 1.25  # above the highest use seen; the kernel counts page cache that a working set does not show


def diagnose(case: Case) -> Finding | None:
    """Explain with the limit, the observed use and the limit that would have held."""
    seen = case.of(Symptom.OOM_KILLED)
    if not seen or case.of(Symptom.MEMORY_LEAK):
        return None  # a leak is treated as a leak
    details = seen[0].signal.details
    limit = details.get("memory_limit")
    current = case.world.models.current.get(case.entity() or "", {})
    used = current.get("workload_memory_bytes")
    wanted = max(used or 0.0, quantity(limit) if limit else 0.0) * HEADROOM
    proposal = f" A limit of {wanted / 2**20:.0f}Mi would have held what was observed." if wanted else ""
    return report(
        case,
        cause="oom-killed",
        explanation=f"The kernel killed container {details.get('container', '?')} of {case.record.target} at its "
        f"memory limit of {limit or 'unknown size'}.{proposal} Raise resources.limits.memory where the object is "
        "defined, or find what grew.",
        evidence={"memory_limit": limit, "observed_bytes": used, "pods": case.pods_summary()},
    )
