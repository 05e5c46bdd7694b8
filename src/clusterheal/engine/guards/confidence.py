"""The AI path acts only on calibrated confidence at or above the floor."""

from __future__ import annotations

import math

from clusterheal.engine.guards.case import Answer, GuardCase


def check(case: GuardCase) -> Answer:
    if case.diagnosis.origin != "ai":
        return True, "a deterministic rule"
    floor = max(case.config.confidence_floor, case.policy.confidence_floor)
    confidence = case.diagnosis.confidence
    if not math.isfinite(confidence) or confidence < floor:
        return False, f"calibrated confidence {confidence:.3f} is below the floor {floor:.2f}"
    return True, f"calibrated confidence {confidence:.3f} reaches the floor {floor:.2f}"
