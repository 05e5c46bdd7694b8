"""Who goes first when plans want the same objects: running before pending, rules before AI, then priority, then age."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from clusterheal.contracts import Diagnosis, Plan
from clusterheal.engine.names import root_key
from clusterheal.engine.records import Record
from clusterheal.engine.views import Snapshot


def objects_touched(plan: Plan, snapshot: Snapshot) -> frozenset[str]:
    """Everything that an action takes in its hands: its target, and for a node every workload that runs there."""
    keys = {root_key(plan.target)}
    if plan.target.kind == "Node":
        keys |= {root_key(snapshot.root_of_pod(pod)) for pod in snapshot.pods_of(plan.target)}
    return frozenset(keys)


def _order(record: Record, plan: Plan, diagnosis: Diagnosis) -> tuple[bool, int, float, str]:
    return diagnosis.origin != "rule", -plan.priority, record.opened_at.timestamp(), record.name


Candidate = tuple[Record, Plan, Diagnosis]


def arbitrate(
    pending: Iterable[Candidate], running: Iterable[Record], snapshot: Snapshot
) -> tuple[list[Candidate], Mapping[str, str]]:
    """The candidates that may go on, in order, and for each loser (by incident name) to whom it lost and why.

    A loser stays planned and is looked at again in the next round.
    """
    taken: dict[str, str] = {}
    for record in running:
        if record.plan is not None:
            for key in objects_touched(record.plan, snapshot) | {record.root}:
                taken[key] = f"{record.name}, whose {record.plan.action} is under way"
    winners: list[Candidate] = []
    losers: dict[str, str] = {}
    for record, plan, diagnosis in sorted(pending, key=lambda c: _order(*c)):
        keys = objects_touched(plan, snapshot) | {record.root}
        clash = next((taken[key] for key in sorted(keys) if key in taken), None)
        if clash is not None:
            losers[record.name] = clash
            continue
        winners.append((record, plan, diagnosis))
        rank = f"{'a rule' if diagnosis.origin == 'rule' else 'AI'}, priority {plan.priority}"
        for key in keys:
            taken[key] = f"{record.name}, which goes first ({rank}, opened {record.opened_at:%H:%M:%S} UTC)"
    return winners, losers
