"""A model of the platform's own that does not serve, or serves wrongly: back to the registered version before.

Meanwhile decisions rest on rules alone: the guard `contract` trusts no model with an open incident.
"""

from __future__ import annotations

from datetime import timedelta

from clusterheal.contracts import Plan
from clusterheal.engine.diagnosis.case import Case, Finding, explained, report
from clusterheal.engine.signals.symptoms import Symptom
from clusterheal.kube.inference_service import Previous, placement_of, previous_of
from clusterheal.kube.ports import Manifest

PRIORITY = 75
AFTER_ROLLOUT = timedelta(days=7)  # trouble that comes later is not what the rollout brought
KINDS = (
    (Symptom.MODEL_CONTRACT, "was trained for another feature contract than its callers and its peer"),
    (Symptom.MODEL_UNHEALTHY, "does not answer as it should"),
    (Symptom.CRASH_LOOP, "has servers that fail again and again"),
    (Symptom.IMAGE_PULL, "has servers whose image cannot be pulled"),
    (Symptom.MODEL_WORSE, "is worse than it was in its trial, or than simple peers"),
)


def diagnose(case: Case) -> Finding | None:
    """Roll back what a recent rollout brought; otherwise tell people what they need to know."""
    if case.record.target.kind != "InferenceService":
        return None
    what = next(((symptom, text) for symptom, text in KINDS if case.of(symptom)), None)
    if what is None:
        return _stale(case)
    symptom, text = what
    manifest = case.manifest
    previous = None if manifest is None else previous_of(manifest)
    if manifest is not None and previous is not None and case.world.now - previous.since < AFTER_ROLLOUT:
        return _roll_back(case, symptom, text, manifest, previous)
    why = (
        "no version before it is noted"
        if previous is None
        else f"it has served since {previous.since:%Y-%m-%d}, so the rollout is not the cause"
    )
    return report(
        case,
        cause=symptom.value,
        explanation=f"{case.record.target} {text}. It is not taken back: {why}. Decisions rest on rules alone until it "
        "is mended; roll out a version with `clusterheal rollout`, or look at its server's log.",
        evidence={"pods": case.pods_summary(), "wants_logs": True},
    )


def _stale(case: Case) -> Finding | None:
    if not case.of(Symptom.MODEL_STALE):
        return None
    return report(
        case,
        cause=Symptom.MODEL_STALE.value,
        explanation=f"{case.record.target} has learnt nothing for long. The version before is older still, so nothing "
        "is taken back: see why training does not run, is rejected by its gate, or is not rolled out.",
    )


def _roll_back(case: Case, symptom: Symptom, text: str, manifest: Manifest, previous: Previous) -> Finding:
    current = placement_of(manifest)
    before = previous.placement
    plan = Plan(
        playbook="model-roll-back",
        action="roll-back-model",
        target=case.record.target,
        parameters={
            "uri": before.uri,
            "labels": dict(before.labels),
            "from_uri": None if current is None else current.uri,
        },
        priority=PRIORITY,
        expected_effect=f"version {before.version or before.uri} is ready and answers",
        verify_promql=None,
        rollback="serve the version of today again",
    )
    now_serving = current and (current.version or current.uri)
    diagnosis = explained(
        case,
        cause=symptom.value,
        explanation=f"{case.record.target} {text} since version {now_serving} replaced "
        f"{before.version or before.uri} at {previous.since:%Y-%m-%d %H:%M} UTC. The earlier version is served again; "
        f"decisions rest on rules alone until it is ready. Mark {now_serving} as rejected in the registry, or the next "
        "rollout may bring it back.",
        playbook=plan.playbook,
        evidence={"from_version": now_serving, "to_version": before.version, "pods": case.pods_summary()},
    )
    return Finding(diagnosis=diagnosis, plan=plan)
