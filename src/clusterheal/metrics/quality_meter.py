"""Counts the quality of parts while they pass, so that nothing is read twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import FeatureContract, FeatureSpec, Float32
from clusterheal.metrics.findings import Finding
from clusterheal.metrics.grid import NS_PER_MS
from clusterheal.metrics.parts import Part, kind_features
from clusterheal.metrics.quality import FeatureQuality, QualityReport, ServerQuality, Thresholds, judge
from clusterheal.metrics.windows import from_ms

BUCKETS = 200
"""Stretches of time into which plots divide the window."""
BLOCK_CELLS = 1 << 18
"""Cells that are copied at a time, so that the copies stay small beside the part."""
ROUNDING = 1e-6
"""A ratio of rates may pass its bound by what floating point rounds."""


class QualityMeter:
    """Takes the parts of one run in the order of their time."""

    def __init__(self, contract: FeatureContract, start_ms: int, end_ms: int) -> None:
        self._contract = contract
        self._start_ms, self._end_ms = start_ms, end_ms
        self._step_ms = contract.step_ns // NS_PER_MS
        self._alive: dict[str, tuple[int, int]] = {}
        self._states = [_State(f) for f in contract.features]
        steps = max(1, (end_ms - start_ms) // self._step_ms)
        self._buckets = _Buckets(len(contract.features), min(BUCKETS, steps), steps)

    def add(self, part: Part) -> None:
        """Count a part in."""
        offset = (part.extent.start_ms - self._start_ms) // self._step_ms
        present = ~np.isnan(part.values)
        any_feature: npt.NDArray[np.bool_] = np.logical_or.reduce(present, axis=0)
        for row in np.flatnonzero(np.logical_or.reduce(any_feature, axis=1)):
            steps = np.flatnonzero(any_feature[row])
            first, _ = self._alive.get(part.entities[row], (offset + int(steps[0]), 0))
            self._alive[part.entities[row]] = (first, offset + int(steps[-1]))
        for f, feature in enumerate(kind_features(self._contract, part.extent.kind)):
            self._states[feature].add(part.entities, part.values[f], present[f], offset)
            self._buckets.add(feature, part.values[f], present[f], offset)

    def report(
        self,
        thresholds: Thresholds,
        *,
        server: ServerQuality,
        resets: Mapping[str, int | None],
        findings: Sequence[Finding] = (),
    ) -> QualityReport:
        """Everything so far. `resets`: counter resets by feature; `findings`: what others noticed."""
        features = tuple(s.quality(self._alive, resets.get(s.spec.name)) for s in self._states)
        expected = sum(s.expected(self._alive) for s in self._states)
        coverage = sum(f.samples for f in features) / expected if expected else None
        width = self._buckets.width * self._step_ms
        return QualityReport(
            start=from_ms(self._start_ms),
            end=from_ms(self._end_ms),
            step=self._contract.step,
            contract_sha256=self._contract.sha256,
            coverage=coverage,
            features=features,
            server=server,
            findings=(*findings, *judge(features, coverage, server, thresholds, self._contract.step)),
            bucket_starts=tuple(from_ms(self._start_ms + i * width) for i in range(self._buckets.count)),
            timeline={s.spec.name: self._buckets.timeline(i) for i, s in enumerate(self._states) if s.rows},
        )


class _State:
    """Running counts of one feature, one number per entity."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self.rows: dict[str, int] = {}
        self._count = np.zeros(0, np.int64)
        self._last = np.zeros(0, np.int64)
        self._low = np.zeros(0, np.float32)
        self._high = np.zeros(0, np.float32)
        self._gaps = self._longest = self._out = self._infinite = 0

    def add(self, entities: Sequence[str], values: Float32, present: npt.NDArray[np.bool_], offset: int) -> None:
        rows = np.array([self.rows.setdefault(e, len(self.rows)) for e in entities], np.int64)
        self._grow()
        counts = present.sum(axis=1)
        some = counts > 0
        if not some.any():
            return
        own = rows[some]
        if len(own) < len(rows):
            values, present = values[some], present[some]
        self._count_gaps(own, present, offset)
        self._count[own] += counts[some]
        self._low[own] = np.fmin(self._low[own], np.fmin.reduce(values, axis=1))
        self._high[own] = np.fmax(self._high[own], np.fmax.reduce(values, axis=1))
        self._infinite += int(np.isinf(values).sum())
        for bound, outside in ((self.spec.low, np.less), (self.spec.high, np.greater)):
            if bound is not None:
                slack = ROUNDING * max(1.0, abs(bound)) * (1 if outside is np.greater else -1)
                self._out += int(outside(values, np.float32(bound + slack)).sum())

    def _grow(self) -> None:
        more = len(self.rows) - len(self._count)
        self._count = np.append(self._count, np.zeros(more, np.int64))
        self._last = np.append(self._last, np.full(more, -1, np.int64))
        self._low = np.append(self._low, np.full(more, np.nan, np.float32))
        self._high = np.append(self._high, np.full(more, np.nan, np.float32))

    def _count_gaps(self, own: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], offset: int) -> None:
        first = present.argmax(axis=1) + offset
        last = present.shape[1] - 1 - present[:, ::-1].argmax(axis=1) + offset
        before = self._last[own]
        lengths = (first - before - 1)[before >= 0]
        broken = np.flatnonzero(present.sum(axis=1) < last - first + 1)
        if len(broken):
            row, step = np.nonzero(present[broken])
            inner = np.diff(step)[np.diff(row) == 0] - 1
            lengths = np.concatenate([lengths, inner])
        lengths = lengths[lengths > 0]
        self._gaps += len(lengths)
        self._longest = max(self._longest, int(lengths.max(initial=0)))
        self._last[own] = last

    def expected(self, alive: Mapping[str, tuple[int, int]]) -> int:
        """Samples there would be without gaps, of the entities that have any."""
        return sum(alive[e][1] - alive[e][0] + 1 for e, row in self.rows.items() if self._count[row])

    def quality(self, alive: Mapping[str, tuple[int, int]], resets: int | None) -> FeatureQuality:
        samples, expected = int(self._count.sum()), self.expected(alive)
        live = self._count > 0
        return FeatureQuality(
            name=self.spec.name,
            kind=self.spec.entity_kind,
            unit=self.spec.unit,
            entities=int(live.sum()),
            samples=samples,
            coverage=samples / expected if expected else None,
            gaps=self._gaps,
            longest_gap_steps=self._longest,
            constant=int(((self._low == self._high) & (self._count > 1)).sum()),
            dead=int((~live).sum()),
            out_of_range=self._out,
            infinite=self._infinite,
            low=_finite(np.fmin.reduce(self._low, initial=np.nan)),
            high=_finite(np.fmax.reduce(self._high, initial=np.nan)),
            counter_resets=resets,
        )


