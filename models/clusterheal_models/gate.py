"""May a candidate be rolled out? It must beat naive peers, and not be worse than the version in service."""

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
FEW_BLOCKS_TOLERANCE = 0.05
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


def decide(candidate: Mapping[str, Any], incumbent: Mapping[str, Any] | None) -> GateVerdict:
    """Judge a candidate's evaluation; both evaluations come from `evaluate` on the same held-out time.

    It is refused when any figure is missing or not finite, when a check failed, when a naive peer is at least as good,
    or when it is worse than the incumbent beyond the 95 % bound of a paired bootstrap over blocks of time.

    Raises:
        InvalidInput: the two evaluations are not of the same model on the same data.
    """
    failed: list[str] = []
    passed: list[str] = []
    holes = list(_holes(candidate, "candidate"))
    if holes:
        shown = ", ".join(holes[:5]) + (f" and {len(holes) - 5} more" if len(holes) > 5 else "")
        return GateVerdict(passed=False, reasons=(f"figures are missing or not finite: {shown}",))
    for entry in candidate["checks"]:
        line = f"check {entry['name']}: {entry['detail']}"
        (passed if entry["passed"] else failed).append(line)
    score, primary = float(candidate["score"]), candidate["primary"]
    if not candidate["peers"]:
        failed.append("no naive peer was evaluated, so nothing shows that the model is worth serving")
    for peer, figure in candidate["peers"].items():
        better = score < float(figure)
        line = f"{primary} {score:.4f} {'beats' if better else 'does not beat'} {peer} at {float(figure):.4f}"
        (passed if better else failed).append(line)
    if incumbent is not None:
        worse, line = compare(candidate, incumbent)
        (failed if worse else passed).append(line)
    return GateVerdict(passed=not failed, reasons=tuple(failed + passed))


def compare(candidate: Mapping[str, Any], incumbent: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the candidate is worse than the incumbent beyond chance, and the comparison in words.

    Raises:
        InvalidInput: different models, figures or held-out data.
    """
    for key in ("model", "primary", "window"):
        if candidate[key] != incumbent[key]:
            raise InvalidInput(
                f"candidate and incumbent differ in {key}: {candidate[key]!r} and {incumbent[key]!r}; "
                "evaluate both packages on the same panel and split"
            )
    primary = candidate["primary"]
    if any(_holes(incumbent, "incumbent")):
        return False, f"the version in service has figures that are not finite; {primary} cannot be compared"
    ours, theirs = candidate["blocks"]["model"], incumbent["blocks"]["model"]
    scores = (
        f"{primary} {float(candidate['score']):.4f} against {float(incumbent['score']):.4f} of the version in service"
    )
    if len(ours) != len(theirs) or len(ours) < MIN_BLOCKS:
        limit = float(incumbent["score"]) * (1 + FEW_BLOCKS_TOLERANCE)
        worse = float(candidate["score"]) > limit
        return worse, f"{scores}: {'more' if worse else 'not more'} than {FEW_BLOCKS_TOLERANCE:.0%} worse"
    low, high = bootstrap_bounds(np.subtract(ours, theirs))
    worse = low > 0
    return worse, f"{scores}: difference in [{low:+.4f}, {high:+.4f}] at {CONFIDENCE:.0%}, " + (
        "worse beyond chance" if worse else "not worse beyond chance"
    )


def bootstrap_bounds(difference: Sequence[float] | npt.NDArray[np.float64]) -> tuple[float, float]:
    """Two-sided bounds of the mean of paired differences, by resampling blocks with a fixed seed."""
    values = np.asarray(difference, np.float64)
    rng = np.random.default_rng(SEED)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    tail = (1 - CONFIDENCE) / 2
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
