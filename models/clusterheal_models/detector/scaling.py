"""Robust location and scale of each entity's metrics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clusterheal.contracts import FeaturePanel
from clusterheal_models.detector.operators import squash

Float64 = npt.NDArray[np.float64]


def fit_scaling(train: FeaturePanel, tables: dict[str, Tensor]) -> None:
    """Fill `loc`, `scale`, `is_log` and `log_offset`; the last row holds the middle of all entities.

    A metric that hardly moved gets at least a tenth of what the same metric has elsewhere, or of the entity's other
    metrics: otherwise a rounding error would count as a large deviation.
    """
    values = train.values.astype(np.float64)
    for j, spec in enumerate(train.contract.features):
        if spec.scale == "log":
            positive = values[..., j][values[..., j] > 0]
            offset = float(np.quantile(positive, 0.05)) / 2 if positive.size else 1.0
            values[..., j] = np.log(np.maximum(values[..., j], 0.0) + offset)
            tables["is_log"][j], tables["log_offset"][j] = 1.0, offset
    values[~np.isfinite(values)] = np.nan
    low, q1, loc, q3, high = _quantiles(values, [0.005, 0.25, 0.5, 0.75, 0.995])
    spread = np.maximum(np.nan_to_num((q3 - q1) / 1.349), 0.05 * np.nan_to_num(high - low))
    moving = np.where(spread > 0, spread, np.nan)
    typical = _median(moving)
    anything = float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
    typical = np.where(np.isfinite(typical), typical, anything)
    own = _median(np.moveaxis(moving, 1, 0))
    alike = typical if len(train.entities) > 1 else np.where(np.isfinite(own), own, anything)[:, None]
    floor = np.maximum(0.1 * alike * (spread.shape[1] > 1), 1e-3 * np.abs(np.nan_to_num(loc)))
    scale = np.where(spread > 0, np.maximum(spread, floor), np.broadcast_to(alike, spread.shape))
    tables["loc"][:-1] = torch.from_numpy(np.nan_to_num(loc)).float()
    tables["scale"][:-1] = torch.from_numpy(np.maximum(scale, 1e-9)).float()
    tables["loc"][-1] = torch.from_numpy(np.nan_to_num(_median(loc))).float()
    tables["scale"][-1] = torch.from_numpy(np.maximum(typical, 1e-9)).float()


def robust_spread(values: Float64) -> tuple[Float64, Float64]:
    """Location and positive spread `(n_features,)` of `(n_steps, n_features)`; or the others' spread."""
    low, q1, loc, q3, high = (q[0] for q in _quantiles(values[None], [0.005, 0.25, 0.5, 0.75, 0.995]))
    spread = np.maximum(np.nan_to_num((q3 - q1) / 1.349), 0.05 * np.nan_to_num(high - low))
    typical = float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
    floor = np.maximum(0.1 * typical * (len(spread) > 1), 1e-3 * np.abs(np.nan_to_num(loc)))
    return np.nan_to_num(loc), np.where(spread > 0, np.maximum(spread, floor), typical)


def scaled_series(train: FeaturePanel, tables: dict[str, Tensor], entity: int) -> Tensor:
    """`(n_steps, n_features)` scaled values; missing ones repeat the last seen, or are 0 at the beginning."""
    x = torch.from_numpy(train.values[entity])
    logged = torch.log(x.clamp(min=0.0) + tables["log_offset"])
    transformed = torch.where(tables["is_log"] > 0, logged, x)
    z = squash((transformed - tables["loc"][entity]) / tables["scale"][entity]).numpy()
    seen = np.isfinite(z)
    last = np.maximum.accumulate(np.where(seen, np.arange(len(z))[:, None], -1), axis=0)
    carried = np.take_along_axis(z, np.maximum(last, 0), axis=0)
    return torch.from_numpy(np.where(last >= 0, np.nan_to_num(carried), 0.0).astype(np.float32))


def _quantiles(values: Float64, levels: list[float]) -> Float64:
    out = np.full((len(levels), values.shape[0], values.shape[2]), np.nan)
    for e in range(values.shape[0]):
        for j in range(values.shape[2]):
            seen = values[e, :, j][np.isfinite(values[e, :, j])]
            if seen.size:
                out[:, e, j] = np.quantile(seen, levels)
    return out


def _median(values: Float64) -> Float64:
    """Median over entities that have a value; NaN where none has."""
    out = np.full(values.shape[1:], np.nan)
    for index in np.ndindex(out.shape):
        column = values[(slice(None), *index)]
        column = column[np.isfinite(column)]
        if column.size:
            out[index] = np.median(column)
    return out
