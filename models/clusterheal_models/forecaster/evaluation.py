"""The forecast half of `clusterheal_models.evaluation`: the ONNX graph against persistence and seasonal naive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clusterheal.contracts import FeaturePanel, ModelInputs, ModelPackage, TimeSplit, model_inputs
from clusterheal.errors import DataQualityError
from clusterheal_models.evaluation import assemble, check, held_out_window
from clusterheal_models.export import run_onnx, session
from clusterheal_models.forecaster.peers import NaiveForecaster
from clusterheal_models.forecaster.windows import typical_change

ORIGINS = 24
LEAST_COVERAGE = 0.6

Float64 = npt.NDArray[np.float64]


def evaluate_forecaster(package: ModelPackage, panel: FeaturePanel, split: TimeSplit) -> dict[str, Any]:
    """Score evenly spaced origins of the held-out time. See `evaluation.evaluate`.

    The primary figure is `scrps`: twice the mean quantile loss over the series' typical seasonal change, averaged
    over series. Series that never change are left out, since every method gets them right.
    """
    window = panel.contract.window
    first = int(np.searchsorted(panel.timestamps, split.calibration_end_ns))
    last = len(panel.timestamps) - window.horizon_steps
    if last < first:
        raise DataQualityError(
            f"the held-out time has {len(panel.timestamps) - first} steps; expected at least the horizon's "
            f"{window.horizon_steps}: collect a longer history or move the split"
        )
    starts = np.unique(np.linspace(first, last, ORIGINS).round().astype(int))
    scale = _scale(panel)
    scored = np.flatnonzero(np.isfinite(scale.reshape(-1)))
    if not len(scored):
        raise DataQualityError("no series changes; there is nothing to evaluate a forecaster on")
    run = session(package.model_path)
    peers = [NaiveForecaster.fit(panel, split, lag) for lag in (0, window.season_steps)]
    names = ["model", *(p.name for p in peers)]
    losses: dict[str, list[Float64]] = {name: [] for name in names}
    errors: list[Float64] = []
    covered: list[Float64] = []
    nonfinite = crossings = 0
    for start in starts:
        inputs = model_inputs(panel, origin=int(start) - 1)
        target = panel.values[:, start : start + window.horizon_steps].astype(np.float64)
        answer = run_onnx(run, inputs.tensors())
        levels, quantiles = answer["levels"].astype(np.float64), answer["quantiles"].astype(np.float64)
        nonfinite += _nonfinite(quantiles, inputs)
        crossings += int((np.diff(quantiles, axis=-1) < 0).sum())
        forecasts = {"model": quantiles} | {p.name: p.predict(panel, int(start) - 1) for p in peers}
        comparable = np.all([np.isfinite(q).all(-1) for q in forecasts.values()], axis=0) & np.isfinite(target)
        for name, q in forecasts.items():
            losses[name].append(_series_mean(pinball(q, target, levels), comparable) / scale)
        middle = len(levels) // 2
        errors.append(_series_mean(np.abs(target - quantiles[..., middle]), comparable) / scale)
        inside = (target >= quantiles[..., 0]) & (target <= quantiles[..., -1])
        covered.append(_series_mean(inside.astype(np.float64), comparable))
    stacked = {name: np.stack(v).reshape(len(starts), -1)[:, scored] for name, v in losses.items()}
    coverage = _mean(np.stack(covered).reshape(len(starts), -1)[:, scored])
    mase = _mean(np.stack(errors).reshape(len(starts), -1)[:, scored])
    kinds = np.tile([f.entity_kind for f in panel.contract.features], len(panel.entities))[scored]
    figures_by_kind = _by_kind(stacked, kinds)
    return assemble(
        package,
        window=held_out_window(panel, split, origins=len(starts)),
        primary="scrps",
        score=_mean(stacked["model"]),
        peers={name: _mean(stacked[name]) for name in names[1:]},
        blocks=_blocks(stacked),
        by_kind=figures_by_kind,
        blocks_by_kind={k: _blocks({n: v[:, kinds == k] for n, v in stacked.items()}) for k in figures_by_kind},
        figures={"mase": mase, "coverage80": coverage, "series": len(scored)},
        checks=[
            check("finite", nonfinite == 0, f"{nonfinite} forecasts are not finite where there is data; expected none"),
            check("ordered", crossings == 0, f"{crossings} quantiles cross; expected none"),
            check(
                "coverage",
                coverage >= LEAST_COVERAGE,
                f"the 80 % interval covers {coverage:.1%}; expected at least {LEAST_COVERAGE:.0%}",
            ),
        ],
    )


def pinball(quantiles: Float64, target: Float64, levels: Float64) -> Float64:
    """Twice the quantile loss averaged over levels. `(..., Q)`, `(...)` to `(...)`; NaN where either is."""
    error = target[..., None] - quantiles
    return np.asarray(2 * np.maximum(levels * error, (levels - 1) * error).mean(-1))


def _scale(panel: FeaturePanel) -> Float64:
    """Typical seasonal change over the whole panel, `(n_entities, n_features)`; NaN where nothing changes."""
    window = panel.contract.window
    change = np.stack(
        [
            typical_change(torch.tensor(entity.T), window.season_steps, window.horizon_steps).numpy()
            for entity in panel.values  # one at a time: the panel may be larger than memory
        ]
    )
    return np.asarray(np.where(change > 0, change, np.nan))


def _series_mean(values: Float64, usable: npt.NDArray[np.bool_]) -> Float64:
    """Mean over the horizon, `(n_entities, H, F)` to `(n_entities, F)`; NaN where nothing is usable."""
    count = usable.sum(1)
    total = np.where(usable, values, 0.0).sum(1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _nonfinite(quantiles: Float64, inputs: ModelInputs) -> int:
    """Forecast cells that are not finite although their window has a sample."""
    has_data = np.isfinite(inputs.recent).any(1) | np.isfinite(inputs.seasonal).any((1, 2))
    return int(np.count_nonzero(~np.isfinite(quantiles) & np.asarray(has_data)[:, None, :, None]))


def _blocks(stacked: Mapping[str, Float64]) -> dict[str, list[float]]:
    """Mean over series per origin `(n_origins, n_series)`; origins that any method lacks are left out for all."""
    blocks = {name: np.array([_mean(row) for row in v]) for name, v in stacked.items()}
    kept = np.isfinite(np.stack(list(blocks.values()))).all(0)
    return {name: v[kept].tolist() for name, v in blocks.items()}


def _by_kind(stacked: Mapping[str, Float64], kinds: npt.NDArray[np.str_]) -> dict[str, dict[str, float]]:
    """Kinds without any comparable forecast are left out."""
    found = {str(k): kinds == k for k in np.unique(kinds)}
    figures = {k: {name: _mean(v[:, mask]) for name, v in stacked.items()} for k, mask in found.items()}
    return {k: v for k, v in figures.items() if np.isfinite(v["model"])}


def _mean(values: Float64) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
