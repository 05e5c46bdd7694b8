"""Actions of the past, as the stored incidents tell them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from clusterheal.engine.guards.case import GuardCase
from clusterheal.engine.records import ActionRecord, Record


def actions(case: GuardCase) -> Iterator[tuple[Record, ActionRecord, datetime]]:
    """Every intent of every other incident: an intent that may have been carried out counts as carried out."""
    for record in case.world.records.values():
        if record.name == case.record.name:
            continue
        for action in (record.action, record.rollback):
            if action is not None and not action.result.startswith("withdrawn"):
                yield record, action, action.applied_at or action.intent_at
