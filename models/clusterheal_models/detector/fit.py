"""Fitting: scaling and predictors on the training time, tails on the later calibration time, no labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clusterheal.contracts import FeaturePanel, TimeSplit
from clusterheal.errors import DataQualityError
from clusterheal_models.detector import tails
from clusterheal_models.detector.config import PIECES, DetectorConfig
from clusterheal_models.detector.graph import DetectorGraph, Parts, empty_tables, squash
from clusterheal_models.detector.windows import Batch, Windows, stride

Report = Callable[[str, float], None]
Float64 = npt.NDArray[np.float64]
MIN_STEPS = 64
LEVELS = np.array([0.0, 0.5, 1.0, 2.0])


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted graph and what the calibration slice showed."""

    graph: DetectorGraph
    calibration_days: float
    calibration_alarm_steps: int
    found_share: tuple[float, ...]


def fit_graph(panel: FeaturePanel, split: TimeSplit, config: DetectorConfig, report: Report) -> Fitted:
    """Fit everything in the graph.

    Raises:
        DataQualityError: too few steps before either boundary, or no feature with a single sample.
    """
    train = panel.between(None, split.train_end_ns)
    n_train, n_known = len(train.timestamps), len(panel.between(None, split.calibration_end_ns).timestamps)
    if n_train < MIN_STEPS or n_known - n_train < MIN_STEPS // 4:
        raise DataQualityError(
            f"the detector needs at least {MIN_STEPS} steps to train and {MIN_STEPS // 4} to calibrate, "
            f"got {n_train} and {n_known - n_train}; collect a longer history or move the split"
        )
    if not np.isfinite(train.values).any():
        raise DataQualityError("every feature of the training time is NaN; check the collection and its catalogue")
    report("scaling", 0.0)
    tables = empty_tables(len(panel.entities), len(panel.contract.features))
    tables["event_prior"] = torch.tensor(config.event_prior)
    _scaling(train, tables)
    window = config.window_steps(len(panel.contract.features), panel.contract.window.recent_steps)
    tables["weights"] = _weights(panel.contract.window.recent_steps, config.smoothing_steps)
    report("predictors", 0.1)
    rng = np.random.default_rng(config.seed)
    tables["coefficients"] = _coefficients(train, tables, config, rng)
    tables["centre"], tables["basis"] = _components(train, tables, config, window)
    graph = DetectorGraph(tables, smoothing=config.smoothing_steps, window=window, pooled=config.pooled)
    report("calibration", 0.4)
    with torch.no_grad():
        return _calibrate(graph, panel, n_train, n_known, config, rng, report)


def _scaling(train: FeaturePanel, tables: dict[str, Tensor]) -> None:
    """Robust location and scale per entity and feature, and the log transform where the contract asks for it."""
    values = train.values.astype(np.float64)
    for j, spec in enumerate(train.contract.features):
        if spec.scale == "log":
            positive = values[..., j][values[..., j] > 0]
            offset = float(np.quantile(positive, 0.05)) / 2 if positive.size else 1.0
            values[..., j] = np.log(np.maximum(values[..., j], 0.0) + offset)
            tables["is_log"][j], tables["log_offset"][j] = 1.0, offset
    values[~np.isfinite(values)] = np.nan
    with np.errstate(all="ignore"):
        low, q1, loc, q3, high = _quantiles(values, [0.005, 0.25, 0.5, 0.75, 0.995])
        spread = np.maximum((q3 - q1) / 1.349, 0.05 * (high - low))
        typical = np.nanmedian(np.where(spread > 0, spread, np.nan), axis=0)
        fallback = np.nanmedian(np.where(spread > 0, spread, np.nan))
    typical = np.where(np.isfinite(typical), typical, np.nan_to_num(fallback, nan=1.0))
    floor = np.maximum(0.1 * typical, 1e-3 * np.abs(np.nan_to_num(loc)))
    scale = np.where(np.nan_to_num(spread) > floor, np.nan_to_num(spread), np.where(spread > 0, floor, typical))
    tables["loc"][:-1] = torch.from_numpy(np.nan_to_num(loc)).float()
    tables["scale"][:-1] = torch.from_numpy(np.maximum(scale, 1e-9)).float()
    tables["loc"][-1] = torch.from_numpy(np.nan_to_num(_median(loc))).float()
    tables["scale"][-1] = torch.from_numpy(np.maximum(typical, 1e-9)).float()


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


