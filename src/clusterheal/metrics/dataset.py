"""A dataset: what was collected, as Parquet partitioned by day, with the feature contract inside."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from clusterheal.contracts import FeatureContract, FeaturePanel, Float32, Int64
from clusterheal.errors import ContractMismatch, DataQualityError, InvalidInput, PermanentError
from clusterheal.metrics.grid import NS_PER_MS
from clusterheal.metrics.parts import Extent, Part, decode, encode, kind_features, read_entities
from clusterheal.metrics.storage import Storage
from clusterheal.settings import DatasetSettings

CONTRACT_FILE = "_contract.json"


class Dataset:
    """Parts on a storage. What a part's name says is covered is covered, also when nothing was there."""

    def __init__(self, storage: Storage, contract: FeatureContract) -> None:
        self.storage = storage
        self.contract = contract
        self._step_ms = contract.step_ns // NS_PER_MS

    @classmethod
    def open(cls, path: str | Path, settings: DatasetSettings | None = None) -> Dataset:
        """An existing dataset. `settings` are needed for an S3 endpoint or CA of one's own.

        Raises:
            InvalidInput: there is no dataset at `path`, or its contract cannot be read.
        """
        dataset = cls.find(Storage.open(path, settings))
        if dataset is None:
            raise InvalidInput(f"{path}: no dataset here ({CONTRACT_FILE} is missing); run `clusterheal collect` first")
        return dataset

    @classmethod
    def find(cls, storage: Storage) -> Dataset | None:
        """The dataset on a storage, `None` when there is none yet."""
        text = storage.read(CONTRACT_FILE)
        return None if text is None else cls(storage, FeatureContract.from_json(text.decode()))

    @classmethod
    def create(cls, storage: Storage, contract: FeatureContract) -> Dataset:
        """Begin a dataset. The caller holds its lock."""
        storage.write(CONTRACT_FILE, contract.to_json().encode())
        return cls(storage, contract)

    def require(self, contract: FeatureContract) -> None:
        """Refuse a contract that does not fit what is stored.

        Raises:
            ContractMismatch: naming what differs.
        """
        if self.contract.sha256 != contract.sha256:
            raise ContractMismatch(
                f"{self.storage.url} holds contract {self.contract.sha256[:12]}, asked for {contract.sha256[:12]}: "
                f"{_difference(self.contract, contract)}; collect into another path"
            )

    def extents(self) -> list[Extent]:
        """What is covered, oldest first."""
        found = (Extent.of(entry.name) for entry in self.storage.list() if entry.name.startswith("day="))
        kinds = {k.name for k in self.contract.entity_kinds}
        return sorted(e for e in found if e is not None and e.kind in kinds)

    def newest_ns(self) -> int:
        """The last step that is covered, nanoseconds since the epoch.

        Raises:
            DataQualityError: nothing was collected.
        """
        if not (extents := self.extents()):
            raise DataQualityError(f"{self.storage.url}: nothing collected; run `clusterheal collect` first")
        return (max(e.end_ms for e in extents) - self._step_ms) * NS_PER_MS

    def write(self, part: Part) -> int:
        """Add a part; returns its size in bytes."""
        data = encode(part, self.contract)
        self.storage.write(part.extent.name, data)
        return len(data)

    def parts(self, start_ns: int | None = None, end_ns: int | None = None) -> Iterator[Part]:
        """Parts that overlap `start_ns <= t < end_ns`, one at a time in memory.

        Raises:
            DataQualityError: a part is corrupt.
        """
        for extent in self._overlapping(start_ns, end_ns):
            data = self.storage.read(extent.name)
            if data is not None:
                yield decode(data, extent, self.contract, self.storage.full(extent.name))

    def panel(
        self,
        start_ns: int | None = None,
        end_ns: int | None = None,
        entities: Iterable[str] | None = None,
        *,
        file: Path | None = None,
    ) -> FeaturePanel:
        """Everything with `start_ns <= t < end_ns` on one grid, entities sorted; `entities` picks some of them.

        With `file` the values lie in that new `.npy` file, mapped into memory, and one part at a time is in memory.

        Raises:
            DataQualityError: nothing was collected in that time, or a part is corrupt.
            InvalidInput: an entity that the dataset does not have.
            PermanentError: no room for `file`.
        """
        extents = self._overlapping(start_ns, end_ns)
        if not extents:
            raise DataQualityError(f"{self.storage.url}: nothing collected in the time asked for; collect it first")
        first = _clip_up(min(e.start_ms for e in extents), start_ns, self._step_ms)
        last = _clip_up(max(e.end_ms for e in extents), end_ns, self._step_ms, upper=True)
        times: Int64 = np.arange(first, last, self._step_ms, dtype=np.int64)
        keys = self._entities(extents, entities)
        rows = {key: i for i, key in enumerate(keys)}
        shape = (len(keys), len(times), len(self.contract.features))
        values = np.empty(shape, np.float32) if file is None else _mapped(file, shape)
        values.fill(np.nan)
        for part in self.parts(start_ns, end_ns):
            self._place(part, values, rows, first, len(times))
        return FeaturePanel(values=values, timestamps=times * NS_PER_MS, entities=tuple(keys), contract=self.contract)

    def _overlapping(self, start_ns: int | None, end_ns: int | None) -> list[Extent]:
        return [
            e
            for e in self.extents()
            if (end_ns is None or e.start_ms * NS_PER_MS < end_ns)
            and (start_ns is None or e.end_ms * NS_PER_MS > start_ns)
        ]

    def entities(self, extent: Extent) -> tuple[str, ...]:
        """Who is in a part, without reading its values.

        Raises:
            DataQualityError: the part is corrupt.
        """
        with self.storage.open_file(extent.name) as file:
            return read_entities(file, self.storage.full(extent.name))

    def _entities(self, extents: Sequence[Extent], wanted: Iterable[str] | None) -> list[str]:
        present = {key for extent in extents for key in self.entities(extent)}
        if wanted is None:
            if not present:
                raise DataQualityError(f"{self.storage.url}: no entity has a sample in the time asked for")
            return sorted(present)
        keys = list(dict.fromkeys(wanted))
        if unknown := [k for k in keys if k not in present]:
            raise InvalidInput(f"{self.storage.url}: no entities {unknown}; there are {sorted(present)[:10]} ...")
        return keys

    def _place(self, part: Part, values: Float32, rows: dict[str, int], first_ms: int, n_steps: int) -> None:
        at = (part.extent.start_ms - first_ms) // self._step_ms
        skip = max(0, -at)
        count = min(part.values.shape[2] - skip, n_steps - max(at, 0))
        own = [(i, rows[key]) for i, key in enumerate(part.entities) if key in rows]
        if count <= 0 or not own:
            return
        source, target = (list(x) for x in zip(*own, strict=True))
        window = slice(max(at, 0), max(at, 0) + count)
        for f, feature in enumerate(kind_features(self.contract, part.extent.kind)):
            values[target, window, feature] = part.values[f][source, skip : skip + count]


