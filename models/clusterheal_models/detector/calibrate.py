"""Tails, bands, threshold and confidence: how large the pieces get under normal operation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clusterheal.contracts import FeaturePanel
from clusterheal_models.detector.config import DetectorConfig
from clusterheal_models.detector.faults import inject
from clusterheal_models.detector.graph import DetectorGraph
from clusterheal_models.detector.memory import RARE, no_memory
from clusterheal_models.detector.operators import squash
from clusterheal_models.detector.tails import fit_tail, fit_typical_tail
from clusterheal_models.detector.windows import Batch, Windows, stride

Index = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
FAULT_SIZES = (4.0, 8.0, 16.0)
FAULTS = 512
LEAST_WINDOWS = 256
MOST_BLOCKS = 16
STRANGERS = 4
LEAST_SCALE = 1e-9
LEAST_RARE = 0.3
ALARM_RATIO, ALARM_RATIO_PER_DECADE = 1.65, 0.83
ALARM_SCORE = 5.0


class Calibration:
    """Windows of the known time, one entity at a time, and what the pieces make of them.

    `raw` per entity `(n, P, F)` with NaN where a metric had no fresh sample, `residual` `(n, F)` of the newest step;
    `held_back` marks windows whose origin lies in the calibration time, `blocks` tells stretches of a season or more
    apart. The last of each has windows of all entities, looked at as if nobody knew them: they calibrate the row for
    entities without history. Windows are looked at on `device`, those of several entities at once where they are few.
    `states`, `events` are per entity, of the calibration time, once `run` has been called.
    """

    def __init__(
        self,
        graph: DetectorGraph,
        panel: FeaturePanel,
        n_train: int,
        n_known: int,
        config: DetectorConfig,
        device: torch.device,
    ) -> None:
        self.graph, self.panel, self.config = graph, panel, config
        self.n_train, self.n_known = n_train, n_known
        self.raw: list[Float64] = []
        self.residual: list[Float64] = []
        self.held_back: list[npt.NDArray[np.bool_]] = []
        self.blocks: list[Index] = []
        self.states: list[Float64] = []
        self.events: list[Float64] = []
        seasons = min(MOST_BLOCKS, max(1, n_known // panel.contract.window.season_steps))
        each = max(LEAST_WINDOWS, config.max_windows // len(panel.entities))
        # Windows of the first steps look back into nothing.
        first = min(graph.layout.reach, n_train // 2)
        origins = np.concatenate([stride(first, n_train, each // 2), stride(n_train, n_known, each // 2)])
        graph.to(device)
        graph.all_known = True
        together = max(1, config.batch // len(origins))
        for first_entity in range(0, len(panel.entities), together):
            some_entities = range(first_entity, min(first_entity + together, len(panel.entities)))
            windows = [(entity, origins) for entity in some_entities]
            for (entity, _), looked in zip(windows, self._look(windows, known=True), strict=True):
                self._add([(entity, origins)], [looked], seasons)
        graph.all_known = False
        some = [
            (entity, origins[entity % thin :: thin])
            for thin in [-(-len(panel.entities) // STRANGERS)]
            for entity in range(len(panel.entities))
        ]
        # Strangers may move far less than the known ones do: their scale is their window's alone here.
        least = graph.scale[-1].clone()
        graph.scale[-1] = LEAST_SCALE
        self._add(some, self._look(some, known=False), seasons)
        graph.scale[-1] = least
        graph.to("cpu")

    def _add(self, windows: list[tuple[int, Index]], looked: list[tuple[Float64, Float64]], seasons: int) -> None:
        """Windows `(entity, origins)` that are to be judged by one row of the tables, and what was seen in them."""
        self.raw.append(np.concatenate([raw for raw, _ in looked]))
        self.residual.append(np.concatenate([residual for _, residual in looked]))
        self.held_back.append(np.concatenate([origins >= self.n_train for _, origins in windows]))
        blocks = [entity * seasons + origins * seasons // self.n_known for entity, origins in windows]
        self.blocks.append(np.concatenate(blocks))

    def _look(self, windows: list[tuple[int, Index]], *, known: bool) -> list[tuple[Float64, Float64]]:
        """Raw deviations and residuals of each entity's windows; a batch holds those of several entities."""
        raw, residual = [], []
        for batch in self._batches(windows, known=known):
            parts = self.graph.parts(batch.recent, batch.seasonal, self.graph.row(batch.entity_index))
            absent = (parts.fresh == 0).unsqueeze(1)
            raw.append(parts.raw.masked_fill(absent, torch.nan).cpu().double().numpy())
            newest = (self.graph.transform(batch.recent[:, -1]) - parts.loc) / parts.scale
            residual.append((squash(newest) - parts.predicted).cpu().double().numpy())
        ends = np.cumsum([len(origins) for _, origins in windows])[:-1]
        return list(zip(*(np.split(np.concatenate(found), ends) for found in (raw, residual)), strict=True))

    def _batches(self, windows: list[tuple[int, Index]], *, known: bool) -> Iterator[Batch]:
        device, size, joined = self.graph.loc.device, self.config.batch, []
        for entity, origins in windows:
            for batch in Windows(self.panel, entity, entity_index=None if known else -1).batches(origins, size):
                joined.append(batch)
                if sum(len(b.origins) for b in joined) >= size:
                    yield Batch.joined(joined, device)
                    joined = []
        if joined:
            yield Batch.joined(joined, device)

    def run(self) -> None:
        """Fill the graph's tables, from the pieces up to the confidence."""
        for row in range(len(self.raw)):
            self._set_pieces(row)
            self._set_band(row, self.residual[row])
            pooled = self._pool(row)
            _assign(self.graph.pool_knots, self.graph.pool_tail, row, pooled)
            states, events = self._combine(row, pooled)
            held = self.held_back[row]
            _assign(self.graph.score_knots, self.graph.score_tail, row, states[held], calibrated=True)
            self._set_memory(row, states[held], events[held], rare=_rare(events))
            self.states.append(states[held])
            self.events.append(events[held])
        # The last row is of windows that others judge; they are no time of their own.
        self.states.pop()
        self.events.pop()
        self.graph.alarm_ratio = torch.tensor(alarm_ratio(self.config))
        self.graph.alarm_score = torch.tensor(ALARM_SCORE)
        per_day = self.config.false_alarms_per_day + self.config.real_alarms_per_day
        self.graph.alarms_per_step = torch.tensor(per_day * self.panel.contract.step_ns / 86_400e9)
        self.graph.found_share = self._found_share()

    def alarm_steps(self) -> int:
        """How many windows of the calibration time pass the threshold."""
        passed = 0
        for row, (state, event) in enumerate(zip(self.states, self.events, strict=True)):
            index, seen = torch.full((len(state),), row), torch.ones(len(state))
            both = torch.from_numpy(state).float(), torch.from_numpy(event).float()
            kept = self.graph.remember(*both, seen, no_memory(len(state)), index)
            now = self.graph.score(kept.above, kept.ratio, index)
            passed += int((self.graph.loudness(kept.ratio, now) >= 1).sum())
        return passed

    def days(self) -> float:
        """Entity-days that the looked-at windows of the calibration time stand for, one window a step."""
        return sum(len(s) for s in self.states) * self.panel.contract.step_ns / 86_400e9

    def _set_pieces(self, row: int) -> None:
        blocks = [self.raw[row][self.blocks[row] == block] for block in np.unique(self.blocks[row])]
        found, scale = fit_typical_tail(blocks)
        self.graph.piece_knots[row] = torch.from_numpy(found).float()
        self.graph.piece_tail[row] = torch.from_numpy(scale).float()
        together = self.raw[row].transpose(0, 2, 1)
        _assign(self.graph.common_knots, self.graph.common_tail, row, together.reshape(-1, together.shape[2]))

    def _set_band(self, row: int, residual: Float64) -> None:
        for j in range(residual.shape[1]):
            seen = residual[np.isfinite(residual[:, j]), j]
            if seen.size:
                self.graph.band[row, j] = torch.from_numpy(np.quantile(seen, [0.1, 0.5, 0.9])).float()

    def _set_memory(self, row: int, states: Float64, events: Float64, *, rare: float) -> None:
        """Where the memories of an entity begin, and how far they move with a step."""
        graph, config = self.graph, self.config
        graph.state_middle[row], graph.state_step[row] = _pace(states, config.baseline_steps)
        graph.event_middle[row], graph.event_step[row] = _pace(events, config.event_steps)
        graph.event_rare[row] = max(rare - float(graph.event_middle[row]), LEAST_RARE)
        graph.rare_step[row] = graph.event_rare[row] / config.rare_steps

    def _pool(self, row: int) -> Float64:
        raw = torch.from_numpy(np.nan_to_num(self.raw[row])).float()
        evidence = self.graph.evidence_of(raw, torch.full((len(raw),), row))
        return self.graph.pool(evidence).double().numpy()

    def _combine(self, row: int, pooled: Float64) -> tuple[Float64, Float64]:
        state, event = self.graph.combine(torch.from_numpy(pooled).float(), torch.full((len(pooled),), row))
        return state.double().numpy(), event.double().numpy()

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
                rest = (batch.seasonal[kept], batch.timestamp[kept], batch.entity_index[kept], no_memory(len(kept)))
                scores.append(graph(recent, *rest)[0])
        if not scores:
            return torch.ones(9)
        found = torch.cat(scores)
        shares = [float((found >= s).float().mean()) for s in range(9)]
        for s in range(1, len(shares)):
            shares[s] = max(shares[s], shares[s - 1] / 10)
        return torch.tensor(shares)


