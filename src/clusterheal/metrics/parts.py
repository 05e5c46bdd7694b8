"""One Parquet file of a dataset: all features of one entity kind over some consecutive steps of one day.

Rows are dense and sorted: every step of the first entity, then of the second, and so on. Columns: `entity`
(dictionary), `time` (UTC, nanoseconds) and one float32 column per feature, NaN = no sample. The contract and the
extent are in the file's key-value metadata, so that a file explains itself.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import FeatureContract, Float32
from clusterheal.errors import DataQualityError
from clusterheal.metrics.grid import NS_PER_MS

DAY_MS = 86_400_000
CONTRACT_KEY = b"clusterheal.contract"
EXTENT_KEY = b"clusterheal.extent"

_NAME = re.compile(r"day=\d{4}-\d\d-\d\d/(?P<kind>[^/.]+)\.(?P<start>-?\d+)-(?P<end>-?\d+)\.parquet\Z")


@dataclass(frozen=True, kw_only=True, order=True)
class Extent:
    """What a part covers: steps `start_ms <= t < end_ms` of one entity kind, within one UTC day."""

    start_ms: int
    end_ms: int
    kind: str

    @property
    def name(self) -> str:
        day = datetime.fromtimestamp(self.start_ms // DAY_MS * DAY_MS / 1000, UTC).date()
        return f"day={day.isoformat()}/{self.kind}.{self.start_ms}-{self.end_ms}.parquet"

    @classmethod
    def of(cls, name: str) -> Extent | None:
        """The extent that a file name tells; `None` for other files."""
        match = _NAME.match(name)
        if match is None:
            return None
        return cls(kind=match["kind"], start_ms=int(match["start"]), end_ms=int(match["end"]))


@dataclass(frozen=True, kw_only=True)
class Part:
    """`values`: float32 `(n_features, n_entities, n_steps)`, features of the kind in the contract's order."""

    extent: Extent
    entities: tuple[str, ...]
    values: Float32


def kind_features(contract: FeatureContract, kind: str) -> list[int]:
    """Positions of the features of one entity kind."""
    return [i for i, f in enumerate(contract.features) if f.entity_kind == kind]


def encode(part: Part, contract: FeatureContract) -> memoryview:
    """The part as Parquet: zstd over byte streams, which suits slowly changing floats."""
    import pyarrow as pa
    from pyarrow import parquet

    n_entities, n_steps = len(part.entities), part.values.shape[2]
    times = part.extent.start_ms + np.arange(n_steps, dtype=np.int64) * (contract.step_ns // NS_PER_MS)
    indexes = np.repeat(np.arange(n_entities, dtype=np.int32), n_steps)
    names = [contract.features[i].name for i in kind_features(contract, part.extent.kind)]
    columns: dict[str, Any] = {
        "entity": pa.DictionaryArray.from_arrays(indexes, pa.array(part.entities, pa.string())),
        "time": pa.array(np.tile(times * NS_PER_MS, n_entities), pa.timestamp("ns", tz="UTC")),
    }
    for name, values in zip(names, part.values, strict=True):
        columns[name] = pa.array(values.ravel())
    table = pa.table(columns)
    extent = f"{part.extent.kind} {part.extent.start_ms} {part.extent.end_ms}".encode()
    table = table.replace_schema_metadata({CONTRACT_KEY: contract.to_json().encode(), EXTENT_KEY: extent})
    sink = pa.BufferOutputStream()
    parquet.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=["entity", "time"],
        use_byte_stream_split=names,
        write_statistics=["time"],
        row_group_size=1 << 20,
    )
    return memoryview(sink.getvalue())


def decode(data: bytes, extent: Extent, contract: FeatureContract, where: str) -> Part:
    """Inverse of `encode`.

    Raises:
        DataQualityError: not Parquet, another contract, or not the dense rows that the name promises.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as exc:
        raise DataQualityError(f"{where}: not readable as Parquet ({exc}); delete the file and collect again") from exc
    stored = (table.schema.metadata or {}).get(CONTRACT_KEY)
    if stored is None:
        raise DataQualityError(f"{where}: carries no feature contract; it was not written by clusterheal collect")
    contract.require_same(FeatureContract.from_json(stored.decode()).sha256, where=where)
    names = [contract.features[i].name for i in kind_features(contract, extent.kind)]
    n_steps = (extent.end_ms - extent.start_ms) // (contract.step_ns // NS_PER_MS)
    entities = _entities(table)
    shape = (len(entities), n_steps)
    if table.num_rows != shape[0] * shape[1] or not set(names) <= set(table.column_names):
        raise DataQualityError(
            f"{where}: expected {shape[0]} entities x {n_steps} steps of {names}, got {table.num_rows} rows of "
            f"{table.column_names}; delete the file and collect again"
        )
    values = np.empty((len(names), *shape), np.float32)
    for i, name in enumerate(names):
        column: npt.NDArray[np.float32] = table.column(name).to_numpy(zero_copy_only=False)
        values[i] = column.reshape(shape)
    return Part(extent=extent, entities=entities, values=values)


def _entities(table: Any) -> tuple[str, ...]:
    """Entity keys in the order of their rows."""
    import pyarrow as pa

    column = table.column("entity")
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    seen: dict[str, None] = {}
    for chunk in column.chunks:
        keys = chunk.dictionary.to_pylist()
        _, first = np.unique(chunk.indices.to_numpy(), return_index=True)
        for at in np.sort(first):
            seen.setdefault(keys[chunk.indices[int(at)].as_py()])
    return tuple(seen)
