"""What a trained forecaster promises, asked of the real server over HTTP: all follows from the quantiles."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from clusterheal_models.forecaster import ForecasterConfig, MemberConfig, fit

from clusterheal.contracts import (
    EntityKind,
    FeatureContract,
    FeaturePanel,
    FeatureSpec,
    Forecast,
    ModelInputs,
    TimeSplit,
    WindowSpec,
    model_inputs,
)
from clusterheal.inference.client import InferenceClient
from clusterheal.inference.outlook import crossing_probability, effect, expected_at, time_to_exhaustion

from .conftest import serve_command

pytestmark = pytest.mark.local
STEP = timedelta(minutes=5)
START_NS = 1_767_571_200_000_000_000
N_STEPS, HORIZON = 700, 12
CONTRACT = FeatureContract(
    entity_kinds=(EntityKind(name="pvc", labels=("claim",)),),
    features=(FeatureSpec(name="used", promql="used", unit="ratio", entity_kind="pvc", low=0.0, high=1.0),),
    step=STEP,
    window=WindowSpec(
        recent_steps=24, season_steps=48, season_lags=(1,), seasonal_before=4, seasonal_steps=16, horizon_steps=HORIZON
    ),
)


def volumes(count: int, seed: int) -> FeaturePanel:
    """Volumes that fill at rates of their own, or hardly, with some noise."""
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.0, 0.0012, (count, 1))
    used = rng.uniform(0.02, 0.1, (count, 1)) + rate * np.arange(N_STEPS) + 0.001 * rng.normal(size=(count, N_STEPS))
    return FeaturePanel(
        values=np.clip(used, 0, 1).astype(np.float32)[:, :, None],
        timestamps=START_NS + np.arange(N_STEPS, dtype=np.int64) * CONTRACT.step_ns,
        entities=tuple(f"pvc/claim-{seed}-{i}" for i in range(count)),
        contract=CONTRACT,
    )


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("forecasts")
    panel = volumes(12, seed=0)
    brief = ForecasterConfig(members=(MemberConfig(hidden=16),), batch_rows=128, max_steps=200, evaluate_every=100)
    package = fit(panel, TimeSplit.by_fraction(panel.timestamps), brief).export(folder / "package")
    ready = folder / "ready.json"
    process = subprocess.Popen(serve_command(package.path, ready_file=ready))
    try:
        deadline = time.monotonic() + 120
        while not ready.exists():
            assert process.poll() is None, "the server ended before it was ready"
            assert time.monotonic() < deadline, "the server was not ready in time"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{json.loads(ready.read_text())['http_port']}"
    finally:
        process.kill()
        process.wait(15)


ORIGIN = 600
ORIGIN_TIME = datetime.fromtimestamp(START_NS / 1e9, UTC) + ORIGIN * STEP


async def ask(url: str, inputs: ModelInputs) -> list[Forecast]:
    async with InferenceClient(url, CONTRACT) as client:
        return await client.forecast(inputs)


async def test_volumes_that_training_never_saw_get_chance_time_left_and_expectation(url: str) -> None:
    panel = volumes(6, seed=1)  # new entities
    forecasts = await ask(url, model_inputs(panel, origin=ORIGIN))
    assert [f.entity for f in forecasts] == list(panel.entities)
    for row, forecast in enumerate(forecasts):
        used = panel.values[row, :, 0].astype(float)
        assert forecast.quantiles.shape == (HORIZON, 1, 9)
        assert forecast.origin == ORIGIN_TIME
        assert (np.diff(forecast.quantiles, axis=-1) >= 0).all()
        now, later = used[ORIGIN - 5 : ORIGIN + 1].mean(), used[ORIGIN + HORIZON - 3 : ORIGIN + HORIZON].mean()
        assert crossing_probability(forecast, "used", now + 0.2) < 0.05
        assert crossing_probability(forecast, "used", now - 0.05) > 0.95
        times = [ORIGIN_TIME + (i + 1) * STEP for i in range(HORIZON)]
        bands = [expected_at(forecast, "used", when) for when in times]
        assert all(band is not None and band.low <= band.median <= band.high for band in bands)
        assert bands[-1] is not None
        assert abs(bands[-1].median - later) < 0.02
        undisturbed = effect(forecast, "used", times, used[ORIGIN + 1 : ORIGIN + 1 + HORIZON].tolist())
        freed = effect(forecast, "used", times, (used[ORIGIN + 1 : ORIGIN + 1 + HORIZON] - 0.1).tolist())
        assert undisturbed is not None
        assert freed is not None
        assert abs(undisturbed.difference) < 0.02
        assert freed.difference == pytest.approx(undisturbed.difference - 0.1, abs=1e-6)
        assert freed.outside == 1.0
        assert freed.rank < 0.05


async def test_the_fastest_volume_is_full_first_within_its_interval(url: str) -> None:
    panel = volumes(6, seed=1)
    rise = panel.values[:, ORIGIN, 0] - panel.values[:, ORIGIN - 24, 0]
    fastest, slowest = int(rise.argmax()), int(rise.argmin())
    forecasts = await ask(url, model_inputs(panel, origin=ORIGIN))
    near = (
        float(panel.values[fastest, ORIGIN, 0]) + float(rise[fastest]) / 4
    )  # about a quarter of the recent time ahead
    left = time_to_exhaustion(forecasts[fastest], "used", near)
    assert left.earliest is not None
    assert left.median is not None
    assert left.earliest <= left.median
    assert left.latest is None or left.median <= left.latest
    assert timedelta(0) < left.median < 3 * HORIZON * STEP
    slow = time_to_exhaustion(forecasts[slowest], "used", 0.99)
    assert slow.median is None or slow.median > left.median


async def test_gaps_are_sent_as_gaps_and_no_data_gets_no_forecast(url: str) -> None:
    inputs = model_inputs(volumes(3, seed=1), origin=ORIGIN)
    recent = inputs.recent.copy()
    recent[0, 8:20] = np.nan
    recent[1], seasonal = np.nan, inputs.seasonal.copy()
    seasonal[1] = np.nan
    whole = await ask(url, inputs)
    answers = await ask(url, replace(inputs, recent=recent, seasonal=seasonal))
    gap, none, other = answers
    assert np.isfinite(gap.quantiles).all()
    assert np.abs(gap.quantiles[:, 0, 4] - whole[0].quantiles[:, 0, 4]).max() < 0.02
    assert np.isnan(none.quantiles).all()
    assert np.isnan(crossing_probability(none, "used", 0.5))
    assert time_to_exhaustion(none, "used", 0.5).median is None
    assert expected_at(none, "used", ORIGIN_TIME + STEP) is None
    np.testing.assert_allclose(other.quantiles, whole[2].quantiles, rtol=1e-4)


async def test_a_shorter_horizon_is_the_beginning_of_the_longest(url: str) -> None:
    """The contract says how far; whoever needs less takes the first steps, and asking beyond the end has no answer."""
    (forecast,) = await ask(url, model_inputs(volumes(1, seed=2), origin=ORIGIN))
    assert len(forecast.quantiles) == CONTRACT.window.horizon_steps
    assert expected_at(forecast, "used", ORIGIN_TIME + STEP) is not None
    assert expected_at(forecast, "used", ORIGIN_TIME + HORIZON * STEP) is not None
    assert expected_at(forecast, "used", ORIGIN_TIME + (HORIZON + 1) * STEP) is None
