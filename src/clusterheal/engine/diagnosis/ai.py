"""What no rule knows: rank causes by the detector's contributions and by topology, and propose an action to the guards.

Proposed is the mildest action that fits the first cause: nothing for a shared node, the earlier revision after a fresh
rollout, else a restart. It runs only with calibrated confidence at or above the floor; below, it is a suggestion.
"""

from __future__ import annotations

from clusterheal.contracts import Plan, SignalSource
from clusterheal.engine.diagnosis.case import Case, Finding, explained
from clusterheal.engine.diagnosis.ranking import Cause, ranked_causes
from clusterheal.engine.diagnosis.revisions import last_good, revisions, undo_plan
from clusterheal.engine.records import Observation

PRIORITY = 30
RESTARTABLE = ("Deployment", "StatefulSet", "DaemonSet")


def diagnose(case: Case) -> Finding | None:
    """An explained proposal from the most confident detection; `None` without one."""
    seen = [o for o in case.record.active if o.signal.source is SignalSource.DETECTOR]
    if not seen:
        return None
    best = max(seen, key=lambda o: o.signal.confidence or 0.0)
    confidence = best.signal.confidence or 0.0
    ranked = [str(name) for name in best.signal.details.get("contributions", {})]
    causes = ranked_causes(case, best)
    first = causes[0] if causes else None
    cause = f"anomaly led by {', '.join(ranked[:3])}" if ranked else "anomaly"
    if first is not None and first.kind != "feature":
        cause = f"anomaly from {first.what}"
    plan = _plan(case, best, ranked, first) if case.record.target.kind in RESTARTABLE and ranked else None
    where = "" if first is None or first.kind == "feature" else f"Most likely it comes from {first.what}: {first.why}. "
    explanation = (
        f"No rule knows this pattern. {where}The detector scores {best.signal.details.get('score', 0):.2f} on "
        f"{best.signal.details.get('entity')}; {_contributions(best)}. Its calibrated confidence is {confidence:.2f}, "
        f"{'at or above' if confidence >= case.world.config.confidence_floor else 'below'} the floor of "
        f"{case.world.config.confidence_floor:.2f}."
    )
    return Finding(
        diagnosis=explained(
            case,
            cause=cause,
            explanation=explanation,
            playbook=plan.playbook if plan else None,
            origin="ai",
            confidence=confidence,
            evidence={
                "ranked_causes": [vars(c) for c in causes[:5]],
                "contributions": best.signal.details.get("contributions", {}),
                "expected": best.signal.details.get("expected", {}),
                "model_version": best.signal.details.get("model_version"),
                "contract_sha256": best.signal.details.get("contract_sha256"),
                "entity": best.signal.details.get("entity"),
            },
        ),
        plan=plan,
    )


def _plan(case: Case, best: Observation, ranked: list[str], first: Cause | None) -> Plan | None:
    if first is not None and first.kind == "node":
        return None  # restarting what runs on a sick node only moves the symptom
    newest = next(iter(revisions(case.world, case.record.target)), None)
    good = last_good(case.world, case.record.target)
    if first is not None and first.kind == "rollout" and newest is not None and good is not None:
        return undo_plan(
            case.record.target,
            newest,
            good,
            playbook="anomalous-rollout",
            priority=PRIORITY,
            effect=f"{ranked[0]} returns to the range the model expects",
        )
    band = best.signal.details.get("expected", {}).get(ranked[0]) or {}
    observed, median = band.get("observed"), band.get("median")
    high = observed is None or median is None or observed >= median
    proof = case.proof(ranked[0], band.get("high") if high else band.get("low"), lower_is_better=high)
    if observed is not None:
        proof.setdefault("baseline", observed)
    return Plan(
        playbook="anomalous-workload",
        action="restart",
        target=case.record.target,
        parameters={"proof": proof},
        priority=PRIORITY,
        expected_effect=f"{ranked[0]} returns to the range the model expects",
        verify_promql=None,
        rollback="none: a restart cannot be undone; a rollout that does not complete is escalated",
    )


def _contributions(observation: Observation) -> str:
    parts = [f"{name} contributes {value:.2f}" for name, value in observation.signal.details["contributions"].items()]
    return ", ".join(parts[:3]) if parts else "no feature stands out"
