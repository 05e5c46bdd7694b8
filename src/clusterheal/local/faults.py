"""The troubles that the demo can cause, and how they unfold."""

from __future__ import annotations

from dataclasses import dataclass, field

from clusterheal.errors import InvalidInput

SATURATED_DEMAND = 2.6
"""Demand per planned pod, relative to its average, at which CPU limits of 2.2 times the average use throttle."""


@dataclass(frozen=True, kw_only=True)
class FaultKind:
    """One kind of trouble. `ramp_seconds` is how long it takes to unfold fully, in real time."""

    name: str
    summary: str
    namespace: str
    workload: str
    ramp_seconds: float
    recorded: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        FaultKind(
            name="memory-leak",
            summary="every pod of the workload leaks memory until its limit kills it; a restarted pod does not leak",
            namespace="shop",
            workload="cart",
            ramp_seconds=90.0,
        ),
        FaultKind(
            name="bad-rollout",
            summary="a new revision is rolled out whose container exits at once; the revision before it is good",
            namespace="shop",
            workload="checkout",
            ramp_seconds=0.0,
        ),
        FaultKind(
            name="cpu-saturation",
            summary="demand grows to more than the pods' CPU limits allow; one more pod is enough to carry it",
            namespace="shop",
            workload="payments",
            ramp_seconds=4.0,
        ),
        FaultKind(
            name="level-shift",
            summary="some metrics of one recorded instance move to another level until its pods are replaced",
            namespace="recorded",
            workload="",
            ramp_seconds=5.0,
            recorded=True,
        ),
        FaultKind(
            name="ramp",
            summary="some metrics of one recorded instance climb steadily until its pods are replaced",
            namespace="recorded",
            workload="",
            ramp_seconds=60.0,
            recorded=True,
        ),
    )
}
DEFAULT_GENERATED = "memory-leak"
DEFAULT_RECORDED = "level-shift"


def choose(name: str | None, *, recorded: bool) -> FaultKind:
    """The fault called `name`, or the default of the source.

    Raises:
        InvalidInput: an unknown fault, or one of the other source.
    """
    kind = KINDS.get(name or (DEFAULT_RECORDED if recorded else DEFAULT_GENERATED))
    fitting = [k.name for k in KINDS.values() if k.recorded == recorded]
    if kind is None or kind.recorded != recorded:
        source = "recorded telemetry" if recorded else "the generated cluster"
        raise InvalidInput(f"--fault {name!r}: with {source}, expected one of {', '.join(fitting)}")
    return kind


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault under way. `victims` are the uids of the pods that have it; empty means by image or by workload.

    `started_at`: seconds since the epoch. `metrics`: for a recorded instance, metric name -> shift in its own unit.
    """

    kind: str
    namespace: str
    workload: str
    started_at: float
    ramp_seconds: float
    victims: frozenset[str] = frozenset()
    image: str | None = None
    instance: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def progress(self, now: float) -> float:
        """How far it has unfolded, 0..1."""
        if self.ramp_seconds <= 0:
            return 1.0 if now >= self.started_at else 0.0
        return min(1.0, max(0.0, (now - self.started_at) / self.ramp_seconds))


__all__ = ["DEFAULT_GENERATED", "DEFAULT_RECORDED", "KINDS", "SATURATED_DEMAND", "Fault", "FaultKind", "choose"]
