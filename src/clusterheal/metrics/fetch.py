"""One part from the server: all features of an entity kind over the part's steps, entities as rows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import numpy as np

from clusterheal.contracts import EntityKind, FeatureContract, MetricFrame, entity_key
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.findings import Finding
from clusterheal.metrics.grid import NS_PER_MS, Labels
from clusterheal.metrics.parts import Extent, Part, kind_features
from clusterheal.metrics.tasks import gather
from clusterheal.metrics.windows import from_ms


class PartFetcher:
    """Fetches parts of one contract; what it notices about them is in `findings`."""

    def __init__(self, client: PrometheusClient, contract: FeatureContract) -> None:
        self.findings: dict[tuple[str, str], Finding] = {}
        self._client = client
        self._contract = contract
        self._step_ms = contract.step_ns // NS_PER_MS

    async def parts(self, todo: Sequence[Extent]) -> AsyncIterator[Part]:
        """Parts in order; the next one is being fetched while the caller has this one.

        Raises:
            InvalidInput, RetryableError, PermanentError: as `PrometheusClient.query_range`.
        """
        ahead: asyncio.Task[Part] | None = None
        try:
            for i, extent in enumerate(todo):
                current = ahead or asyncio.create_task(self.fetch(extent))
                ahead = current
                part = await current
                ahead = asyncio.create_task(self.fetch(todo[i + 1])) if i + 1 < len(todo) else None
                yield part
                del part
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def fetch(self, extent: Extent) -> Part:
        """One part.

        Raises:
            InvalidInput, RetryableError, PermanentError: as `PrometheusClient.query_range`.
        """
        kind = next(k for k in self._contract.entity_kinds if k.name == extent.kind)

        def keep(labels: Labels) -> bool:
            return extent.shard.keeps(entity_key(kind, labels))

        frames = await gather(
            [
                self._client.query_range(
                    self._contract.features[i].promql,
                    start=from_ms(extent.start_ms),
                    end=from_ms(extent.end_ms - self._step_ms),
                    step=self._contract.step,
                    keep=keep,
                )
                for i in kind_features(self._contract, extent.kind)
            ]
        )
        return await asyncio.to_thread(self._assemble, extent, kind, frames)

    def _assemble(self, extent: Extent, kind: EntityKind, frames: list[MetricFrame]) -> Part:
        keys = [[entity_key(kind, labels) for labels in frame.labels] for frame in frames]
        entities = sorted(set().union(*keys))
        rows = {key: i for i, key in enumerate(entities)}
        n_steps = (extent.end_ms - extent.start_ms) // self._step_ms
        values = np.full((len(frames), len(entities), n_steps), np.nan, np.float32)
        features = kind_features(self._contract, extent.kind)
        for f, own in enumerate(keys):
            if len(set(own)) != len(own):
                self._note_doubled(self._contract.features[features[f]].name, own)
            for key, series in zip(own, frames[f].values.T, strict=True):
                row = values[f, rows[key]]
                np.copyto(row, series, where=np.isnan(row))
        return Part(extent=extent, entities=tuple(entities), values=values)

    def _note_doubled(self, feature: str, keys: list[str]) -> None:
        doubled = sorted(key for key, count in Counter(keys).items() if count > 1)
        self.findings["entity-doubled", feature] = Finding(
            code="entity-doubled",
            severity="warning",
            subject=feature,
            detail=f"{len(doubled)} entities, such as {doubled[0]}, have more than one series; the first by labels "
            "counts, the others fill its gaps; aggregate in the catalogue",
        )
