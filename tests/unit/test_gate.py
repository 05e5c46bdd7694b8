"""Who may be rolled out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from clusterheal_models.gate import bootstrap_bounds, decide

from clusterheal.errors import GateRejected, InvalidInput

PEERS = {"persistence": 1.0}


def by_kind(**blocks: list[float]) -> dict[str, dict[str, float]]:
    return {kind: {"model": float(np.mean(values)), "persistence": 1.0} for kind, values in blocks.items()}


def of_kinds(**blocks: list[float]) -> dict[str, Any]:
    """An evaluation whose entity classes scored `blocks` each, beside a peer at 1.0."""
    together = np.mean(list(blocks.values()), axis=0).tolist()
    parts = {kind: {"model": values, "persistence": [1.0] * len(values)} for kind, values in blocks.items()}
    return evaluation(together, by_kind=by_kind(**blocks), blocks_by_kind=parts)


def evaluation(blocks: list[float], *, peers: dict[str, float] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "model": "predictive-analytics",
        "package_sha256": "a",
        "contract_sha256": "c",
        "window": {"start_ns": 0, "end_ns": 1, "origins": len(blocks), "data_sha256": "d"},
        "primary": "scrps",
        "score": float(np.mean(blocks)),
        "peers": PEERS if peers is None else peers,
        "blocks": {"model": blocks, "persistence": [1.0] * len(blocks)},
        "by_kind": by_kind(node=blocks),
        "blocks_by_kind": {"node": {"model": blocks, "persistence": [1.0] * len(blocks)}},
        "figures": {"coverage80": 0.8},
        "checks": [{"name": "finite", "passed": True, "detail": "0 not finite"}],
        **changes,
    }


GOOD = [0.5, 0.6, 0.4, 0.55, 0.45, 0.5, 0.52, 0.48]


def test_a_model_that_beats_its_peers_passes_and_says_against_whom() -> None:
    verdict = decide(evaluation(GOOD), None)
    assert verdict.passed
    assert "scrps beats persistence: 0.5000 against 1.0000, difference in [-0.5400, -0.4600] at 95%" in verdict.reasons
    verdict.require()


@pytest.mark.parametrize("peer", [0.3, 0.5, 0.505])
def test_a_naive_peer_that_is_as_good_within_chance_refuses_the_model(peer: float) -> None:
    blocks = {"model": GOOD, "persistence": [peer] * len(GOOD)}
    verdict = decide(evaluation(GOOD, peers={"persistence": peer}) | {"blocks": blocks}, None)
    assert not verdict.passed
    assert "does not beat persistence" in verdict.reasons[0]
    with pytest.raises(GateRejected, match="does not beat persistence"):
        verdict.require()


def test_a_class_that_a_naive_peer_serves_better_refuses_the_model_though_the_mean_is_good() -> None:
    verdict = decide(of_kinds(node=[b + 0.6 for b in GOOD], pod=[b - 0.3 for b in GOOD]), None)
    assert not verdict.passed
    assert verdict.reasons[0].startswith("scrps of node is worse than persistence: 1.1000 against 1.0000")
    assert sum("scrps beats persistence" in r for r in verdict.reasons) == 1
    assert any(r.startswith("scrps of pod is not worse than persistence") for r in verdict.reasons)


def test_a_class_that_got_worse_refuses_the_model_though_the_mean_got_better() -> None:
    before = of_kinds(node=GOOD, pod=GOOD)
    after = of_kinds(node=[b + 0.1 for b in GOOD], pod=[b - 0.3 for b in GOOD])
    verdict = decide(after, before)
    assert [r for r in verdict.reasons if "is worse than" in r] == [
        "scrps of node is worse than the version in service: 0.6000 against 0.5000, "
        "difference in [+0.1000, +0.1000] at 97.5%"
    ]
    assert not verdict.passed


def test_a_class_that_disappeared_from_the_candidate_is_no_pass() -> None:
    verdict = decide(of_kinds(pod=GOOD), of_kinds(node=GOOD, pod=GOOD))
    assert not verdict.passed
    assert verdict.reasons[0] == "scrps of node: the version in service has a figure, the candidate has none"


def test_a_class_without_a_peers_figure_is_no_pass() -> None:
    verdict = decide(evaluation(GOOD, by_kind={"node": {"model": 0.5}}), None)
    assert not verdict.passed
    assert "persistence was not evaluated" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"score": None}, "candidate.score"),
        ({"score": float("nan")}, "candidate.score"),
        ({"figures": {"coverage80": None}}, "candidate.figures.coverage80"),
        ({"by_kind": {"node": {"model": float("inf")}}}, "candidate.by_kind.node.model"),
        ({"blocks_by_kind": {"node": {"model": [float("nan")]}}}, "candidate.blocks_by_kind.node.model[0]"),
        ({"blocks": {"model": [0.5, None]}}, "candidate.blocks.model[1]"),
    ],
)
def test_a_figure_that_is_missing_or_not_finite_never_passes(change: dict[str, Any], where: str) -> None:
    verdict = decide({**evaluation(GOOD), **change}, None)
    assert not verdict.passed
    assert len(verdict.reasons) == 1
    assert where in verdict.reasons[0]


def guarded(*levels: float) -> dict[str, Any]:
    """A good evaluation with a guard whose classes scored these levels, a little up and down, beside a peer at 1.0."""
    wave = np.tile([-0.02, 0.02], 4)
    part = of_kinds(**{f"kind{i}": (level + wave).tolist() for i, level in enumerate(levels)})
    return evaluation(GOOD, guards=[{k: part[k] for k in GUARD} | {"primary": "band_loss"}])


GUARD = ("score", "peers", "blocks", "by_kind", "blocks_by_kind")


@pytest.mark.parametrize("levels", [(0.9, 0.8), (1.0, 1.0), (1.04, 1.04)])
def test_a_guard_need_not_beat_a_naive_peer(levels: tuple[float, ...]) -> None:
    verdict = decide(guarded(*levels), None)
    assert verdict.passed, verdict.reasons


@pytest.mark.parametrize("levels", [(1.2, 1.2), (0.5, 1.2)])
def test_a_guard_that_is_clearly_worse_than_a_naive_peer_in_any_class_refuses(levels: tuple[float, ...]) -> None:
    verdict = decide(guarded(*levels), None)
    assert not verdict.passed
    assert "band_loss of kind1 is worse than persistence plus 5%" in " ".join(verdict.reasons)


def test_a_guard_that_got_worse_than_the_version_in_service_refuses() -> None:
    assert not decide(guarded(0.9), guarded(0.5)).passed
    assert decide(guarded(0.5), guarded(0.9)).passed
    with pytest.raises(InvalidInput, match="guards"):
        decide(guarded(0.5), evaluation(GOOD))


def test_a_failed_check_refuses_whatever_the_scores_say() -> None:
    checks = [{"name": "ordered", "passed": False, "detail": "3 quantiles cross"}]
    verdict = decide(evaluation(GOOD, checks=checks), None)
    assert not verdict.passed
    assert verdict.reasons[0] == "check ordered: 3 quantiles cross"


def test_without_any_peer_nothing_shows_that_the_model_is_worth_serving() -> None:
    assert not decide(evaluation(GOOD, peers={}), None).passed


def test_worse_than_the_version_in_service_beyond_chance_is_refused() -> None:
    verdict = decide(evaluation([b + 0.1 for b in GOOD]), evaluation(GOOD))
    assert not verdict.passed
    assert verdict.reasons[0].startswith("scrps is worse than the version in service")


def test_worse_within_chance_passes() -> None:
    noise = [0.2, -0.19, 0.18, -0.2, 0.21, -0.17, 0.2, -0.2]
    candidate = evaluation([b + n + 0.003 for b, n in zip(GOOD, noise, strict=True)])
    verdict = decide(candidate, evaluation(GOOD))
    assert verdict.passed
    assert any(r.startswith("scrps is not worse than the version in service") for r in verdict.reasons)


def test_with_few_blocks_five_percent_is_the_limit() -> None:
    assert decide(evaluation([0.52, 0.52]), evaluation([0.5, 0.5])).passed
    assert not decide(evaluation([0.53, 0.53]), evaluation([0.5, 0.5])).passed


def test_evaluations_on_other_data_cannot_be_compared() -> None:
    other = evaluation(GOOD, window={"start_ns": 5, "end_ns": 6, "origins": 8, "data_sha256": "e"})
    with pytest.raises(InvalidInput, match="differ in window"):
        decide(evaluation(GOOD), other)


def test_the_bootstrap_gives_the_same_bounds_every_time() -> None:
    difference = np.random.default_rng(0).normal(0.1, 1, 50)
    assert bootstrap_bounds(difference) == bootstrap_bounds(difference)
    low, high = bootstrap_bounds(difference)
    assert low < difference.mean() < high