def _mapped(file: Path, shape: tuple[int, ...]) -> Float32:
    """An array in a new file. Its place on the disk is taken first: a page without one would end the process.

    Raises:
        PermanentError: the disk refuses, or is full.
    """
    values: Float32
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        values = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    except OSError as exc:
        file.unlink(missing_ok=True)
        size = 4 * int(np.prod(shape)) / 2**20
        raise PermanentError(f"{file}: no room for {size:.1f} MiB: {exc}; free space or choose another folder") from exc
    return values


def _clip_up(extent_ms: int, limit_ns: int | None, step_ms: int, *, upper: bool = False) -> int:
    """The limit rounded up to the grid, kept within the extent."""
    if limit_ns is None:
        return extent_ms
    limit = -(-limit_ns // (step_ms * NS_PER_MS)) * step_ms
    return min(extent_ms, limit) if upper else max(extent_ms, limit)


def _difference(have: FeatureContract, want: FeatureContract) -> str:
    if have.step != want.step:
        return f"step {have.step} against {want.step}"
    gone = sorted(set(have.feature_names) - set(want.feature_names))
    new = sorted(set(want.feature_names) - set(have.feature_names))
    if gone or new:
        return f"features only here {gone}, only asked for {new}"
    changed = [a.name for a, b in zip(have.features, want.features, strict=True) if a != b]
    return f"features defined otherwise: {changed}" if changed else "another order, entity kinds or window"
