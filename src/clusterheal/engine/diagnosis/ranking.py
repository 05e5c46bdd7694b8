"""Where an anomaly most likely comes from: the object's own metrics, the node that it shares, or its last rollout.

Scores lie in [0, 1] and only order the causes; what gates an action is the detector's calibrated confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from clusterheal.contracts import SignalSource
from clusterheal.engine.correlate import target_of_entity
from clusterheal.engine.diagnosis.case import Case
from clusterheal.engine.diagnosis.revisions import revisions
from clusterheal.engine.names import root_key
from clusterheal.engine.records import Observation

FRESH_ROLLOUT = timedelta(hours=1)
NEIGHBOURS = 2  # anomalous at once beside the target before a node is suspected: one is chance


@dataclass(frozen=True, kw_only=True)
class Cause:
    """`kind` is `feature`, `node` or `rollout`."""

    kind: str
    what: str
    score: float
    why: str


def ranked_causes(case: Case, best: Observation) -> list[Cause]:
    """Most likely first."""
    causes = [*_features(best), *_nodes(case), *_rollouts(case, best)]
    return sorted(causes, key=lambda c: (-c.score, c.kind, c.what))


def _features(best: Observation) -> list[Cause]:
    """By share of the score; a lone feature that makes all of it counts half, so that topology can outweigh it."""
    parts = {str(k): max(0.0, float(v)) for k, v in best.signal.details.get("contributions", {}).items()}
    total = sum(parts.values())
    return [
        Cause(kind="feature", what=name, score=round(value / total / 2, 3), why=f"{value:.2f} of the score")
        for name, value in parts.items()
        if total > 0
    ]


def _nodes(case: Case) -> list[Cause]:
    """Nodes on which more of the workloads are anomalous now than chance explains."""
    anomalous = _anomalous(case)
    found = []
    for node in sorted({p.node for p in case.pods if p.node}):
        roots = {root_key(case.world.snapshot.root_of_pod(p)) for p in case.world.snapshot.pods_on(node)}
        roots.discard(case.record.root)
        sick = roots & anomalous
        own = f"Node//{node}" in anomalous
        if len(sick) >= NEIGHBOURS or (own and sick):
            share = len(sick) / len(roots)
            why = f"{len(sick)} of {len(roots)} other workloads on it are anomalous too"
            why += ", and so is the node" if own else ""
            found.append(Cause(kind="node", what=f"node {node}", score=round(min(1.0, 0.5 + share / 2), 3), why=why))
    return found


def _anomalous(case: Case) -> set[str]:
    snapshot = case.world.snapshot
    alarms = (e for e, d in case.world.models.detections.items() if d.alarm)
    by_model = {root_key(ref) for e in alarms if (ref := target_of_entity(e, snapshot)) is not None}
    by_record = {
        r.root
        for r in case.world.open_records
        if r.name != case.record.name and any(o.signal.source is SignalSource.DETECTOR for o in r.active)
    }
    return by_model | by_record


def _rollouts(case: Case, best: Observation) -> list[Cause]:
    """A revision that came within the hour before; the sooner before, the likelier."""
    all_revisions = revisions(case.world, case.record.target)
    if len(all_revisions) < 2:
        return []
    newest = all_revisions[0]
    age = best.signal.starts_at - newest.created_at
    if not timedelta(0) <= age < FRESH_ROLLOUT:
        return []
    score = round(0.9 - 0.3 * (age / FRESH_ROLLOUT), 3)
    why = f"it was rolled out {age.total_seconds() / 60:.0f} minutes before"
    return [Cause(kind="rollout", what=f"revision {newest.number}", score=score, why=why)]
