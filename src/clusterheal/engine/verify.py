"""What came of an action, judged against what was forecast had nothing been done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from clusterheal.contracts import Outcome, Verdict
from clusterheal.engine.actions.volume import requested_size
from clusterheal.engine.quantities import quantity
from clusterheal.engine.records import ActionRecord, Record
from clusterheal.engine.signals.models import Path
from clusterheal.engine.views import condition, replicas_wanted, rollout_complete
from clusterheal.engine.world import World

HARM_MARGIN = 0.05  # worse than the forecast's high path by this share counts as harm, less is noise


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known at the time of judging. `expected`: low, median and high of the counterfactual now."""

    healthy: bool
    health_text: str
    signals_gone: bool
    observed: float | None
    threshold: float | None
    expected: tuple[float, float, float] | None
    baseline: float | None
    lower_is_better: bool

    @property
    def breaching(self) -> bool | None:
        """Whether the metric is on the wrong side of its threshold; `None` when that cannot be said."""
        if self.observed is None or self.threshold is None:
            return None
        return self.observed > self.threshold if self.lower_is_better else self.observed < self.threshold

    @property
    def proven(self) -> bool:
        """Whether the metric is better than all that was forecast without the action, 10 % path included."""
        if self.expected is None or self.breaching is True:
            return False
        return self.better_than(self.expected[0] if self.lower_is_better else self.expected[2]) is True

    @property
    def worse_than_forecast(self) -> bool:
        """Whether the metric is clearly on the bad side of all that was forecast without the action."""
        if self.expected is None:
            return False
        turned = replace(self, lower_is_better=not self.lower_is_better)
        return turned.better_than(self.expected[2] if self.lower_is_better else self.expected[0], HARM_MARGIN) is True

    def better_than(self, other: float, margin: float = 0.0) -> bool | None:
        if self.observed is None:
            return None
        slack = abs(other) * margin
        return self.observed < other - slack if self.lower_is_better else self.observed > other + slack


def gather(record: Record, world: World) -> Evidence:
    """Look at the target, its signals and its metric."""
    assert record.plan is not None
    healthy, text = _health(record, world)
    proof: Mapping[str, Any] = record.plan.parameters.get("proof") or {}
    path = proof.get("counterfactual")
    evidence = Evidence(
        healthy=healthy,
        health_text=text,
        signals_gone=False,
        observed=_observed(record, world, proof),
        threshold=proof.get("threshold"),
        expected=Path.from_dict(path).at(world.now) if path else None,
        baseline=proof.get("baseline"),
        lower_is_better=bool(proof.get("lower_is_better", True)),
    )
    gone = record.quiet_for(world.config.quiet, world.now, acted=True, proven=evidence.proven)
    return replace(evidence, signals_gone=gone)


def _observed(record: Record, world: World, proof: Mapping[str, Any]) -> float | None:
    if record.name in world.measurements:
        return world.measurements[record.name]
    if record.action is None or record.action.applied_at is None or world.models.data_at is None:
        return None
    if world.models.data_at <= record.action.applied_at:
        return None  # a sample from before the action proves nothing
    return world.models.current.get(str(proof.get("entity")), {}).get(str(proof.get("feature")))


def _health(record: Record, world: World) -> tuple[bool, str]:
    assert record.plan is not None
    target = record.target if record.plan.target.kind == "Application" else record.plan.target
    manifest = world.snapshot.manifest(target)
    if manifest is None:
        return False, "the target is gone"
    if target.kind == "Node":
        ready = condition(manifest, "Ready").get("status") == "True"
        if record.plan.action == "uncordon" and (manifest.get("spec") or {}).get("unschedulable"):
            return False, "the node is still cordoned"
        return ready, "the node is ready" if ready else "the node is not ready"
    if target.kind == "PersistentVolumeClaim":
        return _expanded(manifest)
    if target.kind == "InferenceService":
        ready = condition(manifest, "Ready").get("status") == "True"
        return ready, "the InferenceService is ready" if ready else "the InferenceService is not ready"
    if target.kind not in ("Deployment", "StatefulSet"):
        return True, "has no replicas"
    available = int((manifest.get("status") or {}).get("availableReplicas") or 0)
    text = f"{available} of {replicas_wanted(manifest)} replicas available"
    return rollout_complete(manifest), text


