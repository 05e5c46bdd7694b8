"""Answers that follow from a forecast's quantiles."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from clusterheal.contracts import Forecast
from clusterheal.errors import InvalidInput
from clusterheal.inference.outlook import (
    crossing_probability,
    cumulative,
    effect,
    exceedance,
    expected_at,
    time_to_exhaustion,
)

ORIGIN = datetime(2026, 1, 1, tzinfo=UTC)
LEVELS = tuple(i / 10 for i in range(1, 10))
SPREAD = np.linspace(-4, 4, 9)  # one unit per level


def forecast(median: np.ndarray, spread: float = 1.0) -> Forecast:
    quantiles = (median[:, None] + spread * SPREAD).astype(np.float32)[:, None, :]
    return Forecast(
        entity="node/a",
        origin=ORIGIN,
        step=timedelta(minutes=1),
        levels=LEVELS,
        feature_names=("disk",),
        quantiles=quantiles,
        model_version="1",
        contract_sha256="0",
    )


def test_the_chance_of_passing_a_threshold_is_read_between_quantiles() -> None:
    f = forecast(np.full(5, 50.0))
    np.testing.assert_allclose(exceedance(f, "disk", 52.0), 0.3, atol=1e-6)
    np.testing.assert_allclose(exceedance(f, "disk", 52.0, above=False), 0.7, atol=1e-6)
    np.testing.assert_allclose(cumulative(f, "disk", [50, 51, 52, 53, 54]), [0.5, 0.6, 0.7, 0.8, 0.9], atol=1e-6)


def test_beyond_the_outermost_quantiles_the_chance_falls_but_never_ends() -> None:
    chances = [float(exceedance(forecast(np.full(1, 50.0)), "disk", t)[0]) for t in (54.0, 55.0, 60.0, 70.0)]
    assert chances[0] == pytest.approx(0.1)
    assert all(a > b > 0 for a, b in itertools.pairwise(chances))


def test_the_chance_of_crossing_is_that_of_the_most_likely_step() -> None:
    f = forecast(np.array([40.0, 52.0, 45.0]))
    assert crossing_probability(f, "disk", 52.0) == pytest.approx(0.5)


def test_a_filling_disk_is_exhausted_between_its_fast_and_its_slow_path() -> None:
    e = time_to_exhaustion(forecast(np.arange(1.0, 61.0)), "disk", 30.0)
    assert e.median == timedelta(minutes=30)
    assert e.earliest == timedelta(minutes=26)
    assert e.latest == timedelta(minutes=34)
    assert not e.extrapolated


def test_exhaustion_after_the_horizon_follows_the_trend_and_says_so() -> None:
    e = time_to_exhaustion(forecast(np.arange(1.0, 61.0)), "disk", 100.0)
    assert e.median is not None
    assert e.median.total_seconds() == pytest.approx(6000, rel=1e-3)
    assert e.extrapolated
    assert time_to_exhaustion(forecast(np.arange(1.0, 61.0)), "disk", 1e6).median is None


def test_what_falls_reaches_its_limit_from_above() -> None:
    e = time_to_exhaustion(forecast(np.arange(60.0, 0.0, -1.0)), "disk", 20.0, above=False)
    assert e.median == timedelta(minutes=41)
    assert e.earliest is not None
    assert e.latest is not None
    assert e.earliest < e.median < e.latest


def test_what_does_not_move_is_never_exhausted() -> None:
    e = time_to_exhaustion(forecast(np.full(60, 10.0)), "disk", 90.0)
    assert (e.earliest, e.median, e.latest) == (None, None, None)


def test_the_expectation_had_nothing_been_done_is_interpolated_and_ends_with_the_horizon() -> None:
    f = forecast(np.array([10.0, 20.0]))
    band = expected_at(f, "disk", ORIGIN + timedelta(seconds=90))
    assert band is not None
    assert (band.low, band.median, band.high) == pytest.approx((11.0, 15.0, 19.0))
    assert expected_at(f, "disk", ORIGIN + timedelta(minutes=3)) is None
    assert expected_at(f, "disk", ORIGIN) is None


def test_an_effect_is_told_from_what_was_expected_anyway() -> None:
    f = forecast(np.full(10, 50.0))
    times = [ORIGIN + timedelta(minutes=i) for i in range(1, 11)]
    helped = effect(f, "disk", times, [20.0] * 9 + [None])
    assert helped is not None
    assert helped.difference == pytest.approx(-30.0)
    assert helped.rank < 0.01
    assert (helped.outside, helped.steps) == (1.0, 9)
    nothing = effect(f, "disk", times, [50.0] * 10)
    assert nothing is not None
    assert nothing.rank == pytest.approx(0.5)
    assert nothing.outside == 0.0


def test_without_a_forecast_nothing_is_invented() -> None:
    f = forecast(np.full(4, np.nan))
    assert np.isnan(crossing_probability(f, "disk", 1.0))
    assert time_to_exhaustion(f, "disk", 1.0).median is None
    assert expected_at(f, "disk", ORIGIN + timedelta(minutes=1)) is None
    assert effect(f, "disk", [ORIGIN + timedelta(minutes=1)], [3.0]) is None
    with pytest.raises(InvalidInput, match="no forecast of 'memory'"):
        crossing_probability(f, "memory", 1.0)


def test_what_is_past_its_limit_already_is_exhausted_now_though_it_may_come_back() -> None:
    f = forecast(np.linspace(95.0, 40.0, 60))
    now = time_to_exhaustion(f, "disk", 90.0, observed=96.0)
    assert (now.earliest, now.median, now.latest, now.extrapolated) == (timedelta(0),) * 3 + (False,)
    falling = time_to_exhaustion(f, "disk", 90.0, above=False, observed=89.0)
    assert falling.median == timedelta(0)
    assert time_to_exhaustion(f, "disk", 90.0, observed=float("nan")).median == timedelta(minutes=1)
    assert crossing_probability(forecast(np.full(5, 100.0)), "disk", 50.0) > 0.99


def test_steps_without_a_forecast_are_left_out_of_the_chance_but_stop_the_extrapolation() -> None:
    paths = np.full(10, 50.0)
    paths[3] = np.nan
    f = forecast(paths)
    assert crossing_probability(f, "disk", 40.0) > 0.9
    assert time_to_exhaustion(f, "disk", 40.0).median is None
    with pytest.raises(InvalidInput, match="threshold: expected a number"):
        crossing_probability(f, "disk", float("nan"))
    with pytest.raises(InvalidInput, match="limit: expected a number"):
        time_to_exhaustion(f, "disk", float("inf"))
