"""A cordon of the engine's own that outlived its incident: lifted, since nobody else will."""

from __future__ import annotations

from clusterheal.contracts import Plan
from clusterheal.engine.diagnosis.case import Case, Finding, explained
from clusterheal.engine.signals.symptoms import Symptom

PRIORITY = 40


def diagnose(case: Case) -> Finding | None:
    """Uncordon, if the cordon still carries the owner that was seen."""
    seen = case.of(Symptom.CORDON_ORPHANED)
    if not seen or case.record.target.kind != "Node":
        return None
    owner = str(seen[0].signal.details["owner"])
    plan = Plan(
        playbook="cordon-orphaned",
        action="uncordon",
        target=case.record.target,
        parameters={"owner": owner},
        priority=PRIORITY,
        expected_effect="the node takes pods again",
        verify_promql=None,
        rollback="none: cordon it by hand if it should stay empty",
    )
    diagnosis = explained(
        case,
        cause="cordon-orphaned",
        explanation=f"{case.record.target} is still cordoned for incident {owner}, which is over, gone or out of time. "
        "Nobody else lifts that cordon.",
        playbook=plan.playbook,
        evidence={"owner": owner},
    )
    return Finding(diagnosis=diagnosis, plan=plan)
