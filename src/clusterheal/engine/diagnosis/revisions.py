"""A Deployment's revisions: which one runs, since when, and which one to go back to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from clusterheal.contracts import ObjectRef, Plan
from clusterheal.engine.codec import parse_time
from clusterheal.engine.names import REVISION, root_key
from clusterheal.engine.world import World
from clusterheal.kube.ports import Manifest


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One ReplicaSet of a Deployment. `available`: pods that it has ready now."""

    number: int
    name: str
    created_at: datetime
    available: int
    template: Manifest


def revisions(world: World, target: ObjectRef) -> list[Revision]:
    """Newest first."""
    found = []
    for obj in world.snapshot.replica_sets_of(target):
        meta = obj["metadata"]
        number = (meta.get("annotations") or {}).get(REVISION)
        if number is None or not str(number).isdigit():
            continue
        found.append(
            Revision(
                number=int(number),
                name=meta["name"],
                created_at=parse_time(meta["creationTimestamp"]),
                available=int((obj.get("status") or {}).get("availableReplicas") or 0),
                template=(obj.get("spec") or {}).get("template") or {},
            )
        )
    return sorted(found, key=lambda r: -r.number)


def known_bad(world: World, target: ObjectRef) -> frozenset[str]:
    """ReplicaSets that earlier incidents of this object found broken."""
    return frozenset(
        str(name)
        for record in world.records.values()
        if record.root == root_key(target) and record.diagnosis is not None
        for name in [record.diagnosis.evidence.get("bad_replica_set")]
        if name
    )


def last_good(world: World, target: ObjectRef) -> Revision | None:
    """The revision to return to: one with pods that are ready now, else the newest older one not known to be bad."""
    all_revisions = revisions(world, target)
    if len(all_revisions) < 2:
        return None
    current, *older = all_revisions
    bad = known_bad(world, target)
    candidates = [r for r in older if r.name not in bad and r.template != current.template]
    running = [r for r in candidates if r.available > 0]
    return next(iter(running or candidates), None)


def undo_plan(target: ObjectRef, bad: Revision, good: Revision, *, playbook: str, priority: int, effect: str) -> Plan:
    """Return from one revision to another."""
    return Plan(
        playbook=playbook,
        action="undo",
        target=target,
        parameters={"to_revision": good.number, "replica_set": good.name, "from_revision": bad.number},
        priority=priority,
        expected_effect=effect,
        verify_promql=None,
        rollback=f"return to revision {bad.number}",
    )
