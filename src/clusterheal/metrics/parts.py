"""One Parquet file of a dataset: all features of one entity kind over some consecutive steps of one day.

Rows are dense and sorted: every step of the first entity, then of the second, and so on. Columns: `entity`
(dictionary), `time` (UTC, nanoseconds) and one float32 column per feature, NaN = no sample. The contract and the
extent are in the file's key-value metadata, so that a file explains itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import FeatureContract, Float32
from clusterheal.errors import DataQualityError
from clusterheal.metrics.grid import NS_PER_MS
from clusterheal.metrics.shards import WHOLE, Shard

DAY_MS = 86_400_000
GROUP_ROWS = 1 << 18
CONTRACT_KEY = b"clusterheal.contract"
EXTENT_KEY = b"clusterheal.extent"
ENTITIES_KEY = b"clusterheal.entities"

_NAME = re.compile(
    r"day=\d{4}-\d\d-\d\d/(?P<kind>[^/.]+)(\.(?P<index>\d+)of(?P<count>\d+))?\.(?P<start>-?\d+)-(?P<end>-?\d+)\.parquet\Z"
)


@dataclass(frozen=True, kw_only=True, order=True)
class Extent:
    """What a part covers: steps `start_ms <= t < end_ms` of one shard of one entity kind, within one UTC day."""

    start_ms: int
    end_ms: int
    kind: str
    shard: Shard = WHOLE

    @property
    def name(self) -> str:
        day = datetime.fromtimestamp(self.start_ms // DAY_MS * DAY_MS / 1000, UTC).date()
        shard = "" if self.shard == WHOLE else f".{self.shard.index}of{self.shard.count}"
        return f"day={day.isoformat()}/{self.kind}{shard}.{self.start_ms}-{self.end_ms}.parquet"

    @classmethod
    def of(cls, name: str) -> Extent | None:
        """The extent that a file name tells; `None` for other files."""
        match = _NAME.match(name)
        if match is None:
            return None
        shard = Shard(index=int(match["index"]), count=int(match["count"])) if match["count"] else WHOLE
        return cls(kind=match["kind"], start_ms=int(match["start"]), end_ms=int(match["end"]), shard=shard)


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
    """The part as Parquet: zstd over byte streams, which suits slowly changing floats.

    Row groups hold whole entities and are made one at a time, so that the columns that repeat, entity and time, never
    exist as a whole.
    """
    import pyarrow as pa
    from pyarrow import parquet

    names = [contract.features[i].name for i in kind_features(contract, part.extent.kind)]
    schema = pa.schema(
        [
            ("entity", pa.dictionary(pa.int32(), pa.string())),
            ("time", pa.timestamp("ns", tz="UTC")),
            *((name, pa.float32()) for name in names),
        ],
        metadata={
            CONTRACT_KEY: contract.to_json().encode(),
            EXTENT_KEY: f"{part.extent.kind} {part.extent.start_ms} {part.extent.end_ms}".encode(),
            ENTITIES_KEY: json.dumps(part.entities).encode(),
        },
    )
    sink = pa.BufferOutputStream()
    with parquet.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=["entity", "time"],
        use_byte_stream_split=names,
        write_statistics=["time"],
    ) as writer:
        per_group = max(1, GROUP_ROWS // max(1, part.values.shape[2]))
        for first in range(0, len(part.entities), per_group):
            writer.write_table(_row_group(part, contract.step_ns, schema, first, per_group), row_group_size=GROUP_ROWS)
    return memoryview(sink.getvalue())


def _row_group(part: Part, step_ns: int, schema: Any, first: int, count: int) -> Any:
    """A table of `count` entities from the `first` on."""
    import pyarrow as pa

    entities = part.entities[first : first + count]
    n_steps = part.values.shape[2]
    times = part.extent.start_ms * NS_PER_MS + np.arange(n_steps, dtype=np.int64) * step_ns
    indexes = np.repeat(np.arange(len(entities), dtype=np.int32), n_steps)
    columns = [
        pa.DictionaryArray.from_arrays(_arrow(indexes, pa.int32()), _texts(entities)),
        _arrow(np.tile(times, len(entities)), schema.field("time").type),
        *(_arrow(feature[first : first + count].ravel(), pa.float32()) for feature in part.values),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _arrow(values: npt.NDArray[Any], kind: Any) -> Any:
    """The same memory as an Arrow array. `pyarrow.array` would import pandas: 60 MiB and half a second."""
    import pyarrow as pa

    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _texts(texts: Sequence[str]) -> Any:
    """An Arrow array of strings, likewise without pandas."""
    import pyarrow as pa

    octets = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, octets)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(octets)))


def read_entities(file: Any, where: str) -> tuple[str, ...]:
    """The entities of a part, from its footer alone.

    Raises:
        DataQualityError: not a part.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        metadata = parquet.read_schema(file).metadata or {}
        return tuple(json.loads(metadata[ENTITIES_KEY]))
    except (pa.ArrowException, OSError) as exc:
        raise _unreadable(where, exc) from exc
    except (KeyError, ValueError) as exc:
        raise _foreign(where) from exc


def decode(data: bytes, extent: Extent, contract: FeatureContract, where: str) -> Part:
    """Inverse of `encode`.

    Raises:
        DataQualityError: not Parquet, another contract, or not the dense rows that the name promises.
    """
    import pyarrow as pa
    from pyarrow import parquet

    names = [contract.features[i].name for i in kind_features(contract, extent.kind)]
    try:
        # Read in this thread, without a Python file: a thread of Arrow's pool may let go of one while the interpreter
        # ends, waits for the GIL there, and takes the process down with it (apache/arrow#34314).
        with parquet.ParquetFile(pa.BufferReader(data)) as file:
            metadata = file.schema_arrow.metadata or {}
            table = file.read(columns=names, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise _unreadable(where, exc) from exc
    if CONTRACT_KEY not in metadata or ENTITIES_KEY not in metadata:
        raise _foreign(where)
    contract.require_same(FeatureContract.from_json(metadata[CONTRACT_KEY].decode()).sha256, where=where)
    n_steps = (extent.end_ms - extent.start_ms) // (contract.step_ns // NS_PER_MS)
    entities = tuple(json.loads(metadata[ENTITIES_KEY]))
    shape = (len(entities), n_steps)
    if table.num_rows != shape[0] * shape[1] or table.column_names != names:
        raise DataQualityError(
            f"{where}: expected {shape[0]} entities x {n_steps} steps of {names}, got {table.num_rows} rows of "
            f"{table.column_names}; delete the file and collect again"
        )
    values = np.empty((len(names), *shape), np.float32)
    for i, name in enumerate(names):
        column: npt.NDArray[np.float32] = table.column(name).to_numpy(zero_copy_only=False)
        values[i] = column.reshape(shape)
    return Part(extent=extent, entities=entities, values=values)


def _unreadable(where: str, exc: Exception) -> DataQualityError:
    return DataQualityError(f"{where}: not readable as Parquet ({exc}); delete the file and collect again")


def _foreign(where: str) -> DataQualityError:
    return DataQualityError(f"{where}: carries no feature contract; it was not written by clusterheal collect")
