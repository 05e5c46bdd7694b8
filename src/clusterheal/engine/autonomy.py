"""Autonomy is earned per (action, kind of target) from verified outcomes, and lost by one harm."""

from __future__ import annotations

import math
from collections.abc import Iterable

from clusterheal.contracts import Verdict
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


def earned_mode(policy: Policy, action: str, kind: str, records: Iterable[Record]) -> tuple[str, str]:
    """The most that outcomes so far allow, and why.

    With `earn`: `start`, and the policy's mode once the lower bound of the success rate passes the bar. In any case one
    harm since `forgive_before` takes `auto` back to `approve`, until a person forgives it in the policy.
    """
    known = list(records)
    harms = harms_of(policy, action, kind, known)
    successes = trials = 0
    for record in known:
        if not _counts(record, policy, action, kind):
            continue
        assert record.outcome is not None
        if record.outcome.verdict is not Verdict.SELF_HEALED:
            trials += 1
            successes += record.outcome.verdict is Verdict.HELPED
    if harms:
        why = f"{action} on {kind} harmed {harms} time(s); set spec.autonomy.forgiveBefore to trust it again"
        return strictest("approve", policy.mode), why
    if not policy.autonomy.earn:
        return policy.mode, "the policy's mode"
    bound = wilson_lower_bound(successes, trials)
    figures = f"{successes} of {trials} runs helped, lower bound {bound:.2f}, bar {policy.autonomy.bar:.2f}"
    if trials and bound >= policy.autonomy.bar:
        return MODES[-1], f"earned: {figures}"
    return policy.autonomy.start, f"not earned yet: {figures}"


def harms_of(policy: Policy, action: str, kind: str, records: Iterable[Record]) -> int:
    """How often the action harmed a target of this kind since the policy last forgave it."""
    return sum(
        1
        for record in records
        if _counts(record, policy, action, kind)
        and record.outcome is not None
        and record.outcome.verdict is Verdict.HARMED
    )


def _counts(record: Record, policy: Policy, action: str, kind: str) -> bool:
    if record.outcome is None or record.plan is None or record.action is None:
        return False
    forgiven = policy.autonomy.forgive_before
    if forgiven is not None and record.outcome.finished_at < forgiven:
        return False
    return record.plan.action == action and record.plan.target.kind == kind
