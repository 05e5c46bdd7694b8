"""What rests on models needs models whose feature contract matches the data they were shown."""

from __future__ import annotations

from clusterheal.contracts import SignalSource
from clusterheal.engine.guards.case import Answer, GuardCase


def check(case: GuardCase) -> Answer:
    models = (SignalSource.DETECTOR, SignalSource.FORECASTER)
    from_models = [o for o in case.record.active if o.signal.source in models]
    if case.diagnosis.origin != "ai" and len(from_models) < len(case.record.active):
        return True, "does not rest on models alone"
    if not from_models:
        return True, "does not rest on models"
    verdicts = case.world.models
    if verdicts.problem is not None:
        return False, f"the models cannot be trusted now: {verdicts.problem}"
    troubled = next((r.name for r in case.world.open_records if r.target.kind == "InferenceService"), None)
    if troubled is not None:
        return False, f"a model is in trouble itself, see incident {troubled}: only rules act meanwhile"
    for observation in from_models:
        said = observation.signal.details.get("contract_sha256")
        if verdicts.contract_sha256 is None or said != verdicts.contract_sha256:
            return (
                False,
                f"a signal was made under contract {str(said)[:12]}, in force is {verdicts.contract_sha256!s:.12}",
            )
    return True, "the feature contract matches"
