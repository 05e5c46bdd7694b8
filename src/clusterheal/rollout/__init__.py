"""InferenceService rollout: shadow, canary where KServe has it, promote, bake; back on any breach."""

from clusterheal.rollout.result import RolloutOutcome, RolloutResult, StepRecord
from clusterheal.rollout.run import connect_client, roll_out
from clusterheal.rollout.state import RolloutBusy, Step, StepFailed

__all__ = [
    "RolloutBusy",
    "RolloutOutcome",
    "RolloutResult",
    "Step",
    "StepFailed",
    "StepRecord",
    "connect_client",
    "roll_out",
]
