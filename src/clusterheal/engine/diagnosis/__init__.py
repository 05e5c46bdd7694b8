"""Why something is wrong and what to do about it: rules first, in order; what none knows goes to the AI path."""

from __future__ import annotations

import logging

from clusterheal.engine.diagnosis import (
    ai,
    cordon_orphaned,
    cpu_throttling,
    crash_loop,
    gpu_fault,
    image_pull,
    job_failed,
    memory_leak,
    model_in_trouble,
    node_disk,
    node_trouble,
    oom_killed,
    pool_degraded,
    report_only,
    requested,
    rollout_stuck,
    saturation,
    unschedulable,
    volume_filling,
)
from clusterheal.engine.diagnosis.case import Case, Finding, Rule
from clusterheal.engine.diagnosis.deployed import adapted
from clusterheal.engine.records import Record
from clusterheal.engine.world import World

log = logging.getLogger(__name__)

RULES: tuple[Rule, ...] = (
    requested.diagnose,
    pool_degraded.diagnose,
    node_trouble.diagnose,
    gpu_fault.diagnose,
    node_disk.diagnose,
    cordon_orphaned.diagnose,
    model_in_trouble.diagnose,
    image_pull.diagnose,
    crash_loop.diagnose,
    rollout_stuck.diagnose,
    oom_killed.diagnose,
    memory_leak.diagnose,
    saturation.diagnose,
    unschedulable.diagnose,
    volume_filling.diagnose,
    cpu_throttling.diagnose,
    job_failed.diagnose,
    report_only.diagnose,
)
"""Most specific first: a crash loop explains the saturation of what remains, not the other way round."""


def diagnose(record: Record, world: World) -> Finding | None:
    """The first rule that knows the case, else the AI path; `None` when nothing can be said yet."""
    case = Case(record=record, world=world)
    for rule in RULES:
        finding = rule(case)
        if finding is not None:
            return adapted(case, finding)
    return ai.diagnose(case)


__all__ = ["RULES", "Case", "Finding", "diagnose"]
