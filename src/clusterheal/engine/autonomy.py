"""Autonomy is earned per (action, kind of target) from verified outcomes, and lost by one harm."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from clusterheal.contracts import IncidentState, Verdict
from clusterheal.engine.policy import MODES, Policy, strictest
from clusterheal.engine.records import Record

Z95 = 1.96


def wilson_lower_bound(successes: int, trials: int, z: float = Z95) -> float:
    """Lower bound of the Wilson score interval for a success rate; 0 without trials."""
    if trials == 0:
        return 0.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    margin = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, (centre - margin) / (1 + z * z / trials))


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What became of one action on one kind of target: runs that were verified, and plans that were only shown.

    `needed`: plans that were not carried out and whose trouble did not go away by itself, out of `shown`. A plan whose
    trouble vanished, or that a person rejected, was not needed.
    """

    helped: int
    runs: int
    harms: int
    needed: int
    shown: int


def ledger(policy: Policy, action: str, kind: str, records: Iterable[Record]) -> Ledger:
    """Count the outcomes since the policy's `forgive_before`."""
    helped = runs = harms = needed = shown = 0
    for record in records:
        if not _counts(record, policy, action, kind):
            continue
        if record.outcome is None:
            shown += 1
            needed += record.state in (IncidentState.SUGGESTED, IncidentState.ESCALATED)
            continue
        harms += record.outcome.verdict is Verdict.HARMED
        if record.outcome.verdict is not Verdict.SELF_HEALED:
            runs += 1
            helped += record.outcome.verdict is Verdict.HELPED
    return Ledger(helped=helped, runs=runs, harms=harms, needed=needed, shown=shown)


def earned_mode(policy: Policy, action: str, kind: str, records: Iterable[Record]) -> tuple[str, str]:
    """The most that outcomes so far allow, and why.

    With `earn` the ladder is climbed from `start`: from observe and suggest by plans that turned out to be needed, to
    auto by runs that helped; each step once the lower bound of the rate passes the bar. In any case one harm since
    `forgive_before` takes `auto` back to `approve`, until a person forgives it in the policy.
    """
    found = ledger(policy, action, kind, records)
    if found.harms:
        why = f"{action} on {kind} harmed {found.harms} time(s); set spec.autonomy.forgiveBefore to trust it again"
        return strictest("approve", policy.mode), why
    if not policy.autonomy.earn:
        return policy.mode, "the policy's mode"
    mode, why = policy.autonomy.start, "not earned yet"
    if mode in MODES[:2]:
        rate = wilson_lower_bound(found.needed, found.shown)
        why = f"{found.needed} of {found.shown} plans were needed, lower bound {rate:.2f}"
        if rate < policy.autonomy.bar:
            return mode, f"not earned yet: {why}, bar {policy.autonomy.bar:.2f}"
        mode = "approve"
    rate = wilson_lower_bound(found.helped, found.runs)
    figures = f"{found.helped} of {found.runs} runs helped, lower bound {rate:.2f}, bar {policy.autonomy.bar:.2f}"
    if found.runs and rate >= policy.autonomy.bar:
        return MODES[-1], f"earned: {figures}"
    return mode, f"not earned yet: {figures}"


def harms_of(policy: Policy, action: str, kind: str, records: Iterable[Record]) -> int:
    """How often the action harmed a target of this kind since the policy last forgave it."""
    return ledger(policy, action, kind, records).harms


def _counts(record: Record, policy: Policy, action: str, kind: str) -> bool:
    """Whether this incident says something about the action: it was carried out and judged, or shown and ended."""
    if record.plan is None or record.plan.action != action or record.plan.target.kind != kind:
        return False
    judged = record.outcome is not None and record.action is not None
    ended = record.outcome.finished_at if judged and record.outcome is not None else record.ended_at
    if ended is None or not (judged or record.action is None):
        return False
    forgiven = policy.autonomy.forgive_before
    return forgiven is None or ended >= forgiven
