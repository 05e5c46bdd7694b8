"""What must hold at every write, whatever goes wrong. Fed with the store's changes in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from clusterheal.contracts import IncidentState
from clusterheal.engine.codec import decode
from clusterheal.engine.names import ACTION, CORDON_OWNER, RESTARTED_AT
from clusterheal.engine.records import HOLDING, Record
from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.store import Change

GRACE = timedelta(seconds=20)
"""How long before a write the thing that forbids it may have come up: reads, decisions and writes take time."""


class Broken(AssertionError):
    """An invariant does not hold; the message names it, the time and the objects."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the simulated policy and pool allow; `None`: no bound."""

    concurrent: int
    max_unavailable: int
    per_hour: int | None = None
    per_target_per_hour: int | None = None
    cooldown: timedelta = timedelta(0)


class Checker:
    """Mirrors the store and checks each change."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.records: dict[str, Record] = {}
        self.nodes: dict[str, Manifest] = {}
        self.foreign_since: dict[str, datetime] = {}
        self.pool_blocked_since: datetime | None = None
        self.applied: dict[str, int] = {}
        self.done: list[tuple[datetime, str]] = []
        self.epoch_holders: dict[int, str] = {}
        self.actions = 0
        self.checked = 0

    def change(self, change: Change, now: datetime) -> None:
        """Check one change.

        Raises:
            Broken.
        """
        self.checked += 1
        if change.resource == "incidents.clusterheal.io":
            self._incident(change, now)
        elif change.resource == "nodes":
            self._node(change, now)
        elif change.resource.startswith("machineconfigpools"):
            self._pool(change, now)
        if change.new is not None and change.resource in ("nodes", "deployments.apps"):
            self._mark(change, now)

    def _incident(self, change: Change, now: datetime) -> None:
        if change.new is None:
            self.records.pop((change.old or {})["metadata"]["name"], None)
            return
        record = decode(change.new)
        before = self.records.get(record.name)
        self.records[record.name] = record
        if before is not None and before.ended and not record.ended:
            raise Broken(f"{now}: {record.name} came back from its end ({before.state} -> {record.state})")
        known = before.action.id if before is not None and before.action is not None else None
        if record.state is IncidentState.ACTING and record.action is not None and record.action.id != known:
            self._intent(record, now)

    def _intent(self, record: Record, now: datetime) -> None:
        assert record.action is not None
        if not record.active and record.request is None:
            raise Broken(f"{now}: {record.name} means to act though every signal of it is resolved")
        holder = self.epoch_holders.setdefault(record.action.epoch, record.action.holder)
        if holder != record.action.holder:
            raise Broken(f"{now}: epoch {record.action.epoch} has two leaders, {holder} and {record.action.holder}")
        holding = [r for r in self.records.values() if r.state in HOLDING]
        for other in holding:
            if other.name != record.name and other.root == record.root:
                raise Broken(f"{now}: {record.name} and {other.name} both hold {record.root}")
        if len(holding) > self.bounds.concurrent:
            raise Broken(f"{now}: {len(holding)} actions at once, the budget is {self.bounds.concurrent}")
        if record.action.target.kind == "Node":
            self._budget(record, now)

    def _budget(self, record: Record, now: datetime) -> None:
        assert record.action is not None
        mine = record.action.target.name
        away = {n for n, obj in self.nodes.items() if n != mine and _away(obj) and not self._just_now(n, now)} | {
            r.action.target.name
            for r in self.records.values()
            if r.state in HOLDING and r.action and r.action.target.kind == "Node" and r.name != record.name
        }
        if len(away) + 1 > self.bounds.max_unavailable:
            raise Broken(f"{now}: {record.name} takes {mine} away while {sorted(away)} are away already")

    def _just_now(self, node: str, now: datetime) -> bool:
        since = self.foreign_since.get(node)
        return since is not None and now - since < GRACE

    def _node(self, change: Change, now: datetime) -> None:
        if change.new is None:
            return
        name = change.new["metadata"]["name"]
        was_away = _away(self.nodes.get(name, {}))
        self.nodes[name] = change.new
        if _away(change.new) and not was_away:
            self.foreign_since[name] = now
        elif not _away(change.new):
            self.foreign_since.pop(name, None)

    def _pool(self, change: Change, now: datetime) -> None:
        conditions = ((change.new or {}).get("status") or {}).get("conditions") or []
        blocked = any(c.get("type") in ("Updating", "Degraded") and c.get("status") == "True" for c in conditions)
        if blocked and self.pool_blocked_since is None:
            self.pool_blocked_since = now
        elif not blocked:
            self.pool_blocked_since = None

    def _mark(self, change: Change, now: datetime) -> None:
        """A target carries a new action's mark: this is the moment of an action."""
        mark, old = _note(change.new, ACTION), _note(change.old, ACTION)
        if mark is None:
            return
        if mark == old:
            if _restarted_at(change.new) != _restarted_at(change.old):
                raise Broken(f"{now}: action {mark} was carried out twice: the pods are restarted again")
            return
        self.actions += 1
        count = self.applied[mark] = self.applied.get(mark, 0) + 1
        if count > 1:
            raise Broken(f"{now}: action {mark} was carried out {count} times")
        owner = next((r for r in self.records.values() if r.action and r.action.id == mark), None)
        rollback = next((r for r in self.records.values() if r.rollback and r.rollback.id == mark), None)
        if owner is None and rollback is None:
            raise Broken(f"{now}: action {mark} was carried out without a stored intent")
        blocked = self.pool_blocked_since
        if owner is None:
            return  # taking an action back is always allowed
        if owner.state is not IncidentState.ACTING:
            raise Broken(f"{now}: action {mark} was carried out while {owner.name} is {owner.state}")
        if not owner.active and owner.request is None:
            resolved = max(o.resolved_at for o in owner.observations if o.resolved_at is not None)
            if now - resolved > GRACE:
                raise Broken(f"{now}: action {mark} though every signal of {owner.name} was resolved at {resolved}")
        self._rates(owner, now)
        if blocked is not None and now - blocked > GRACE:
            raise Broken(f"{now}: action {mark} while the MachineConfigPool has been changing since {blocked}")

    def _rates(self, owner: Record, now: datetime) -> None:
        """One more action on `owner`'s object: within the hour's limits and after the cooldown?"""
        recent = [(at, root) for at, root in self.done if now - at < timedelta(hours=1)]
        same = [at for at, root in recent if root == owner.root]
        self.done = [*recent, (now, owner.root)]
        for what, count, limit in (
            ("in all", len(recent), self.bounds.per_hour),
            (f"on {owner.root}", len(same), self.bounds.per_target_per_hour),
        ):
            if limit is not None and count >= limit:
                raise Broken(f"{now}: {count + 1} actions {what} within the hour, the limit is {limit}")
        if same and now - same[-1] < self.bounds.cooldown - GRACE:
            raise Broken(f"{now}: {owner.root} is acted on {now - same[-1]} after the last action")

    def at_end(self, now: datetime) -> None:
        """After the storm: every incident has ended and no cordon of ours is left.

        Raises:
            Broken.
        """
        still = {r.name: (r.state.value, r.message) for r in self.records.values() if not r.ended}
        if still:
            raise Broken(f"{now}: incidents without an end: {still}")
        left = [n for n, obj in self.nodes.items() if _note(obj, CORDON_OWNER)]
        if left:
            raise Broken(f"{now}: cordons of ours are left on {left}")


def _note(obj: Mapping[str, Any] | None, key: str) -> str | None:
    value: str | None = (((obj or {}).get("metadata") or {}).get("annotations") or {}).get(key)
    return value


def _restarted_at(obj: Mapping[str, Any] | None) -> str | None:
    template = ((obj or {}).get("spec") or {}).get("template") or {}
    return _note(template, RESTARTED_AT)


def _away(obj: Mapping[str, Any]) -> bool:
    if not obj:
        return False
    conditions = (obj.get("status") or {}).get("conditions") or []
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
    return bool((obj.get("spec") or {}).get("unschedulable")) or not ready