def _weights(steps: int, smoothing: int) -> Tensor:
    """Columns: the newest steps; the half hour before them; everything, newer steps more."""
    age = torch.arange(steps - 1, -1, -1, dtype=torch.float32)
    now = (age < smoothing).float()
    before = ((age >= smoothing) & (age < smoothing + 30)).float()
    usual = 0.5 ** (age / 20.0)
    return torch.stack([now, before, usual], 1)


def _scaled(train: FeaturePanel, tables: dict[str, Tensor], entity: int) -> Tensor:
    """`(n_steps, n_features)` scaled values; missing ones repeat the last seen, or 0 at the beginning."""
    x = torch.from_numpy(train.values[entity])
    logged = torch.log(x.clamp(min=0.0) + tables["log_offset"])
    z = squash((torch.where(tables["is_log"] > 0, logged, x) - tables["loc"][entity]) / tables["scale"][entity]).numpy()
    seen = np.isfinite(z)
    last = np.maximum.accumulate(np.where(seen, np.arange(len(z))[:, None], -1), axis=0)
    carried = np.take_along_axis(z, np.maximum(last, 0), axis=0)
    return torch.from_numpy(np.where(last >= 0, np.nan_to_num(carried), 0.0).astype(np.float32))


def _coefficients(
    train: FeaturePanel, tables: dict[str, Tensor], config: DetectorConfig, rng: np.random.Generator
) -> Tensor:
    """Ridge regression of a step on the `lags` before it, shared by all metrics and entities, oldest lag first."""
    lags = min(config.lags, len(train.timestamps) // 4)
    rows = max(1, config.max_windows * 4 // (len(train.entities) * len(train.contract.features)))
    gram, moment = torch.zeros(lags, lags, dtype=torch.float64), torch.zeros(lags, dtype=torch.float64)
    for e in range(len(train.entities)):
        z = _scaled(train, tables, e).double()
        cut = z.unfold(0, lags + 1, 1)
        take = torch.from_numpy(np.sort(rng.choice(len(cut), min(rows, len(cut)), replace=False)))
        flat = cut[take].reshape(-1, lags + 1)
        flat = flat[flat.abs().sum(1) > 0]
        gram += flat[:, :-1].T @ flat[:, :-1]
        moment += flat[:, :-1].T @ flat[:, -1]
    ridge = 1e-3 * gram.diagonal().mean().clamp(min=1e-6)
    solved: Tensor = torch.linalg.solve(gram + ridge * torch.eye(lags, dtype=torch.float64), moment)
    return solved.float()


def _components(
    train: FeaturePanel, tables: dict[str, Tensor], config: DetectorConfig, window: int
) -> tuple[Tensor, Tensor]:
    """Mean window and the leading components of all entities' windows, refitted without the oddest two per cent."""
    size = window * len(train.contract.features)
    per_entity = max(2, min(config.max_windows, 20_000) // len(train.entities))
    cuts = []
    for e in range(len(train.entities)):
        z = _scaled(train, tables, e)
        starts = stride(0, len(z) - window + 1, per_entity)
        cuts.append(z.unfold(0, window, 1)[torch.from_numpy(starts)].transpose(1, 2).reshape(-1, size))
    windows = torch.cat(cuts)
    rank = min(config.components, size, len(windows) - 1)
    centre, basis = _leading(windows, rank)
    flat = windows - centre
    error = (flat - (flat @ basis) @ basis.T).square().sum(1)
    keep = error <= torch.quantile(error[:: max(1, len(error) // 100_000)], 0.98)
    return _leading(windows[keep], rank)


def _leading(windows: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    centre = windows.mean(0)
    flat = (windows - centre).double()
    _, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
    return centre, vectors[:, -rank:].flip(1).float().contiguous()


def _gather(
    graph: DetectorGraph, panel: FeaturePanel, first: int, last: int, config: DetectorConfig
) -> list[tuple[Batch, Parts]]:
    """Parts of every entity's windows with origins in `first..last-1`, thinned to `max_windows`."""
    out = []
    for e in range(len(panel.entities)):
        origins = stride(first, last, max(64, config.max_windows // len(panel.entities)))
        for batch in Windows(panel, e).batches(origins, config.batch):
            out.append((batch, graph.parts(batch.recent, batch.seasonal, graph.row(batch.entity_index))))
    return out


def _calibrate(
    graph: DetectorGraph,
    panel: FeaturePanel,
    n_train: int,
    n_known: int,
    config: DetectorConfig,
    rng: np.random.Generator,
    report: Report,
) -> Fitted:
    """Set tails, bands, threshold and confidence from windows whose origin lies in the calibration time."""
    gathered = _gather(graph, panel, n_train, n_known, config)
    n_entities = len(panel.entities)
    graph.levels = torch.from_numpy(LEVELS).float()
    pooled_raw, pooled_residual = [], []
    for e in range(n_entities):
        mine = [(b, p) for b, p in gathered if int(b.entity_index[0]) == e]
        fresh = torch.cat([p.fresh for _, p in mine]).numpy().astype(bool)
        raw = torch.cat([p.raw for _, p in mine]).double().numpy()
        raw[~np.broadcast_to(fresh[:, None], raw.shape)] = np.nan
        residual = torch.cat([_residual(graph, b, p) for b, p in mine]).double().numpy()
        _set_piece_tails(graph, e, raw)
        _set_band(graph, e, residual)
        pooled_raw.append(raw[:: max(1, n_entities // 4)])
        pooled_residual.append(residual[:: max(1, n_entities // 4)])
    _set_piece_tails(graph, n_entities, np.concatenate(pooled_raw))
    _set_band(graph, n_entities, np.concatenate(pooled_residual))
    report("score tails", 0.8)
    statistics: list[Float64] = []
    for e in range(n_entities):
        mine = [(b, p) for b, p in gathered if int(b.entity_index[0]) == e]
        pooled = [
            graph.pool(graph.evidence(p.raw, graph.row(b.entity_index)) * p.fresh.unsqueeze(1))[0] for b, p in mine
        ]
        statistics.append(torch.cat(pooled).double().numpy())
    _set_score_tails(graph, statistics)
    graph.threshold = torch.tensor(_threshold(panel, config))
    report("confidence", 0.9)
    graph.found_share = _found_share(graph, panel, n_train, n_known, rng)
    steps_per_day = 86_400e9 / panel.contract.step_ns
    thinned = sum(len(s) for s in statistics)
    alarm_steps = sum(int((_scores(graph, e, s) >= float(graph.threshold)).sum()) for e, s in enumerate(statistics))
    return Fitted(
        graph=graph,
        calibration_days=thinned / steps_per_day,
        calibration_alarm_steps=alarm_steps,
        found_share=tuple(float(v) for v in graph.found_share),
    )


def _residual(graph: DetectorGraph, batch: Batch, parts: Parts) -> Tensor:
    """Scaled forecast error of the newest sample; NaN where there is none."""
    newest = (graph.transform(batch.recent[:, -1]) - parts.loc) / parts.scale
    return squash(newest) - parts.predicted


def _set_piece_tails(graph: DetectorGraph, row: int, raw: Float64) -> None:
    """Knots of each piece and metric; differences below a tenth of a scale never count as evidence."""
    found = tails.knots(raw, LEVELS)
    found = np.maximum(found, 0.1 * np.arange(len(LEVELS)))
    found = np.maximum.accumulate(found + 0.02 * np.arange(len(LEVELS)), axis=-1)
    graph.piece_knots[row] = torch.from_numpy(found).float()
    floor = np.maximum(0.25 * (found[..., -1] - found[..., -2]), 0.1)
    graph.piece_tail[row] = torch.from_numpy(tails.tail_scale(raw, found[..., -1], floor)).float()


def _set_band(graph: DetectorGraph, row: int, residual: Float64) -> None:
    for j in range(residual.shape[1]):
        seen = residual[np.isfinite(residual[:, j]), j]
        if seen.size:
            graph.band[row, j] = torch.from_numpy(np.quantile(seen, [0.1, 0.5, 0.9])).float()


def _set_score_tails(graph: DetectorGraph, statistics: list[Float64]) -> None:
    everything = np.concatenate(statistics)
    for row, values in enumerate([*statistics, everything]):
        found = tails.knots(values, LEVELS)
        found = np.maximum.accumulate(found + 0.02 * np.arange(len(LEVELS)))
        graph.score_knots[row] = torch.from_numpy(found).float()
        floor = max(0.25 * float(found[-1] - found[-2]), 0.1)
        graph.score_tail[row] = float(tails.tail_scale(values, found[-1], floor))


def _scores(graph: DetectorGraph, row: int, pooled: Float64) -> Float64:
    from clusterheal_models.detector.graph import tail_score

    value = torch.from_numpy(pooled).float()
    score = tail_score(value, graph.score_knots[row], graph.levels, graph.score_tail[row], graph.shape)
    return score.double().numpy()


def _threshold(panel: FeaturePanel, config: DetectorConfig) -> float:
    """The score whose chance per step gives the stated false alarms per day if every step alarmed alone."""
    steps_per_day = 86_400e9 / panel.contract.step_ns
    return float(np.log10(max(steps_per_day / config.false_alarms_per_day, 10.0)))


def _found_share(
    graph: DetectorGraph, panel: FeaturePanel, n_train: int, n_known: int, rng: np.random.Generator
) -> Tensor:
    """Share of injected faults that score >= 0, 1, .. 8: shifts and ramps of 4 to 16 scales in one to three metrics."""
    scores = []
    n_features = len(panel.contract.features)
    per_entity = max(8, 512 // len(panel.entities))
    for e in range(len(panel.entities)):
        batch = Windows(panel, e).at(np.sort(rng.integers(n_train, n_known, per_entity)))
        recent = batch.recent.clone()
        alive = np.flatnonzero(torch.isfinite(recent).any(1).any(0).numpy())
        if not len(alive):
            continue
        for i in range(per_entity):
            metrics = rng.choice(alive, min(len(alive), int(rng.integers(1, 4))), replace=False)
            length = int(rng.integers(2, 20))
            shape = np.linspace(1 / length, 1, length) if rng.random() < 0.5 else np.ones(length)
            sign = rng.choice([-1.0, 1.0], len(metrics))
            step = rng.uniform(4, 16) * sign * graph.scale[e, metrics].numpy()
            unlogged = np.where(graph.is_log[metrics].numpy() > 0, 0.0, step)
            factor = np.where(graph.is_log[metrics].numpy() > 0, np.exp(np.clip(step, -8, 8)), 1.0)
            part = recent[i, -length:][:, metrics].numpy()
            recent[i, -length:, metrics] = torch.from_numpy(
                (part * factor ** shape[:, None] + shape[:, None] * unlogged).astype(np.float32)
            )
        scores.append(graph(recent, batch.seasonal, batch.timestamp, batch.entity_index)[0])
    if not scores or n_features == 0:
        return torch.ones(9)
    found = torch.cat(scores)
    return torch.tensor([float((found >= s).float().mean().clamp(min=1e-3)) for s in range(9)])


__all__ = ["PIECES", "Fitted", "fit_graph"]
