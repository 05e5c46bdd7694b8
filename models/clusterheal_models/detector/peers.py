"""Naive detectors that a package has to beat: robust z-score, persistence, seasonal naive; and naive expected bands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import FeaturePanel, Float32, WindowSpec

Float64 = npt.NDArray[np.float64]
PEERS = ("robust_z_score", "persistence", "seasonal_naive")
BAND_PEERS = ("persistence", "seasonal_naive")
BAND_LEVELS = (0.1, 0.5, 0.9)


@dataclass(frozen=True, kw_only=True)
class NaivePeers:
    """Typical values per entity and feature `(n_entities, n_features)` from the time before evaluation.

    `step_band`, `season_band` `(n_entities, n_features, 3)`: `BAND_LEVELS` quantiles of the change to the next step and
    to the same time a season later; NaN where none was seen.
    """

    window: WindowSpec
    middle: Float64
    spread: Float64
    step_change: Float64
    season_change: Float64
    step_band: Float64
    season_band: Float64

    @classmethod
    def fit(cls, known: FeaturePanel, some: npt.NDArray[np.int64] | None = None) -> NaivePeers:
        """Of the entities `some` (rows of the panel), or of all."""
        values = (known.values if some is None else known.values[some]).astype(np.float64)
        season = known.contract.window.season_steps
        steps, seasons = np.diff(values, axis=1), values[:, season:] - values[:, :-season]
        (middle,) = _quantiles(values, (0.5,))
        return cls(
            window=known.contract.window,
            middle=middle,
            spread=_positive(_spread(values - middle[:, None])),
            step_change=_positive(_spread(steps)),
            season_change=_positive(_spread(seasons)),
            step_band=np.stack(_quantiles(steps, BAND_LEVELS), -1),
            season_band=np.stack(_quantiles(seasons, BAND_LEVELS), -1),
        )

    def score(self, recent: Float32, seasonal: Float32) -> dict[str, Float64]:
        """Largest deviation over the features, `(n_entities,)` per peer; 0 where there is nothing to compare.

        Rows are all entities, once or several times over.
        """
        newest, last, earlier = self._samples(recent, seasonal)
        times = len(recent) // len(self.middle)
        middle, spread, step, season = (
            np.tile(x, (times, 1)) for x in (self.middle, self.spread, self.step_change, self.season_change)
        )
        return {
            "robust_z_score": _largest((newest - middle) / spread),
            "persistence": _largest((newest - last) / step),
            "seasonal_naive": _largest((newest - earlier) / season),
        }

    def bands(self, recent: Float32, seasonal: Float32) -> dict[str, Float64]:
        """What each of `BAND_PEERS` expects of the newest step, `(n_rows, n_features, 3)`; rows as for `score`."""
        _, last, earlier = self._samples(recent, seasonal)
        times = len(recent) // len(self.middle)
        return {
            "persistence": last[..., None] + np.tile(self.step_band, (times, 1, 1)),
            "seasonal_naive": earlier[..., None] + np.tile(self.season_band, (times, 1, 1)),
        }

    def _samples(self, recent: Float32, seasonal: Float32) -> tuple[Float64, Float64, Float64]:
        """The newest sample, the one before it, and that of the same time a season earlier, `(n_rows, n_features)`."""
        season = self.window.season_steps
        if season < recent.shape[1]:
            earlier = recent[:, -1 - season]
        elif self.window.season_lags[:1] == (1,):
            earlier = seasonal[:, 0, self.window.seasonal_before - 1]
        else:
            earlier = np.full_like(recent[:, -1], np.nan)
        return recent[:, -1].astype(np.float64), recent[:, -2].astype(np.float64), earlier.astype(np.float64)


def _largest(deviation: Float64) -> Float64:
    return np.asarray(np.nan_to_num(np.abs(deviation), nan=0.0, posinf=0.0).max(1, initial=0.0))


def _spread(differences: Float64) -> Float64:
    return 1.4826 * _quantiles(np.abs(differences), (0.5,))[0]


def _positive(values: Float64) -> Float64:
    """What never moves is compared on the typical spread of the same feature elsewhere, or of anything."""
    seen = np.where(values > 0, values, np.nan)
    (typical,) = _quantiles(seen[None], (0.5,))
    anything = float(np.median(values[values > 0])) if (values > 0).any() else 1.0
    return np.asarray(np.where(values > 0, values, np.where(np.isfinite(typical), typical, anything)))


def _quantiles(values: Float64, levels: tuple[float, ...]) -> list[Float64]:
    """Over axis 1 of `(a, n, b)`, without missing ones; NaN where there are none, quietly."""
    out = np.full((len(levels), values.shape[0], values.shape[2]), np.nan)
    for a, b in zip(*np.nonzero(np.isfinite(values).any(1)), strict=True):
        column = values[a, :, b]
        out[:, a, b] = np.quantile(column[np.isfinite(column)], levels)
    return list(out)