class _Buckets:
    """Counts and sums per feature and stretch of time, for plots."""

    def __init__(self, n_features: int, most: int, steps: int) -> None:
        self.width = -(-steps // most)
        self.count = -(-steps // self.width)
        shape = (n_features, self.count)
        self._cells, self._samples = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._sum = np.zeros(shape)
        self._low, self._high = np.full(shape, np.nan), np.full(shape, np.nan)

    def add(self, feature: int, values: Float32, present: npt.NDArray[np.bool_], offset: int) -> None:
        steps = np.arange(offset, offset + values.shape[1]) // self.width
        cuts = np.concatenate([[0], np.flatnonzero(np.diff(steps)) + 1])
        living = np.flatnonzero(present.any(axis=1))
        per_block = max(1, BLOCK_CELLS // max(1, values.shape[1]))
        for first in range(0, len(living), per_block):
            rows = living[first : first + per_block]
            self._add_rows(feature, values[rows], present[rows], cuts, steps)

    def _add_rows(
        self,
        feature: int,
        values: Float32,
        present: npt.NDArray[np.bool_],
        cuts: npt.NDArray[np.int64],
        steps: npt.NDArray[np.int64],
    ) -> None:
        which = steps[cuts]
        finite = np.where(np.isfinite(values), values, np.nan)
        self._cells[feature, which] += np.add.reduceat(np.full(len(steps), len(values)), cuts)
        self._samples[feature, which] += np.add.reduceat(present.sum(axis=0), cuts)
        self._sum[feature, which] += np.add.reduceat(np.nansum(finite, axis=0, dtype=np.float64), cuts)
        low, high = np.fmin.reduce(finite, axis=0), np.fmax.reduce(finite, axis=0)
        self._low[feature, which] = np.fmin(self._low[feature, which], np.fmin.reduceat(low, cuts))
        self._high[feature, which] = np.fmax(self._high[feature, which], np.fmax.reduceat(high, cuts))

    def timeline(self, feature: int) -> dict[str, list[float | None]]:
        with np.errstate(invalid="ignore", divide="ignore"):
            coverage = self._samples[feature] / self._cells[feature]
            mean = self._sum[feature] / self._samples[feature]
        rows = {"coverage": coverage, "low": self._low[feature], "mean": mean, "high": self._high[feature]}
        return {name: [_finite(x) for x in row] for name, row in rows.items()}


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
