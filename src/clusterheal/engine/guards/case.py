"""What a guard sees, and the mode in force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from clusterheal.contracts import Diagnosis, ObjectRef, Plan
from clusterheal.engine.autonomy import earned_mode
from clusterheal.engine.policy import Policy, strictest
from clusterheal.engine.records import Record
from clusterheal.engine.views import PodView, Snapshot
from clusterheal.engine.world import Config, World
from clusterheal.kube.ports import Manifest

Answer = tuple[bool, str]
"""Allowed or not, and why."""


@dataclass(frozen=True)
class GuardCase:
    """One plan in its world."""

    plan: Plan
    diagnosis: Diagnosis
    record: Record
    world: World
    plan_id: str

    @property
    def config(self) -> Config:
        return self.world.config

    @property
    def snapshot(self) -> Snapshot:
        return self.world.snapshot

    @property
    def target(self) -> ObjectRef:
        return self.plan.target

    @cached_property
    def policy(self) -> Policy:
        return self.world.policy_for(self.plan.action, self.plan.target)

    @cached_property
    def mode(self) -> tuple[str, str]:
        """The mode in force and what set it: the engine, the policy or the record of earlier outcomes."""
        earned, why = earned_mode(self.policy, self.plan.action, self.target.kind, self.world.records.values())
        mode = strictest(self.config.mode, self.policy.mode, earned)
        if mode == self.config.mode:
            return mode, "the engine's setting"
        return (mode, f"policy {self.policy.name}") if mode == self.policy.mode else (mode, why)

    @cached_property
    def manifest(self) -> Manifest | None:
        return self.snapshot.manifest(self.target)

    @cached_property
    def pods(self) -> list[PodView]:
        return self.snapshot.pods_of(self.target)

    @property
    def asked_for(self) -> bool:
        """A person asked for this very action; asking is approving."""
        return self.record.request is not None and self.record.request.action == self.plan.action


Guard = Callable[[GuardCase], Answer]
