"""The forecaster's peers: last value, seasonal naive, ridge, LightGBM, Theta, AutoETS.

Each gets what ours gets: the train rows to fit on, all rows before an origin as context, one configuration for all
tasks. They answer quantiles `(series, origins, horizon, levels)`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clusterheal_models.bench.forecast import Task
from clusterheal_models.forecaster import LEVELS

Float64 = npt.NDArray[np.float64]

PAST_ORIGINS = 200
RIDGE_WINDOWS = 20_000
RIDGE_PENALTY = 10.0
TREE_WINDOWS = 60_000
TREES = 200
STATISTICAL_HISTORY = 300
SEED = 7


def last_value(task: Task) -> Float64:
    """The newest sample, with the quantiles of its past errors."""
    return _with_past_errors(task, lambda v, o: np.repeat(v[:, o - 1 : o], task.horizon, axis=1))


def seasonal_naive(task: Task) -> Float64:
    """The value one season earlier, with the quantiles of its past errors."""
    ahead = np.arange(task.horizon)

    def point(values: Float64, origin: int) -> Float64:
        return np.asarray(values[:, origin - task.season + ahead % task.season])

    return _with_past_errors(task, point)


def ridge(task: Task) -> Float64:
    """One linear map per horizon step from the normalised window, with the quantiles of its residuals per series."""
    rng = np.random.default_rng(SEED)
    series, origin = _draw(task, RIDGE_WINDOWS, rng)
    x, y, loc, scale = _windows(task, series, origin)
    weights = 1.0 / len(x)
    gram = x.T @ x * weights
    gram[np.diag_indices_from(gram)] += RIDGE_PENALTY / len(x) ** 0.5
    coefficients = np.linalg.solve(gram, x.T @ y * weights)
    residual = y - x @ coefficients
    quantiles = np.stack(
        [
            np.quantile(residual[series == s], LEVELS, axis=0).T if (series == s).any() else np.zeros((task.horizon, 9))
            for s in range(len(task.values))
        ]
    )
    series, origin = _test_pairs(task)
    x, _, loc, scale = _windows(task, series, origin)
    out = (x @ coefficients)[..., None] + quantiles[series]
    return _shaped(task, loc[:, None, None] + scale[:, None, None] * out)


def lightgbm(task: Task) -> Float64:
    """Quantile boosting, one model per level over all series and horizon steps; the step is a feature."""
    import lightgbm as lgb

    rng = np.random.default_rng(SEED)
    series, origin = _draw(task, TREE_WINDOWS, rng)
    step = rng.integers(0, task.horizon, len(series))
    x, y = _tree_features(task, series, origin, step)
    data = lgb.Dataset(x, y, params={"verbosity": -1})
    at_series, at_origin = _test_pairs(task)
    pairs = [np.repeat(a, task.horizon) for a in (at_series, at_origin)]
    steps = np.tile(np.arange(task.horizon), len(at_series))
    test, _ = _tree_features(task, pairs[0], pairs[1], steps)
    _, _, loc, scale = _windows(task, at_series, at_origin)
    levels = []
    for level in LEVELS:
        parameters = {
            "objective": "quantile",
            "alpha": level,
            "learning_rate": 0.08,
            "num_leaves": 31,
            "min_data_in_leaf": 100,
            "feature_fraction": 0.7,
            "verbosity": -1,
            "num_threads": 1,
            "seed": SEED,
        }
        booster = lgb.train(parameters, data, num_boost_round=TREES)
        levels.append(np.asarray(booster.predict(test)).reshape(len(at_series), task.horizon))
    out = np.sort(np.stack(levels, axis=-1), axis=-1)
    return _shaped(task, loc[:, None, None] + scale[:, None, None] * out)


def theta(task: Task) -> Float64:
    """The Theta method on the newest rows; minute data without season, whose length it cannot take."""
    from statsforecast.models import Theta

    return _statistical(task, lambda season: Theta(season_length=season))


def auto_ets(task: Task) -> Float64:
    """Exponential smoothing with additive errors, the rest chosen by information criterion, likewise."""
    from statsforecast.models import AutoETS

    return _statistical(task, lambda season: AutoETS(season_length=season, model="AZA" if season > 1 else "AZN"))


PEERS: dict[str, Callable[[Task], Float64]] = {
    "last value": last_value,
    "seasonal naive": seasonal_naive,
    "ridge": ridge,
    "LightGBM": lightgbm,
    "Theta": theta,
    "AutoETS": auto_ets,
}


def _with_past_errors(task: Task, point: Callable[[Float64, int], Float64]) -> Float64:
    values = task.values
    low = task.season + 1
    past = np.linspace(low, task.train_rows - task.horizon, PAST_ORIGINS).round().astype(int)
    errors = np.stack([values[:, o : o + task.horizon] - point(values, o) for o in past])
    quantiles = np.moveaxis(np.nanquantile(errors, LEVELS, axis=0), 0, -1)
    points = np.stack([point(values, o) for o in task.origins], axis=1)
    return np.asarray(points[..., None] + quantiles[:, None])


def _draw(task: Task, count: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Series and origins whose window and targets lie in the train rows."""
    low = min(task.panel.contract.window.history_steps, task.train_rows // 2)
    series = rng.integers(0, len(task.values), count)
    return series, rng.integers(low, task.train_rows - task.horizon + 1, count)


def _test_pairs(task: Task) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    n = len(task.values)
    return np.repeat(np.arange(n), len(task.origins)), np.tile(np.array(task.origins), n)


def _windows(
    task: Task, series: npt.NDArray[np.int64], origin: npt.NDArray[np.int64]
) -> tuple[Float64, Float64, Float64, Float64]:
    """Normalised inputs and targets of windows, and their location and scale.

    Inputs are the recent steps, the seasonal blocks, the clock's phase and a one; targets may be unknown (0).
    """
    window, values = task.panel.contract.window, task.values
    n_rows = values.shape[1]
    offsets = [np.arange(-window.recent_steps, 0)]
    for lag in window.season_lags:
        first = -lag * window.season_steps - window.seasonal_before
        offsets.append(np.minimum(first + np.arange(window.seasonal_steps), -1))
    rows = origin[:, None] + np.concatenate(offsets)
    context = np.where(rows >= 0, values[series[:, None], np.clip(rows, 0, n_rows - 1)], np.nan)
    recent = context[:, : window.recent_steps]
    loc = np.median(recent, axis=1)
    scale = np.abs(recent - loc[:, None]).mean(1)
    typical = np.array([np.abs(np.diff(row[: task.train_rows])).mean() for row in values])[series]
    scale = scale + 1e-2 * typical + 1e-9
    x = np.clip(np.nan_to_num((context - loc[:, None]) / scale[:, None]), -20, 20)
    phase = 2 * np.pi * (origin % window.season_steps) / window.season_steps
    extra = np.stack([np.sin(phase), np.cos(phase), np.sin(2 * phase), np.cos(2 * phase), np.ones(len(x))], axis=1)
    ahead = np.clip(origin[:, None] + np.arange(task.horizon), 0, n_rows - 1)
    y = np.clip((values[series[:, None], ahead] - loc[:, None]) / scale[:, None], -20, 20)
    return np.concatenate([x, extra], axis=1), y, loc, scale


def _tree_features(
    task: Task, series: npt.NDArray[np.int64], origin: npt.NDArray[np.int64], step: npt.NDArray[np.int64]
) -> tuple[Float64, Float64]:
    """Few telling inputs of a window for one horizon step, and the normalised target."""
    window = task.panel.contract.window
    chunks = []
    for start in range(0, len(series), 50_000):
        part = slice(start, start + 50_000)
        x, y, _, scale = _windows(task, series[part], origin[part])
        rows = np.arange(len(x))
        recent = x[:, : window.recent_steps]
        newest = recent[:, [-1, -2, -3, -5, -8, -12, -20, -30, -60]]
        means = [recent[:, -n:].mean(1) for n in (5, 15, 30, 60)] + [recent[:, -n:].std(1) for n in (10, 30, 120)]
        seasons = []
        for lag in range(len(window.season_lags)):
            block = x[:, window.recent_steps + lag * window.seasonal_steps :][:, : window.seasonal_steps]
            seasons += [block[rows, window.seasonal_before + step[part]], block[:, window.seasonal_before - 1]]
            seasons += [block.mean(1)]
        if not window.season_lags or task.season <= window.recent_steps:
            back = (step[part] - task.season * (1 + step[part] // task.season)) + window.recent_steps
            seasons.append(recent[rows, np.clip(back, 0, window.recent_steps - 1)])
        hour = (origin[part] + step[part]) % window.season_steps / window.season_steps
        own = [step[part], hour, np.log(scale), series[part], x[:, -5], x[:, -4]]
        columns = np.concatenate([newest, np.stack(means + seasons + own, axis=1), y[rows, step[part], None]], axis=1)
        chunks.append(columns)
    table = np.concatenate(chunks)
    return table[:, :-1], table[:, -1]


def _statistical(task: Task, make: Callable[[int], object]) -> Float64:
    """A statsforecast model per series and origin, normal quantiles from its 80 % interval."""
    from scipy.stats import norm

    season = task.season if task.season <= 24 else 1
    z = norm.ppf(LEVELS)
    out = np.empty((len(task.values), len(task.origins), task.horizon, len(LEVELS)))
    for i, row in enumerate(task.values):
        for j, origin in enumerate(task.origins):
            history = row[max(0, origin - (STATISTICAL_HISTORY if season == 1 else 28 * season)) : origin]
            answer = make(season).forecast(y=history, h=task.horizon, level=[80])  # type: ignore[attr-defined]
            sigma = np.maximum(answer["hi-80"] - answer["mean"], 0.0) / z[-1]
            out[i, j] = answer["mean"][:, None] + sigma[:, None] * z
    return out


def _shaped(task: Task, flat: Float64) -> Float64:
    return flat.reshape(len(task.values), len(task.origins), task.horizon, len(LEVELS))
