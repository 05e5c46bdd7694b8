"""An image that cannot be pulled: undo when a rollout brought it, otherwise name what is wrong."""

from __future__ import annotations

from clusterheal.engine.diagnosis.case import Case, Finding, explained, report
from clusterheal.engine.diagnosis.revisions import last_good, revisions, undo_plan
from clusterheal.engine.signals.symptoms import Symptom

PRIORITY = 70


def diagnose(case: Case) -> Finding | None:
    """Undo only when the newest revision changed the image and an older one still serves."""
    seen = case.of(Symptom.IMAGE_PULL)
    if not seen:
        return None
    details = next((o.signal.details for o in seen if "image" in o.signal.details), {})
    image, message = details.get("image", "its image"), details.get("message") or "no reason given"
    target = case.record.target
    if target.kind == "Deployment":
        newest = next(iter(revisions(case.world, target)), None)
        good = last_good(case.world, target)
        if newest is not None and good is not None and good.available > 0:
            plan = undo_plan(
                target,
                newest,
                good,
                playbook="image-pull-after-rollout",
                priority=PRIORITY,
                effect="all replicas become available on the earlier image",
            )
            diagnosis = explained(
                case,
                cause="image-pull",
                explanation=f"Revision {newest.number} of {target} asks for {image}, which cannot be pulled "
                f"({message}). "
                f"Revision {good.number} still has {good.available} pods ready and is restored.",
                playbook=plan.playbook,
                evidence={"image": image, "bad_replica_set": newest.name, "pods": case.pods_summary()},
            )
            return Finding(diagnosis=diagnosis, plan=plan)
    return report(
        case,
        cause="image-pull",
        explanation=f"{target} cannot pull {image}: {message}. Check that the tag exists, that the registry answers, "
        "and that the pull secret of the service account may read it. No action of ours mends that.",
        evidence={"image": image, "pods": case.pods_summary()},
    )
