"""The detector's peers on recorded series: implementations that everybody has, fitted on the train rows alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Peer = Callable[[Float64, Float64, int], Float64]
WINDOW_VALUES = 640
MOST_ROWS = 20_000
SEED = 0


def standardised(values: Float64, n_train: int) -> Float64:
    """`(n_rows, n_metrics)` by mean and deviation of the train rows; a constant metric keeps its unit."""
    filled = np.nan_to_num(values)
    mean, deviation = filled[:n_train].mean(0), filled[:n_train].std(0)
    return np.asarray(np.clip((filled - mean) / np.where(deviation > 0, deviation, 1.0), -50.0, 50.0))


def peer_scores(values: Float64, n_train: int, season_steps: int) -> dict[str, Float64]:
    """Score `(n_test,)` per peer, higher is odder. `values` `(n_rows, n_metrics)`, fitted on the first `n_train`."""
    z = standardised(values, n_train)
    return {name: peer(z[:n_train], z[n_train:], season_steps) for name, peer in PEERS.items()}


def windows(train: Float64, test: Float64) -> tuple[Float64, Float64]:
    """Flat windows ending at each train row (thinned) and at each test row; longer for few metrics, 4 to 32 steps."""
    length = int(np.clip(WINDOW_VALUES // train.shape[1], 4, 32))
    rows = np.concatenate([np.repeat(train[:1], length - 1, axis=0), train, test])
    view = np.lib.stride_tricks.sliding_window_view(rows, length, axis=0)
    fit = view[: len(train)][:: max(1, len(train) // MOST_ROWS)]
    return fit.reshape(len(fit), -1), view[len(train) :].reshape(len(test), -1)


def _isolation_forest(train: Float64, test: Float64, season_steps: int) -> Float64:
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(n_estimators=100, random_state=SEED, n_jobs=1).fit(
        train[:: max(1, len(train) // MOST_ROWS)]
    )
    return np.asarray(-model.score_samples(test))


def _isolation_forest_windows(train: Float64, test: Float64, season_steps: int) -> Float64:
    return _isolation_forest(*windows(train, test), season_steps)


def _pca_windows(train: Float64, test: Float64, season_steps: int) -> Float64:
    from sklearn.decomposition import PCA

    fit, score = windows(train, test)
    model = PCA(n_components=0.9, svd_solver="full").fit(fit)
    return np.asarray(np.square(score - model.inverse_transform(model.transform(score))).mean(1))


def _k_means_windows(train: Float64, test: Float64, season_steps: int) -> Float64:
    from sklearn.cluster import MiniBatchKMeans

    fit, score = windows(train, test)
    model = MiniBatchKMeans(min(100, len(fit) // 4), random_state=SEED, n_init=1).fit(fit)
    return np.asarray(model.transform(score).min(1))


def _rolling_z_score(train: Float64, test: Float64, season_steps: int) -> Float64:
    """Largest distance over the metrics to the rolling median of the rows before, in rolling median deviations."""
    length = 120
    rows = np.concatenate([train, test])
    rows = np.concatenate([np.repeat(rows[:1], length, axis=0), rows])
    view = np.lib.stride_tricks.sliding_window_view(rows, length, axis=0)[len(train) : -1]
    out = np.empty(len(test))
    for start in range(0, len(test), 4096):
        part = view[start : start + 4096]
        middle = np.median(part, axis=-1)
        spread = np.median(np.abs(part - middle[..., None]), axis=-1)
        out[start : start + 4096] = (np.abs(test[start : start + 4096] - middle) / (1.4826 * spread + 0.05)).max(1)
    return out


def _seasonal_residual(train: Float64, test: Float64, season_steps: int) -> Float64:
    """Mean square distance to the train rows' median at the same time of the season."""
    slot = np.arange(len(train) + len(test)) % season_steps
    profile = np.zeros((season_steps, train.shape[1]))
    for s in range(season_steps):
        rows = train[slot[: len(train)] == s]
        profile[s] = np.median(rows, axis=0) if len(rows) else np.median(train, axis=0)
    return np.asarray(np.square(test - profile[slot[len(train) :]]).mean(1))


def _ecod(train: Float64, test: Float64, season_steps: int) -> Float64:
    from pyod.models.ecod import ECOD

    model = ECOD().fit(train[:: max(1, len(train) // MOST_ROWS)])
    parts = [model.decision_function(test[start : start + 5000]) for start in range(0, len(test), 5000)]
    return np.concatenate(parts)


PEERS: Mapping[str, Peer] = {
    "isolation_forest": _isolation_forest,
    "isolation_forest_windows": _isolation_forest_windows,
    "pca_windows": _pca_windows,
    "k_means_windows": _k_means_windows,
    "rolling_z_score": _rolling_z_score,
    "seasonal_residual": _seasonal_residual,
    "ecod": _ecod,
}
