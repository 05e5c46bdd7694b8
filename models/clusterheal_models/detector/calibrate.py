"""Tails, bands, threshold and confidence: how large the pieces get under normal operation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clusterheal.contracts import FeaturePanel
from clusterheal_models.detector.config import PIECES, DetectorConfig
from clusterheal_models.detector.faults import inject
from clusterheal_models.detector.graph import DetectorGraph
from clusterheal_models.detector.operators import squash
from clusterheal_models.detector.tails import fit_tail
from clusterheal_models.detector.windows import Windows, stride

Float64 = npt.NDArray[np.float64]
FAULT_SIZES = (4.0, 8.0, 16.0)
FAULTS = 512
LEAST_WINDOWS = 256
RUN_STEPS = 10.0
LEAST_ALARM_SCORE = 2.1


class Calibration:
    """Windows of the known time, one entity at a time, and what the pieces make of them.

    `raw` per entity `(n, P, F)` with NaN where a metric had no fresh sample, `residual` `(n, F)` of the newest step;
    `held_back` marks windows whose origin lies in the calibration time.
    """

    def __init__(
        self, graph: DetectorGraph, panel: FeaturePanel, n_train: int, n_known: int, config: DetectorConfig
    ) -> None:
        self.graph, self.panel, self.config = graph, panel, config
        self.n_train, self.n_known = n_train, n_known
        self.raw: list[Float64] = []
        self.residual: list[Float64] = []
        self.held_back: list[npt.NDArray[np.bool_]] = []
        each = max(LEAST_WINDOWS, config.max_windows // len(panel.entities))
        for entity in range(len(panel.entities)):
            # Windows of the first steps look back into nothing.
            first = min(graph.layout.reach, n_train // 2)
            origins = np.concatenate([stride(first, n_train, each // 2), stride(n_train, n_known, each // 2)])
            self.held_back.append(origins >= n_train)
            self._look(entity, origins)

    def _look(self, entity: int, origins: npt.NDArray[np.int64]) -> None:
        raw, residual = [], []
        for batch in Windows(self.panel, entity).batches(origins, self.config.batch):
            parts = self.graph.parts(batch.recent, batch.seasonal, self.graph.row(batch.entity_index))
            values = parts.raw.double().numpy()
            values[np.broadcast_to(parts.fresh.numpy()[:, None] == 0, values.shape)] = np.nan
            raw.append(values)
            newest = (self.graph.transform(batch.recent[:, -1]) - parts.loc) / parts.scale
            residual.append((squash(newest) - parts.predicted).double().numpy())
        self.raw.append(np.concatenate(raw))
        self.residual.append(np.concatenate(residual))

    def run(self) -> None:
        """Fill the graph's tables, from the pieces up to the confidence."""
        n = len(self.panel.entities)
        for row in range(n + 1):
            self._set_pieces(row, self._pooled(self.raw) if row == n else self.raw[row])
            self._set_band(row, self._pooled(self.residual) if row == n else self.residual[row])
        pooled = [self._pool(row) for row in range(n)]
        for row in range(n + 1):
            values = np.concatenate(pooled) if row == n else pooled[row]
            _assign(self.graph.pool_knots, self.graph.pool_tail, row, values)
        statistics = [self._combine(row, pooled[row]) for row in range(n)]
        for row in range(n + 1):
            values = np.concatenate(statistics) if row == n else statistics[row]
            _assign(self.graph.score_knots, self.graph.score_tail, row, values, calibrated=True)
        self.statistics = statistics
        self.graph.threshold = torch.tensor(alarm_threshold(self.panel, self.config))
        self.graph.found_share = self._found_share()

    def alarm_steps(self) -> int:
        """How many windows of the calibration time pass the threshold."""
        passed = 0
        for row, values in enumerate(self.statistics):
            score = self.graph.score(torch.from_numpy(values).float(), torch.full((len(values),), row))
            passed += int((score >= self.graph.threshold).sum())
        return passed

    def days(self) -> float:
        """Entity-days that the looked-at windows of the calibration time stand for, one window a step."""
        return sum(len(s) for s in self.statistics) * self.panel.contract.step_ns / 86_400e9

    def _pooled(self, per_entity: list[Float64]) -> Float64:
        """All entities together, thinned to about what one entity has."""
        return np.concatenate([values[:: max(1, len(per_entity) // 4)] for values in per_entity])

    def _set_pieces(self, row: int, raw: Float64) -> None:
        _assign(self.graph.piece_knots, self.graph.piece_tail, row, raw)
        # The shock piece has one scale for all metrics: what moves most, not what moves more than usual for itself.
        shock = PIECES.index("shock")
        together = raw[:, shock]
        knots, tail = fit_tail(together.reshape(-1, 1))
        self.graph.piece_knots[row, shock] = torch.from_numpy(knots).float()
        self.graph.piece_tail[row, shock] = torch.from_numpy(tail).float()

    def _set_band(self, row: int, residual: Float64) -> None:
        for j in range(residual.shape[1]):
            seen = residual[np.isfinite(residual[:, j]), j]
            if seen.size:
                self.graph.band[row, j] = torch.from_numpy(np.quantile(seen, [0.1, 0.5, 0.9])).float()

    def _pool(self, row: int) -> Float64:
        raw = torch.from_numpy(np.nan_to_num(self.raw[row])).float()
        evidence = self.graph.evidence_of(raw, torch.full((len(raw),), row))
        return self.graph.pool(evidence).double().numpy()

    def _combine(self, row: int, pooled: Float64) -> Float64:
        """Entity statistics of the calibration time alone."""
        held = torch.from_numpy(pooled[self.held_back[row]]).float()
        return self.graph.combine(held, torch.full((len(held),), row)).double().numpy()

    def _found_share(self) -> Tensor:
        """Share of faults injected into windows of the calibration time that score at least 0, 1, .. 8.

        From one score to the next it falls by ten at most, which is what the chance under normal operation does: the
        few faults that score highest cannot make a higher score less sure than a lower one.
        """
        graph, rng, scores = self.graph, np.random.default_rng(self.config.seed), []
        each = max(6, FAULTS // len(self.panel.entities))
        for entity in range(len(self.panel.entities)):
            batch = Windows(self.panel, entity).at(np.sort(rng.integers(self.n_train, self.n_known, each)))
            scale = graph.scale[entity].double().numpy() * np.where(graph.is_log.numpy() > 0, 0.0, 1.0)
            faulty = [
                inject(window, scale, FAULT_SIZES[i % len(FAULT_SIZES)], rng)
                for i, window in enumerate(batch.recent.numpy())
            ]
            kept = [i for i, (_, metrics) in enumerate(faulty) if len(metrics)]
            if kept:
                recent = torch.from_numpy(np.stack([faulty[i][0] for i in kept]))
                rest = (batch.seasonal[kept], batch.timestamp[kept], batch.entity_index[kept])
                scores.append(graph(recent, *rest)[0])
        if not scores:
            return torch.ones(9)
        found = torch.cat(scores)
        shares = [float((found >= s).float().mean()) for s in range(9)]
        for s in range(1, len(shares)):
            shares[s] = max(shares[s], shares[s - 1] / 10)
        return torch.tensor(shares)


def alarm_threshold(panel: FeaturePanel, config: DetectorConfig) -> float:
    """The score whose chance per step gives the stated false alarms per day.

    Windows overlap, so steps that pass come in runs; one in `RUN_STEPS` begins one. Where a day has few steps, the
    floor decides: a short history cannot tell how rare rarer windows are.
    """
    steps_per_day = 86_400e9 / panel.contract.step_ns
    return max(LEAST_ALARM_SCORE, float(np.log10(steps_per_day / (RUN_STEPS * config.false_alarms_per_day))))


def _assign(knots: Tensor, tail: Tensor, row: int, values: Float64, *, calibrated: bool = False) -> None:
    found, scale = fit_tail(values, calibrated=calibrated)
    knots[row] = torch.from_numpy(np.asarray(found)).float()
    tail[row] = torch.from_numpy(np.asarray(scale)).float()
