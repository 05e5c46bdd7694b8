"""What the pieces compare a window with: a forecast, a few components, a codebook. Shared by all entities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clusterheal.contracts import FeaturePanel
from clusterheal_models.detector.config import DetectorConfig
from clusterheal_models.detector.graph import Layout
from clusterheal_models.detector.scaling import scaled_series
from clusterheal_models.detector.windows import stride

RIDGE = 1e-3
ODDEST = 0.02
ROUNDS = 15
MOST_REGRESSION_ROWS = 200_000
MOST_WINDOWS = 8_000


def fit_predictors(
    train: FeaturePanel, tables: dict[str, Tensor], config: DetectorConfig, layout: Layout, device: torch.device
) -> None:
    """Fill `coefficients`, `trust`, `centre`, `basis`, `short` and `long` from the training time."""
    series = [scaled_series(train, tables, e).to(device) for e in range(len(train.entities))]
    rng = np.random.default_rng(config.seed)
    lags = max(1, min(config.lags, layout.reach - layout.fresh_steps, len(train.timestamps) // 4))
    tables["coefficients"] = _coefficients(series, lags, rng)
    tables["trust"] = _trust(series, tables["coefficients"])
    windows = _windows(series, layout.window_steps)
    # A quarter of the window's values at most: with one metric, sixteen components would rebuild everything.
    rank = max(1, min(config.components, windows.shape[1] // 4, len(windows) - 1))
    tables["centre"], tables["basis"] = _components(windows, rank)
    for name, length in (("short", layout.short_steps), ("long", layout.long_steps)):
        windows = _windows(series, length)
        tables[name] = _codebook(windows, max(1, min(config.prototypes, len(windows) // 4)), rng)
    for name in ("coefficients", "trust", "centre", "basis", "short", "long"):
        tables[name] = tables[name].cpu()


def _windows(series: list[Tensor], length: int) -> Tensor:
    """`(n, length * n_features)` windows of all entities, thinned evenly."""
    per_entity = max(2, MOST_WINDOWS // len(series))
    cuts = []
    for z in series:
        starts = torch.from_numpy(stride(0, len(z) - length + 1, per_entity)).to(z.device)
        cuts.append(z.unfold(0, length, 1)[starts].transpose(1, 2).reshape(len(starts), -1))
    return torch.cat(cuts)


def _coefficients(series: list[Tensor], lags: int, rng: np.random.Generator) -> Tensor:
    """Ridge regression of a step on the `lags` before it, shared by all metrics and entities, oldest lag first."""
    n_features = series[0].shape[1]
    rows = max(64, MOST_REGRESSION_ROWS // (len(series) * n_features))
    gram = torch.zeros(lags, lags, dtype=torch.float64, device=series[0].device)
    moment = torch.zeros(lags, dtype=torch.float64, device=series[0].device)
    for z in series:
        cut = z.unfold(0, lags + 1, 1)
        take = torch.from_numpy(np.sort(rng.choice(len(cut), min(rows, len(cut)), replace=False))).to(z.device)
        flat = cut[take].reshape(-1, lags + 1).double()
        gram += flat[:, :-1].T @ flat[:, :-1]
        moment += flat[:, :-1].T @ flat[:, -1]
    strength = RIDGE * float(gram.diagonal().mean()) + 1e-9
    solved: Tensor = torch.linalg.solve(
        gram + strength * torch.eye(lags, dtype=torch.float64, device=gram.device), moment
    )
    return solved.float()


def _trust(series: list[Tensor], coefficients: Tensor) -> Tensor:
    """`(n_entities + 1, n_features)` in 0 to 1: how far to go from the last value to the forecast of the next.

    Least squares for each metric of each entity, and for all entities together in the last row.
    """
    lags = len(coefficients)
    moments = []
    for z in series:
        last, step = z[lags - 1 : -1], z[lags:] - z[lags - 1 : -1]
        guess = torch.einsum("nfl,l->nf", z.unfold(0, lags, 1)[:-1], coefficients) - last
        moments.append(torch.stack([(guess * step).double().sum(0), guess.double().square().sum(0)]))
    both = torch.stack([*moments, torch.stack(moments).sum(0)])
    return (both[:, 0] / both[:, 1].clamp(min=1e-9)).clamp(0.0, 1.0).float()


def _components(windows: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Mean window and leading components `(values, rank)`, fitted again without the oddest windows."""
    centre, basis = _leading(windows, rank)
    flat = windows - centre
    error = (flat - (flat @ basis) @ basis.T).square().sum(1)
    return _leading(windows[error <= torch.quantile(error, 1.0 - ODDEST)], rank)


def _leading(windows: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    centre = windows.mean(0)
    flat = (windows - centre).double()
    _, vectors = torch.linalg.eigh(flat.T @ flat / max(len(flat), 1))
    leading = vectors[:, -rank:].flip(1)
    # An eigenvector's sign is arbitrary; fixing it keeps equal data at equal bytes across BLAS builds.
    sign = torch.sign(leading.gather(0, leading.abs().argmax(0, keepdim=True)))
    return centre, (leading * sign).float().contiguous()


def _codebook(windows: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """`(size, values)` centres of k-means; a centre that loses its last window stays where it was."""
    first = torch.from_numpy(np.sort(rng.choice(len(windows), size, replace=False)))
    centres = windows[first.to(windows.device)].clone()
    for _ in range(ROUNDS):
        nearest = (centres.square().sum(1) - 2.0 * windows @ centres.T).argmin(1)
        count = torch.bincount(nearest, minlength=size).to(windows.dtype)
        total = torch.zeros_like(centres).index_add_(0, nearest, windows)
        centres = torch.where((count > 0).unsqueeze(1), total / count.clamp(min=1.0).unsqueeze(1), centres)
    return centres
