"""Actions of the past, as the stored incidents tell them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from clusterheal.engine.guards.case import GuardCase
from clusterheal.engine.records import ActionRecord, Record


def actions(case: GuardCase) -> Iterator[tuple[Record, ActionRecord, datetime]]:
    """Every intent of every other incident."""
    return actions_of(r for r in case.world.records.values() if r.name != case.record.name)


def actions_of(records: Iterable[Record]) -> Iterator[tuple[Record, ActionRecord, datetime]]:
    """Every intent with its time: one that may have been carried out counts as carried out."""
    for record in records:
        for action in (record.action, record.rollback):
            if action is not None and not action.result.startswith("withdrawn"):
                yield record, action, action.applied_at or action.intent_at
