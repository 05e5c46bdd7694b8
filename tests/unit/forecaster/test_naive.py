"""The naive paths that members lean on are the naive forecasts, whatever is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from clusterheal_models.forecaster import fit
from clusterheal_models.forecaster.naive import naive_paths, path_count

from clusterheal.contracts import TimeSplit, WindowSpec, model_inputs

from .conftest import SEASON, SMALL, WINDOW, panel_of

AHEAD = np.arange(1, WINDOW.horizon_steps + 1)


def paths_of(history: np.ndarray, window: WindowSpec = WINDOW) -> np.ndarray:
    """Of one series with its newest sample last; NaN = no sample."""
    panel = panel_of(np.repeat(history[None, :, None], 3, axis=2).repeat(2, axis=0))
    panel = replace(panel, contract=replace(panel.contract, window=window))
    inputs = model_inputs(panel)
    values = np.concatenate([inputs.recent[0, :, 0], inputs.seasonal[0, :, :, 0].reshape(-1)])
    present = np.isfinite(values)
    z = torch.from_numpy(np.where(present, values, np.float32(0)))
    last = torch.tensor(np.float32(history[np.isfinite(history)][-1]))
    paths = naive_paths(z, torch.from_numpy(present), last, window).numpy()
    assert paths.shape == (path_count(window), window.horizon_steps)
    return paths


def test_a_saw_tooth_is_continued_by_its_seasons_and_a_shift_by_the_moved_ones() -> None:
    t = np.arange(200)
    saw = (t % SEASON).astype(float)
    comes = (200 - 1 + AHEAD) % SEASON
    last, level, same1, _, same2, _ = paths_of(saw)
    assert (last == saw[-1]).all()
    np.testing.assert_allclose(level, saw[-8:].mean())
    for path in (same1, same2):
        np.testing.assert_allclose(path, comes)
    shifted = saw + np.where(t >= 200 - 24, 5.0, 0.0)  # since the recent steps began
    _, _, same1, _, same2, _ = paths_of(shifted)
    np.testing.assert_allclose(same1, comes)
    # The season's block begins four steps before the origin's time: that is what its level is taken from.
    now, then = shifted[-8:].mean(), saw[200 - SEASON - 4 : 200 - SEASON].mean()
    np.testing.assert_allclose(paths_of(shifted)[3], comes + now - then)


def test_what_is_missing_is_the_newest_level() -> None:
    history = np.arange(200.0)
    history[200 - SEASON - 10 : 200 - SEASON + 20] = np.nan
    last, level, same1, moved1, same2, _ = paths_of(history)
    np.testing.assert_array_equal(same1, level)
    np.testing.assert_array_equal(moved1, level)
    np.testing.assert_allclose(same2, history[-1] + AHEAD - 2 * SEASON)
    history[-24:] = np.nan
    last, level, *_ = paths_of(history)
    np.testing.assert_array_equal(level, last)


def test_seasons_within_the_recent_steps_are_paths_too() -> None:
    window = replace(WINDOW, recent_steps=24, season_steps=8, season_lags=(), seasonal_steps=16)
    history = np.tile(np.arange(8.0), 25)
    history[-8:] += 3
    newest, mean = paths_of(history, window)[2:]
    comes = (200 - 1 + AHEAD) % 8
    np.testing.assert_allclose(newest, comes + 3)
    np.testing.assert_allclose(mean, comes + 1)


def test_a_saw_tooth_of_few_series_is_learned_in_a_short_training() -> None:
    """A disk that fills and is cleaned up once a season, among series that do something else: each its own size."""
    rng = np.random.default_rng(0)
    t = np.arange(900)
    values = np.full((6, 900, 3), np.nan)
    for entity in range(5):
        values[entity, :, 0] = np.cumsum(rng.normal(size=900)) + 50
    values[5, :, 2] = 0.5 + 0.06 * ((t + 17) % SEASON) / SEASON + 0.0005 * rng.normal(size=900)
    panel = panel_of(values)
    model = fit(panel, TimeSplit.by_fraction(panel.timestamps), SMALL)
    origins = range(780, 887, 3)
    medians = np.stack([model.predict(model_inputs(panel, origin=o))[5, :, 2, 4] for o in origins])
    came = np.stack([values[5, o + AHEAD, 2] for o in origins])
    held = np.stack([np.full(len(AHEAD), values[5, o, 2]) for o in origins])
    season = np.stack([values[5, o + AHEAD - SEASON, 2] for o in origins])
    error = [float(np.abs(path - came).mean()) for path in (medians, held, season)]
    assert error[0] < 0.15 * error[1]
    assert error[0] < 1.5 * error[2]
