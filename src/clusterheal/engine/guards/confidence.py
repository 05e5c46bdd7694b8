"""The AI path acts only on calibrated confidence at or above the floor, and only while the calibration holds.

By itself it acts only where its own earlier proposals bear that out; where a person decides, none are needed yet.
"""

from __future__ import annotations

import math

from clusterheal.engine.calibration import conformal_confidence, proposals
from clusterheal.engine.guards.case import Answer, GuardCase

MIN_COVERAGE = 0.5  # of the detector's 80 % bands: an incident lowers it a little, a model that does not fit far


def check(case: GuardCase) -> Answer:
    if case.diagnosis.origin != "ai":
        return True, "a deterministic rule"
    floor = max(case.config.confidence_floor, case.policy.confidence_floor)
    confidence = case.diagnosis.confidence
    if not math.isfinite(confidence) or confidence < floor:
        return False, f"calibrated confidence {confidence:.3f} is below the floor {floor:.2f}"
    quality = case.world.models.quality
    if quality is not None and quality.in_band is not None and quality.in_band < MIN_COVERAGE:
        return False, f"only {quality.in_band:.0%} of values lie in the detector's 80 % bands: it is not calibrated now"
    if case.config.ai_needs_outcomes and case.mode[0] == "auto" and not case.asked_for:
        judged = proposals(case.world.records.values())
        sure = conformal_confidence(case.plan.action, confidence, judged)
        if sure < floor:
            peers = [p for p in judged if p.action == case.plan.action and p.confidence >= confidence]
            right = sum(p.right for p in peers)
            return False, (
                f"{right} of {len(peers)} earlier proposals to {case.plan.action} as sure as this one helped: "
                f"conformal confidence {sure:.2f} is below the floor {floor:.2f}; outcomes are gathered in mode approve"
            )
    return True, f"calibrated confidence {confidence:.3f} reaches the floor {floor:.2f}"
