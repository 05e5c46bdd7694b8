"""May a candidate be rolled out? It must beat naive peers, and nowhere be worse than the version in service.

One figure decides. Others guard: there the candidate need not beat anybody, but may not be clearly worse than a naive
peer.

Every comparison is paired: both scored the same blocks of time, and a bootstrap over the blocks says whether their
difference is more than chance. Entity classes are many comparisons at once, so their intervals are wider (Bonferroni):
together they refuse a model that is nowhere worse in one case of twenty at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.errors import GateRejected, InvalidInput

RESAMPLES = 2000
CONFIDENCE = 0.95
MIN_BLOCKS = 5
TOLERANCE = 0.05
SEED = 20_240_601


@dataclass(frozen=True, kw_only=True)
class GateVerdict:
    """`reasons` has one line per comparison, those that failed first."""

    passed: bool
    reasons: tuple[str, ...]

    def require(self) -> None:
        """Raises:
        GateRejected: the candidate did not pass.
        """
        if not self.passed:
            raise GateRejected("; ".join(self.reasons))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much worse (above 0) or better (below) one method scored than another on the same blocks of time.

    `low` and `high` bound the mean difference at `confidence`; `None` with fewer than `MIN_BLOCKS` blocks, when a share
    of the other's score decides.
    """

    ours: float
    theirs: float
    confidence: float
    low: float | None
    high: float | None

    @property
    def better(self) -> bool:
        return self.ours < self.theirs and (self.high is None or self.high < 0)

    @property
    def worse(self) -> bool:
        return self.ours > self.theirs * (1 + TOLERANCE) if self.low is None else self.low > 0

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.ours:.4f} against {self.theirs:.4f} (too few blocks of time for an interval)"
        bounds = f"[{self.low:+.4f}, {self.high:+.4f}]"
        return f"{self.ours:.4f} against {self.theirs:.4f}, difference in {bounds} at {100 * self.confidence:.4g}%"


def decide(candidate: Mapping[str, Any], incumbent: Mapping[str, Any] | None) -> GateVerdict:
    """Judge a candidate's evaluation; both evaluations come from `evaluate` on the same held-out time.

    It is refused when any figure is missing or not finite, when a check failed, when it does not beat every naive peer
    beyond chance, or when it is worse beyond chance than a naive peer in any entity class, or than the incumbent on
    the whole or in any class. In a guard's figure it is refused when it is worse beyond chance than a naive peer with
    `TOLERANCE` on top, or than the incumbent, on the whole or in any class.

    Raises:
        InvalidInput: the two evaluations are not of the same model on the same data.
    """
    holes = list(_holes(candidate, "candidate"))
    if holes:
        shown = ", ".join(holes[:5]) + (f" and {len(holes) - 5} more" if len(holes) > 5 else "")
        return GateVerdict(passed=False, reasons=(f"figures are missing or not finite: {shown}",))
    results = [(entry["passed"] is True, f"check {entry['name']}: {entry['detail']}") for entry in candidate["checks"]]
    results += _against_peers(candidate)
    for guard in candidate.get("guards", ()):
        results += _against_peers(guard, guards=True)
    if incumbent is not None:
        results += _against_incumbent(candidate, incumbent)
    failed = [line for passed, line in results if not passed]
    return GateVerdict(passed=not failed, reasons=(*failed, *(line for passed, line in results if passed)))


