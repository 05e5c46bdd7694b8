"""What came of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class RolloutOutcome(StrEnum):
    """`paused`: did well in shadow and was asked to stop there; the same holder goes on from that point.

    `failed`: neither promoted nor back, because there was nothing to go back to or it did not come back.
    """

    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One thing done: `seconds` by the rollout's clock, `ok` False for the step that broke it off."""

    name: str
    seconds: float
    detail: str
    ok: bool = True


OnStep = Callable[[StepRecord], None]


@dataclass(frozen=True, kw_only=True)
class RolloutResult:
    """`serving` is the version that answers now, None when nothing does; `reason` says why it was not promoted."""

    outcome: RolloutOutcome
    name: str
    version: str
    serving: str | None
    url: str | None
    steps: tuple[StepRecord, ...]
    reason: str | None = None

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    def __str__(self) -> str:
        lines = [f"{self.name} {self.version}: {self.outcome.value}, {self.serving or 'nothing'} is in service"]
        lines += [f"reason: {self.reason}"] if self.reason else []
        lines += [f"- {s.name}: {s.seconds:.1f} s, {s.detail}" for s in self.steps]
        return "\n".join(lines)
