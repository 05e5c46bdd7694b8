"""How sure a proposed action is, from what became of earlier ones: conformal, so without a model of the scores.

Among m earlier proposals of an action that were at least as confident as this one, w were wrong. If this one is
exchangeable with them, it is wrong with a probability of at most (w + 1) / (m + 1), on average over such histories; one
minus that is its conformal confidence, 0 without outcomes. (Angelopoulos et al., Conformal Risk Control, 2022, with the
loss "acted on and wrong" among what is at least this confident.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clusterheal.contracts import Verdict
from clusterheal.engine.records import Record


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """An action that the AI path proposed, that was carried out and judged. `confidence` is the detector's."""

    action: str
    confidence: float
    right: bool


def proposals(records: Iterable[Record]) -> list[Proposal]:
    """In the order in which they were judged. What healed by itself proves nothing and is left out."""
    judged = sorted(
        (
            (r.outcome.finished_at, r.name, r.plan.action, r.diagnosis.confidence, r.outcome.verdict)
            for r in records
            if r.outcome is not None and r.plan is not None and r.action is not None
            if r.diagnosis is not None and r.diagnosis.origin == "ai"
        ),
        key=lambda found: found[:2],
    )
    return [
        Proposal(action=action, confidence=confidence, right=verdict is Verdict.HELPED)
        for _, _, action, confidence, verdict in judged
        if verdict is not Verdict.SELF_HEALED
    ]


def conformal_confidence(action: str, confidence: float, earlier: Iterable[Proposal]) -> float:
    """Of a proposal with this confidence of the detector's; between 0, which is also what no outcome gives, and 1."""
    peers = [p for p in earlier if p.action == action and p.confidence >= confidence]
    wrong = sum(not p.right for p in peers)
    return 1 - (wrong + 1) / (len(peers) + 1)


def measured_coverage(judged: Sequence[Proposal], floor: float) -> float | None:
    """Of the proposals whose confidence, from the outcomes before each, reached the floor: the share that was right.

    `None` while there are none. It should not be below the floor for long.
    """
    sure = [p.right for n, p in enumerate(judged) if conformal_confidence(p.action, p.confidence, judged[:n]) >= floor]
    return sum(sure) / len(sure) if sure else None
