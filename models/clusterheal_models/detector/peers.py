"""Naive detectors that a package has to beat: robust z-score, persistence, seasonal naive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import FeaturePanel, Float32

Float64 = npt.NDArray[np.float64]
PEERS = ("robust_z_score", "persistence", "seasonal_naive")


@dataclass(frozen=True, kw_only=True)
class NaivePeers:
    """Typical values per entity and feature `(n_entities, n_features)` from the time before evaluation."""

    middle: Float64
    spread: Float64
    step_change: Float64
    season_change: Float64

    @classmethod
    def fit(cls, known: FeaturePanel) -> NaivePeers:
        values = known.values.astype(np.float64)
        season = known.contract.window.season_steps
        middle = _median(values)
        return cls(
            middle=middle,
            spread=_positive(1.4826 * _median(np.abs(values - middle[:, None]))),
            step_change=_positive(1.4826 * _median(np.abs(np.diff(values, axis=1)))),
            season_change=_positive(
                1.4826 * _median(np.abs(values[:, season:] - values[:, :-season]))
                if values.shape[1] > season
                else np.zeros_like(middle)
            ),
        )

    def score(self, recent: Float32, seasonal: Float32) -> dict[str, Float64]:
        """Largest deviation over the features, `(n_entities,)` per peer; 0 where there is nothing to compare."""
        newest = recent[:, -1].astype(np.float64)
        earlier = seasonal[:, 0, 0].astype(np.float64) if seasonal.shape[1] else np.full_like(newest, np.nan)
        return {
            "robust_z_score": _largest((newest - self.middle) / self.spread),
            "persistence": _largest((newest - recent[:, -2]) / self.step_change),
            "seasonal_naive": _largest((newest - earlier) / self.season_change),
        }


def _largest(deviation: Float64) -> Float64:
    return np.asarray(np.nan_to_num(np.abs(deviation), nan=0.0, posinf=0.0).max(1, initial=0.0))


def _positive(values: Float64) -> Float64:
    """What never moves is compared on the typical spread of the same feature elsewhere, or of anything."""
    seen = np.where(values > 0, values, np.nan)
    typical = _median(seen[:, :, None].transpose(2, 0, 1))[0]
    anything = float(np.median(values[values > 0])) if (values > 0).any() else 1.0
    return np.asarray(np.where(values > 0, values, np.where(np.isfinite(typical), typical, anything)))


def _median(values: Float64) -> Float64:
    """Over axis 1 of `(a, n, b)`, without missing ones; NaN where there are none, quietly."""
    out = np.full((values.shape[0], values.shape[2]), np.nan)
    has = np.isfinite(values).any(1)
    for a, b in zip(*np.nonzero(has), strict=True):
        column = values[a, :, b]
        out[a, b] = np.median(column[np.isfinite(column)])
    return out
