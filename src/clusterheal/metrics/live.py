"""The newest window of every entity, kept up to date with small queries. Needs neither pyarrow nor pandas."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import (
    FeatureContract,
    FeaturePanel,
    Float32,
    Int64,
    MetricFrame,
    ModelInputs,
    WindowSpec,
    entity_key,
)
from clusterheal.errors import InvalidInput
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.grid import NS_PER_MS
from clusterheal.metrics.tasks import gather
from clusterheal.metrics.windows import from_ms, step_ms, to_ms

log = logging.getLogger(__name__)

REFRESH_STEPS = 2
"""Newest steps that are asked for again: a scrape may arrive after its step was first evaluated."""


class LiveWindow:
    """Feature values up to now for the entities that are alive.

    Models look at the recent steps and at the same time on some earlier days, so only those steps are fetched and
    held: a few hundred per series instead of ten thousand. After the first call only new steps are fetched.

    `follow` moves the grid so that the newest step is less than `follow` before the wanted end, rather than less than
    one step before it. Each move of the grid to another phase fetches all steps again.
    """

    def __init__(self, client: PrometheusClient, contract: FeatureContract, *, follow: timedelta | None = None) -> None:
        self.contract = contract
        self._client = client
        self._step_ms = step_ms(contract.step)
        self._follow_ms = step_ms(follow) if follow is not None else self._step_ms
        if self._step_ms % self._follow_ms:
            raise InvalidInput(f"the step {contract.step} must be a multiple of follow, got {follow}")
        self._offsets = needed_offsets(contract.window)
        self._kinds = {k.name: k for k in contract.entity_kinds}
        self._entities: dict[str, int] = {}
        self._values: Float32 = self._blank(0)
        self._origin_ms: int | None = None
        self._lock = asyncio.Lock()

    async def panel(self, end: datetime) -> FeaturePanel:
        """`contract.window.history_steps` steps, the newest at or just before `end`; steps no model looks at are NaN.

        Entities without any sample in the recent steps are left out.

        Raises:
            InvalidInput, RetryableError, PermanentError: as `PrometheusClient.query_range`; what was held stays.
        """
        async with self._lock:
            origin = await self._advance(end)
        entities, held = self._alive()
        length = max(self.contract.window.history_steps, 1 - int(self._offsets[0]))
        values = np.full((len(entities), length, len(self.contract.features)), np.nan, np.float32)
        values[:, length - 1 + self._offsets] = held
        back = np.arange(length - 1, -1, -1, dtype=np.int64)
        return FeaturePanel(
            values=values,
            timestamps=(origin - back * self._step_ms) * NS_PER_MS,
            entities=entities,
            contract=self.contract,
        )

    async def inputs(self, end: datetime) -> ModelInputs:
        """The request for every entity that is alive: as `model_inputs(await panel(end))`, in far less memory.

        Raises:
            InvalidInput, RetryableError, PermanentError: as `panel`.
        """
        async with self._lock:
            origin = await self._advance(end)
        entities, held = self._alive()
        window = self.contract.window
        recent = self._take(held, 1 - window.recent_steps, window.recent_steps)
        starts = [1 - lag * window.season_steps - window.seasonal_before for lag in window.season_lags]
        blocks = [self._take(held, start, window.seasonal_steps) for start in starts]
        shape = (len(entities), len(blocks), window.seasonal_steps, len(self.contract.features))
        return ModelInputs(
            recent=recent,
            seasonal=np.stack(blocks, axis=1) if blocks else np.empty(shape, np.float32),
            timestamp=np.full(len(entities), origin * NS_PER_MS, np.int64),
            entity=entities,
        )

    def _blank(self, n_entities: int) -> Float32:
        return np.full((n_entities, len(self._offsets), len(self.contract.features)), np.nan, np.float32)

    def _take(self, held: Float32, start: int, count: int) -> Float32:
        """`(n_entities, count, n_features)` from offset `start`; NaN after the origin."""
        wanted = np.arange(start, start + count)
        out = np.full((held.shape[0], count, held.shape[2]), np.nan, np.float32)
        past = wanted <= 0
        out[:, past] = held[:, np.searchsorted(self._offsets, wanted[past])]
        return out

    def _alive(self) -> tuple[tuple[str, ...], Float32]:
        recent = self._offsets > -self.contract.window.recent_steps
        alive = _any_sample(self._values[:, recent])
        entities = tuple(sorted(e for e, row in self._entities.items() if alive[row]))
        return entities, self._values[[self._entities[e] for e in entities]]

    async def _advance(self, end: datetime) -> int:
        """Bring what is held up to `end`; returns the origin in milliseconds."""
        origin = to_ms(end) // self._follow_ms * self._follow_ms
        values, missing = self._shifted(origin)
        windows = [(int(run[0]), len(run)) for run in _runs(self._offsets[missing])]
        frames = await gather([self._fetch(f, origin, first, n) for f in self._promql() for first, n in windows])
        entities = dict(self._entities)
        grown: list[Float32] = [values]
        jobs = [(f, first, n) for f in range(len(self.contract.features)) for first, n in windows]
        rows = [self._rows_of(frame, f, entities) for frame, (f, _, _) in zip(frames, jobs, strict=True)]
        grown.append(self._blank(len(entities) - len(values)))
        values = np.concatenate(grown)
        for frame, own, (f, first, n) in zip(frames, rows, jobs, strict=True):
            at = int(np.searchsorted(self._offsets, first))
            values[own, at : at + n, f] = frame.values.T
        self._keep(values, entities, origin)
        return origin

    def _shifted(self, origin: int) -> tuple[Float32, npt.NDArray[np.bool_]]:
        """What is held, moved to the new origin, and which offsets have to be fetched."""
        everything = np.ones(len(self._offsets), bool)
        if self._origin_ms is None or (origin - self._origin_ms) % self._step_ms:
            return self._blank(len(self._entities)), everything
        moved = (origin - self._origin_ms) // self._step_ms
        source = np.searchsorted(self._offsets, self._offsets + moved)
        inside = source < len(self._offsets)
        known = inside.copy()
        known[inside] = self._offsets[source[inside]] == self._offsets[inside] + moved
        values = self._blank(len(self._entities))
        values[:, known] = self._values[:, source[known]]
        return values, ~known | (self._offsets > -REFRESH_STEPS)

    def _promql(self) -> list[str]:
        return [f.promql for f in self.contract.features]

    async def _fetch(self, promql: str, origin: int, first: int, n_steps: int) -> MetricFrame:
        start = origin + first * self._step_ms
        return await self._client.query_range(
            promql,
            start=from_ms(start),
            end=from_ms(start + (n_steps - 1) * self._step_ms),
            step=self.contract.step,
        )

    def _rows_of(self, frame: MetricFrame, feature: int, entities: dict[str, int]) -> list[int]:
        kind = self._kinds[self.contract.features[feature].entity_kind]
        return [entities.setdefault(entity_key(kind, labels), len(entities)) for labels in frame.labels]

    def _keep(self, values: Float32, entities: dict[str, int], origin: int) -> None:
        """Hold the new state; entities without any sample are forgotten."""
        some = _any_sample(values)
        kept = [e for e, row in entities.items() if some[row]]
        self._values = values[[entities[e] for e in kept]]
        self._entities = {e: row for row, e in enumerate(kept)}
        self._origin_ms = origin


def needed_offsets(window: WindowSpec) -> Int64:
    """Steps relative to the origin (0, then negative) that `model_inputs` looks at, ascending."""
    needed = set(range(1 - window.recent_steps, 1))
    for lag in window.season_lags:
        start = 1 - lag * window.season_steps - window.seasonal_before
        needed |= {o for o in range(start, start + window.seasonal_steps) if o <= 0}
    return np.array(sorted(needed), np.int64)


def _any_sample(values: Float32) -> npt.NDArray[np.bool_]:
    """Per entity: is there one number in it?"""
    numbers = np.count_nonzero(~np.isnan(values), axis=(1, 2))
    return np.asarray(numbers > 0)


def _runs(offsets: Int64) -> list[Int64]:
    """Split ascending offsets into stretches without gaps."""
    if not len(offsets):
        return []
    return np.split(offsets, np.flatnonzero(np.diff(offsets) != 1) + 1)
