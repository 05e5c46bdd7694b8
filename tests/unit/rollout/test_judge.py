"""Latency as a reason to break off, on figures rather than on a busy machine's clock."""

from __future__ import annotations

import pytest

from clusterheal.rollout.judge import breaches
from clusterheal.rollout.probe import Round
from clusterheal.rollout.state import Baseline
from clusterheal.settings import load_settings


@pytest.mark.parametrize(
    ("seconds", "before", "allowed"),
    [(0.29, 0.1, True), (0.31, 0.1, False), (0.14, 0.001, True), (0.16, 0.001, False), (9.0, None, True)],
)
def test_three_times_the_incumbent_s_p99_breaks_off(seconds: float, before: float | None, allowed: bool) -> None:
    measured = Round(answers=(None,) * 4, seconds=(seconds,) * 4, errors=())
    found = breaches(measured, Baseline(p99=before), load_settings().rollout)
    assert found == [] if allowed else ["p99 is" in line for line in found] == [True]