def _against_peers(part: Mapping[str, Any], *, guards: bool = False) -> Iterator[tuple[bool, str]]:
    """Each peer on the whole, where the model has to be better (a guard's only not worse), and in every class."""
    primary = part["primary"]
    classes = len(part["peers"]) * len(part["by_kind"])
    allowance, allowed = (TOLERANCE, f" plus {TOLERANCE:.0%}") if guards else (0.0, "")
    if not part["peers"]:
        yield False, f"no naive peer was evaluated on {primary}, so nothing shows that the model is worth serving"
    for peer, figure in part["peers"].items():
        pair = part["blocks"]["model"], part["blocks"].get(peer, [])
        found = _difference(part["score"], figure, *pair, comparisons=classes + 1 if guards else 1, allowance=allowance)
        if guards:
            yield not found.worse, f"{primary} {_in_words(found)} {peer}{allowed}: {found}"
        else:
            yield found.better, f"{primary} {'beats' if found.better else 'does not beat'} {peer}: {found}"
        for kind, figures in part["by_kind"].items():
            if peer not in figures:
                yield False, f"{primary} of {kind}: {peer} was not evaluated"
                continue
            blocks = part["blocks_by_kind"].get(kind, {})
            pair = blocks.get("model", []), blocks.get(peer, [])
            found = _difference(figures["model"], figures[peer], *pair, comparisons=classes, allowance=allowance)
            yield not found.worse, f"{primary} of {kind} {_in_words(found)} {peer}{allowed}: {found}"


def _against_incumbent(candidate: Mapping[str, Any], incumbent: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Raises:
    InvalidInput: different models, figures or held-out data.
    """
    ours, theirs = ({**e, "guards": [g["primary"] for g in e.get("guards", ())]} for e in (candidate, incumbent))
    for key in ("model", "primary", "window", "guards"):
        if ours[key] != theirs[key]:
            raise InvalidInput(
                f"candidate and incumbent differ in {key}: {ours[key]!r} and {theirs[key]!r}; "
                "evaluate both packages on the same panel and split"
            )
    if any(_holes(incumbent, "incumbent")):
        yield True, f"the version in service has figures that are not finite; {ours['primary']} cannot be compared"
        return
    yield from _against_version(candidate, incumbent)
    for part, before in zip(candidate.get("guards", ()), incumbent.get("guards", ()), strict=True):
        yield from _against_version(part, before)


def _against_version(part: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """One figure beside that of the version in service."""
    primary, serving = part["primary"], "the version in service"
    found = _difference(part["score"], before["score"], part["blocks"]["model"], before["blocks"]["model"])
    yield not found.worse, f"{primary} {_in_words(found)} {serving}: {found}"
    for kind, figures in before["by_kind"].items():
        if kind not in part["by_kind"]:
            yield False, f"{primary} of {kind}: {serving} has a figure, the candidate has none"
            continue
        blocks = [e["blocks_by_kind"].get(kind, {}).get("model", []) for e in (part, before)]
        scores = part["by_kind"][kind]["model"], figures["model"]
        found = _difference(*scores, *blocks, comparisons=len(before["by_kind"]))
        yield not found.worse, f"{primary} of {kind} {_in_words(found)} {serving}: {found}"


def _difference(
    ours: float,
    theirs: float,
    our_blocks: Sequence[float],
    their_blocks: Sequence[float],
    *,
    comparisons: int = 1,
    allowance: float = 0.0,
) -> Difference:
    """`comparisons`: how many are made at once. `allowance`: share of theirs by which ours may be worse."""
    confidence = 1 - (1 - CONFIDENCE) / max(comparisons, 1)
    low = high = None
    if len(our_blocks) == len(their_blocks) >= MIN_BLOCKS:
        difference = np.subtract(our_blocks, (1 + allowance) * np.asarray(their_blocks))
        low, high = bootstrap_bounds(difference, confidence=confidence)
    return Difference(ours=float(ours), theirs=float(theirs), confidence=confidence, low=low, high=high)


def _in_words(found: Difference) -> str:
    return "is worse than" if found.worse else "is not worse than"


def bootstrap_bounds(
    difference: Sequence[float] | npt.NDArray[np.float64], *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Two-sided bounds of the mean of paired differences, by resampling blocks with a fixed seed."""
    values = np.asarray(difference, np.float64)
    rng = np.random.default_rng(SEED)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _holes(value: Any, path: str) -> Iterator[str]:
    """Paths of everything in an evaluation that is `None` or not finite."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _holes(part, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _holes(part, f"{path}[{index}]")
    elif value is None or (isinstance(value, float) and not math.isfinite(value)):
        yield path
