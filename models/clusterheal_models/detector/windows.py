"""Sliding requests over a panel: exactly the tensors `contracts.model_inputs` cuts, for many origins at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clusterheal.contracts import FeaturePanel, Float32, Int64
from clusterheal_models.detector.memory import no_memory

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Requests for one entity at ascending origins, of which nothing is remembered."""

    recent: Tensor
    seasonal: Tensor
    timestamp: Tensor
    entity_index: Tensor
    origins: Index

    @classmethod
    def joined(cls, batches: Sequence[Batch], device: torch.device) -> Batch:
        """Several entities' requests as one, on `device`."""
        return cls(
            recent=torch.cat([batch.recent for batch in batches]).to(device),
            seasonal=torch.cat([batch.seasonal for batch in batches]).to(device),
            timestamp=torch.cat([batch.timestamp for batch in batches]).to(device),
            entity_index=torch.cat([batch.entity_index for batch in batches]).to(device),
            origins=np.concatenate([batch.origins for batch in batches]),
        )

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As `DetectorGraph.forward` takes them."""
        return self.recent, self.seasonal, self.timestamp, self.entity_index, no_memory(len(self.origins))


class Windows:
    """Cuts requests of one entity; rows before the panel begins are NaN."""

    def __init__(self, panel: FeaturePanel, entity: int, *, entity_index: int | None = None) -> None:
        self._spec = panel.contract.window
        self._timestamps = panel.timestamps
        self._entity_index = entity if entity_index is None else entity_index
        pad = self._spec.history_steps + self._spec.seasonal_steps
        values = panel.values[entity]
        self._padded: Float32 = np.concatenate(
            [
                np.full((pad, values.shape[1]), np.nan, np.float32),
                values,
                np.full((self._spec.seasonal_steps, values.shape[1]), np.nan, np.float32),
            ]
        )
        self._pad = pad

    def _blocks(self, starts: Index, length: int) -> Float32:
        """`(n, length, n_features)` beginning at panel rows `starts`."""
        cut: Float32 = self._padded[(starts + self._pad)[:, None] + np.arange(length)]
        return cut

    def at(self, origins: Index) -> Batch:
        spec = self._spec
        seasonal = []
        for lag in spec.season_lags:
            starts = origins + 1 - lag * spec.season_steps - spec.seasonal_before
            block = self._blocks(starts, spec.seasonal_steps)
            overlap = lag * spec.season_steps + spec.seasonal_before
            if overlap < spec.seasonal_steps:  # a season shorter than the block must not reach past the origin
                block[:, overlap:] = np.nan
            seasonal.append(block)
        n_features = self._padded.shape[1]
        stacked = (
            np.stack(seasonal, axis=1)
            if seasonal
            else np.empty((len(origins), 0, spec.seasonal_steps, n_features), np.float32)
        )
        times: Int64 = self._timestamps[origins]
        return Batch(
            recent=torch.from_numpy(self._blocks(origins - spec.recent_steps + 1, spec.recent_steps)),
            seasonal=torch.from_numpy(stacked),
            timestamp=torch.from_numpy(times),
            entity_index=torch.full((len(origins),), self._entity_index, dtype=torch.int64),
            origins=origins,
        )

    def batches(self, origins: Index, size: int) -> Iterator[Batch]:
        for start in range(0, len(origins), size):
            yield self.at(origins[start : start + size])


def stride(first: int, last: int, at_most: int) -> Index:
    """Rows `first..last-1`, thinned evenly to at most `at_most`."""
    step = max(1, -(-(last - first) // max(at_most, 1)))
    return np.arange(first, last, step, dtype=np.int64)
