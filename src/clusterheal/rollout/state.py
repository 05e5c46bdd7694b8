"""What a rollout has done so far, noted on the InferenceService: survives a kill at any step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from clusterheal.errors import PermanentError, RetryableError
from clusterheal.kube.inference_service import REGISTRY_LABELS, ROLLOUT, VERSION_LABEL, Placement


class RolloutBusy(RetryableError):
    """Another rollout of the same InferenceService is under way."""


class StepFailed(PermanentError):
    """A step did not reach what it must; the rollout goes back to the previous version."""


class Step(StrEnum):
    """In order; a killed rollout goes on with the step that was written last, and every step can be repeated."""

    SHADOW = "shadow"
    CANARY = "canary"
    PROMOTE = "promote"
    BAKE = "bake"
    FINISH = "finish"
    ROLL_BACK = "roll-back"

    def comes_after(self, other: Step) -> bool:
        order = list(Step)
        return order.index(self) > order.index(other)


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """How the incumbent did on the windows that the candidate is compared on. `p99` in seconds; None: not measured."""

    p99: float | None = None
    alarm_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class RolloutState:
    """`holder` may write until `expires`. `previous` is None when nothing was in service.

    `created`: the InferenceService did not exist before.
    `step_since` is when the current step began, by the clock of the holder.
    """

    holder: str
    expires: datetime
    target: Placement
    package_sha256: str
    step: Step
    step_since: datetime
    previous: Placement | None = None
    previous_sha256: str | None = None
    created: bool = False
    baseline: Baseline = Baseline()
    reason: str | None = None

    def at(self, step: Step, now: datetime, **changes: Any) -> RolloutState:
        """The state at the beginning of `step`."""
        return replace(self, step=step, step_since=now, **changes)

    def to_json(self) -> str:
        data = asdict(self)
        data["expires"] = self.expires.isoformat()
        data["step_since"] = self.step_since.isoformat()
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> RolloutState:
        """Inverse of `to_json`.

        Raises:
            PermanentError: the annotation is not one of ours; removing it is for people to decide.
        """
        try:
            data = json.loads(text)
            previous = data.pop("previous")
            return cls(
                **{
                    **data,
                    "expires": datetime.fromisoformat(data["expires"]),
                    "step_since": datetime.fromisoformat(data["step_since"]),
                    "target": Placement(**data["target"]),
                    "previous": Placement(**previous) if previous is not None else None,
                    "baseline": Baseline(**data["baseline"]),
                    "step": Step(data["step"]),
                }
            )
        except (ValueError, TypeError, KeyError) as exc:
            raise PermanentError(
                f"status.annotations[{ROLLOUT!r}] cannot be read ({exc}); see what the InferenceService serves, "
                "then remove it"
            ) from exc


__all__ = [
    "REGISTRY_LABELS",
    "VERSION_LABEL",
    "Baseline",
    "Placement",
    "RolloutBusy",
    "RolloutState",
    "Step",
    "StepFailed",
]