def _expanded(claim: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the volume has the size that its claim asks for."""
    have = ((claim.get("status") or {}).get("capacity") or {}).get("storage")
    asked = requested_size(dict(claim))
    if have is None or asked is None or quantity(have) < quantity(asked):
        pending = condition(dict(claim), "FileSystemResizePending").get("status") == "True"
        why = "; its pod has to be restarted for the file system to grow" if pending else ""
        return False, f"the volume has {have} of {asked}{why}"
    return True, f"the volume has {have}"


def judge(record: Record, action: ActionRecord, world: World) -> Outcome | None:
    """The outcome, or `None` while it is too early to tell.

    helped: the target is whole, the trouble is gone, and the metric is better than it was forecast to be, or grew past
    a forecast that had not seen the trouble. self-healed: the trouble is gone, but the forecast had said so, too, and
    the metric kept to it. harmed: the target lost what it had, or at the deadline the metric is worse than the
    forecast's high path. no effect: the rest, at the deadline.
    """
    if action.applied_at is None:
        return None
    policy = world.policy_for(action.action, action.target)
    after = policy.verify_after or world.config.verify_after
    timeout = max(policy.verify_timeout or world.config.verify_timeout, after, _holds(action))
    since = world.now - action.applied_at
    evidence = gather(record, world)
    if _lost_health(evidence, action, world) and since >= after:
        return _outcome(Verdict.HARMED, evidence, world.now, f"the target got worse: {evidence.health_text}")
    if since < after:
        return None
    if evidence.healthy and _recovered(evidence):
        return _recovery(evidence, world.now)
    if since < timeout:
        return None
    if evidence.worse_than_forecast:
        return _outcome(Verdict.HARMED, evidence, world.now, "the metric is worse than it was forecast to become")
    why = evidence.health_text if not evidence.healthy else "the trouble is still there"
    return _outcome(Verdict.NO_EFFECT, evidence, world.now, f"after {timeout} {why}")


def _holds(action: ActionRecord) -> timedelta:
    """How long an action is meant to last: a cordon stays until the node has recovered or its time to live is over."""
    return timedelta(seconds=float(action.parameters.get("ttl_seconds", 0)))


def _lost_health(evidence: Evidence, action: ActionRecord, world: World) -> bool:
    """Fewer pods are available than before the action although its rollout had time."""
    before = action.before.get("available")
    manifest = world.snapshot.manifest(action.target)
    if before is None or manifest is None or evidence.healthy:
        return False
    now = int((manifest.get("status") or {}).get("availableReplicas") or 0)
    started = action.applied_at is not None and world.now - action.applied_at >= world.config.verify_timeout / 2
    return started and now < int(before)


def _recovered(evidence: Evidence) -> bool:
    """Signals gone, and where a metric proves it, the metric agrees."""
    if evidence.breaching is True:
        return False
    return evidence.signals_gone


def _recovery(evidence: Evidence, now: datetime) -> Outcome:
    if evidence.expected is None:
        text = (
            "the trouble is gone and the target is whole; without a forecast the value before the action stands for it"
        )
        return _outcome(Verdict.HELPED, evidence, now, text)
    low, median, high = evidence.expected
    if evidence.worse_than_forecast:
        # The trouble was noticed before the forecast could see it grow, and the metric is a mean over minutes that
        # still holds it. Such a forecast had not said that the trouble would go away, so it proves nothing.
        text = f"the trouble is gone and the target is whole; a forecast of {low:.4g} to {high:.4g} was passed before"
        return _outcome(Verdict.HELPED, replace(evidence, expected=None), now, text)
    would_breach = evidence.threshold is not None and (
        median > evidence.threshold if evidence.lower_is_better else median < evidence.threshold
    )
    better = evidence.better_than(low if evidence.lower_is_better else high)
    if evidence.observed is not None and not would_breach and better is False:
        text = f"it was forecast to be between {low:.4g} and {high:.4g} without any action, and is"
        return _outcome(Verdict.SELF_HEALED, evidence, now, text)
    text = f"without the action it was forecast at {median:.4g} ({low:.4g} to {high:.4g})"
    return _outcome(Verdict.HELPED, evidence, now, text)


def _outcome(verdict: Verdict, evidence: Evidence, now: datetime, why: str) -> Outcome:
    if evidence.expected is not None:
        counterfactual: float | None = evidence.expected[1]
    else:
        counterfactual = evidence.baseline
    observed = "" if evidence.observed is None else f"; observed {evidence.observed:.4g}"
    return Outcome(
        verdict=verdict,
        observed=evidence.observed,
        counterfactual=counterfactual,
        explanation=f"{why}{observed}; {evidence.health_text}",
        finished_at=now,
    )