def alarm_ratio(config: DetectorConfig) -> float:
    """How many times what is rare for an entity makes an alarm, for the stated false alarms per day.

    Measured on recorded telemetry of five kinds, from a step of 60 s to one of an hour: see
    docs/models/anomaly-benchmark.md.
    """
    return max(1.0, ALARM_RATIO - ALARM_RATIO_PER_DECADE * float(np.log10(config.false_alarms_per_day)))


def _pace(known: Float64, steps: float) -> tuple[float, float]:
    """The median of a statistic, and the step with which a baseline goes from there to its upper tenth in `steps`."""
    middle = float(np.median(known))
    return middle, (float(np.quantile(known, 0.9)) - middle) / steps


def _rare(events: Float64) -> float:
    """What events exceed rarely: the median over stretches of the known time, so that a deploy counts little."""
    parts = np.array_split(events, int(np.clip(len(events) // LEAST_WINDOWS, 1, MOST_BLOCKS)))
    return float(np.median([np.quantile(part, RARE) for part in parts]))


def _assign(knots: Tensor, tail: Tensor, row: int, values: Float64, *, calibrated: bool = False) -> None:
    found, scale = fit_tail(values, calibrated=calibrated)
    knots[row] = torch.from_numpy(np.asarray(found)).float()
    tail[row] = torch.from_numpy(np.asarray(scale)).float()
