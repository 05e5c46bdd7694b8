"""Metric data in memory: per series (`MetricFrame`) and per entity and feature (`FeaturePanel`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from clusterheal.contracts.features import EntityKind, FeatureContract, WindowSpec
from clusterheal.errors import InvalidInput

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def _require_grid(timestamps: Int64, step_ns: int | None = None) -> None:
    if timestamps.ndim != 1 or timestamps.dtype != np.int64:
        raise InvalidInput(f"timestamps must be int64 (n_steps,), got {timestamps.dtype} {timestamps.shape}")
    if len(timestamps) > 1:
        gaps = np.diff(timestamps)
        expected = step_ns if step_ns is not None else int(gaps[0])
        if expected <= 0 or not bool((gaps == expected).all()):
            raise InvalidInput(
                "timestamps must rise by one even step; a missing sample is a NaN value, not a missing row"
            )


@dataclass(frozen=True, kw_only=True)
class MetricFrame:
    """Series on one even time grid, as Prometheus gave them.

    `values`: float32 `(n_steps, n_series)`, oldest first, unscaled, NaN = no sample.
    `timestamps`: int64 `(n_steps,)`, nanoseconds since the epoch, UTC, evenly spaced.
    `labels`: one mapping of Prometheus labels per series.
    """

    values: Float32
    timestamps: Int64
    labels: tuple[Mapping[str, str], ...]

    def __post_init__(self) -> None:
        if self.values.dtype != np.float32 or self.values.shape != (len(self.timestamps), len(self.labels)):
            raise InvalidInput(
                f"values must be float32 ({len(self.timestamps)}, {len(self.labels)}), "
                f"got {self.values.dtype} {self.values.shape}"
            )
        _require_grid(self.timestamps)


@dataclass(frozen=True, kw_only=True)
class FeaturePanel:
    """The contract's features for a set of entities on one time grid: what models train on and score.

    `values`: float32 `(n_entities, n_steps, n_features)`, oldest first, unscaled, NaN = no sample. A feature
    of another entity kind is NaN throughout.
    `timestamps`: int64 `(n_steps,)`, nanoseconds since the epoch, UTC, `contract.step` apart.
    `entities`: one key per entity, as `entity_key` makes it.
    """

    values: Float32
    timestamps: Int64
    entities: tuple[str, ...]
    contract: FeatureContract

    def __post_init__(self) -> None:
        expected = (len(self.entities), len(self.timestamps), len(self.contract.features))
        if self.values.dtype != np.float32 or self.values.shape != expected:
            raise InvalidInput(f"values must be float32 {expected}, got {self.values.dtype} {self.values.shape}")
        _require_grid(self.timestamps, self.contract.step_ns)

    def between(self, start_ns: int | None, end_ns: int | None) -> FeaturePanel:
        """The part with `start_ns <= timestamp < end_ns` (a view, not a copy)."""
        first = 0 if start_ns is None else int(np.searchsorted(self.timestamps, start_ns))
        last = len(self.timestamps) if end_ns is None else int(np.searchsorted(self.timestamps, end_ns))
        return FeaturePanel(
            values=self.values[:, first:last],
            timestamps=self.timestamps[first:last],
            entities=self.entities,
            contract=self.contract,
        )


@dataclass(frozen=True, kw_only=True)
class TimeSplit:
    """Where training time ends and where calibration time ends; what follows is evaluation time.

    Both are nanoseconds since the epoch, UTC. Nothing after a boundary may influence what is fitted before it.
    """

    train_end_ns: int
    calibration_end_ns: int

    @classmethod
    def by_fraction(cls, timestamps: Int64, *, train: float = 0.7, calibration: float = 0.15) -> TimeSplit:
        """Split by shares of the time covered; the rest is for evaluation.

        Raises:
            InvalidInput: shares that leave one of the three parts empty.
        """
        n = len(timestamps)
        first, second = int(n * train), int(n * (train + calibration))
        if not 0 < first < second < n:
            raise InvalidInput(f"cannot split {n} steps into train {train}, calibration {calibration} and a rest")
        return cls(train_end_ns=int(timestamps[first]), calibration_end_ns=int(timestamps[second]))


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """The tensors of one request, the same for both models, at training and at serving.

    `recent`: float32 `(batch, recent_steps, n_features)`, oldest first, unscaled, NaN = no sample.
    `seasonal`: float32 `(batch, n_lags, seasonal_steps, n_features)`, one block per `season_lags` entry.
    `timestamp`: int64 `(batch,)`, nanoseconds of the newest recent step (the origin).
    `entity`: the entity key of each row.
    """

    recent: Float32
    seasonal: Float32
    timestamp: Int64
    entity: tuple[str, ...]

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """By the names that the served models give their inputs."""
        return {
            "recent": self.recent,
            "seasonal": self.seasonal,
            "timestamp": self.timestamp,
            "entity": np.array(self.entity, dtype=object),
        }


def model_inputs(panel: FeaturePanel, *, origin: int = -1) -> ModelInputs:
    """Cut the request for every entity with its newest sample at row `origin` of the panel.

    History that the panel does not reach is NaN, so a short history is a weaker request, not an error.

    Raises:
        InvalidInput: an empty panel or an origin outside it.
    """
    n_steps = len(panel.timestamps)
    last = n_steps + origin if origin < 0 else origin
    if not 0 <= last < n_steps:
        raise InvalidInput(f"origin {origin} is outside a panel of {n_steps} steps")
    window = panel.contract.window
    recent = _cut(panel.values, last - window.recent_steps + 1, window.recent_steps, last)
    blocks = [
        _cut(
            panel.values,
            last + 1 - lag * window.season_steps - window.seasonal_before,
            window.seasonal_steps,
            last,
        )
        for lag in window.season_lags
    ]
    empty = np.empty((len(panel.entities), 0, window.seasonal_steps, len(panel.contract.features)), np.float32)
    return ModelInputs(
        recent=recent,
        seasonal=np.stack(blocks, axis=1) if blocks else empty,
        timestamp=np.full(len(panel.entities), panel.timestamps[last], np.int64),
        entity=panel.entities,
    )


def _cut(values: Float32, start: int, length: int, last: int) -> Float32:
    """`(n_entities, length, n_features)` from row `start`; NaN outside the panel and after row `last`."""
    out = np.full((values.shape[0], length, values.shape[2]), np.nan, np.float32)
    low, high = max(start, 0), min(start + length, last + 1)
    if low < high:
        out[:, low - start : high - start] = values[:, low:high]
    return out


def entity_key(kind: EntityKind, labels: Mapping[str, str]) -> str:
    """`<kind>/<value>/...` of the kind's identifying labels.

    Raises:
        InvalidInput: a label that identifies the kind is missing.
    """
    missing = [name for name in kind.labels if name not in labels]
    if missing:
        raise InvalidInput(f"a series of entity kind {kind.name!r} lacks the labels {missing}; got {sorted(labels)}")
    return "/".join([kind.name, *(quote(labels[name], safe="") for name in kind.labels)])


def split_entity_key(key: str) -> tuple[str, tuple[str, ...]]:
    """Inverse of `entity_key`: the kind's name and the label values."""
    kind, *values = key.split("/")
    return kind, tuple(unquote(v) for v in values)


__all__ = [
    "FeaturePanel",
    "Float32",
    "Int64",
    "MetricFrame",
    "ModelInputs",
    "TimeSplit",
    "WindowSpec",
    "entity_key",
    "model_inputs",
    "split_entity_key",
]
