"""Which old versions to archive. Nothing is deleted: an archived version keeps its package and its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from clusterheal.errors import InvalidInput
from clusterheal.registry.versions import ModelVersion, State

KEPT_STATES = frozenset({State.SERVING, State.SHADOW, State.ARCHIVED})


@dataclass(frozen=True, kw_only=True)
class Retirement:
    """A version that would be archived, and why; `uri` is where its package lies."""

    version: ModelVersion
    reason: str


def plan_retention(
    versions: Sequence[ModelVersion], *, keep: int, older_than: timedelta, now: datetime
) -> list[Retirement]:
    """Versions of one model to archive, oldest first: beyond the newest `keep` and unchanged for `older_than`.

    What is served or in shadow stays, and so does the newest `previous`: it is what a rollback goes back to.

    Raises:
        InvalidInput: `keep` is negative.
    """
    if keep < 0:
        raise InvalidInput(f"keep must not be negative, got {keep}")
    ordered = sorted(versions, key=lambda v: v.number)
    fallback = max(
        (v for v in ordered if v.state is State.PREVIOUS), key=lambda v: (v.state_since, v.number), default=None
    )
    spared = {v.version for v in ordered[len(ordered) - keep :]} if keep else set()
    plan = []
    for version in ordered:
        if version.state in KEPT_STATES or version.version in spared or version == fallback:
            continue
        age = now - version.state_since
        if age < older_than:
            continue
        reason = f"{version.state.value} for {age.days} days, and {keep} newer ones are kept"
        plan.append(Retirement(version=version, reason=reason))
    return plan
