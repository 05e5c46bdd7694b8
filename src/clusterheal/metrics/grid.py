"""The array that answers are written into as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import orjson

from clusterheal.contracts import Float32, Int64, MetricFrame
from clusterheal.errors import PermanentError
from clusterheal.metrics.points import StepGrid, decode_points

NS_PER_MS = 1_000_000

Labels = Mapping[str, str]


class FrameBuilder:
    """Grows by rows as series turn up; one row per series, so that a series is written in one stretch of memory.

    Growing a NumPy array in place moves pages rather than copying them, so the peak stays near the final size.
    """

    def __init__(self, grid: StepGrid, keep: Callable[[Labels], bool] | None = None) -> None:
        self._grid = grid
        self._keep = keep
        self._values: Float32 = np.empty((0, grid.n_steps), np.float32)
        self._rows: dict[tuple[tuple[str, str], ...], int] = {}
        self._by_bytes: dict[bytes, int | None] = {}
        self._committed: set[int] = set()
        self._shared: list[tuple[int, dict[int, float]]] = []
        self.disagreements = 0

    def window(self, first: int, n_steps: int) -> WindowWriter:
        """A writer of the steps `first <= k < first + n_steps`."""
        return WindowWriter(self, self._grid, first, n_steps, overlap=first > 0)

    def build(self) -> MetricFrame:
        """The frame, its series sorted by labels, so that it does not depend on the order of answers."""
        self._compare_overlaps()
        order = sorted(key for key, row in self._rows.items() if row in self._committed)
        _permute_rows(self._values, [self._rows[key] for key in order], len(self._rows))
        times = self._grid.start_ms + np.arange(self._grid.n_steps, dtype=np.int64) * self._grid.step_ms
        timestamps: Int64 = times * NS_PER_MS
        return MetricFrame(
            values=self._values[: len(order)].T,
            timestamps=timestamps,
            labels=tuple(dict(key) for key in order),
        )

    def row(self, labels: bytes) -> int | None:
        """The row of a series, by the JSON of its labels; `None` for one that is not kept."""
        if labels in self._by_bytes:
            return self._by_bytes[labels]
        parsed = _parse_labels(labels)
        row = self._row_of(parsed) if self._keep is None or self._keep(parsed) else None
        self._by_bytes[labels] = row
        return row

    def _row_of(self, labels: dict[str, str]) -> int:
        key = tuple(sorted(labels.items()))
        row = self._rows.setdefault(key, len(self._rows))
        if row >= len(self._values):
            more = max(8, len(self._values) // 8)
            self._values.resize((len(self._values) + more, self._grid.n_steps), refcheck=False)
            self._values[-more:] = np.nan
        return row

    def put(self, row: int, steps: slice | Int64, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        with np.errstate(over="ignore"):
            self._values[row, steps] = values

    def clear(self, first: int, last: int) -> None:
        self._values[:, first:last] = np.nan

    def commit(self, rows: set[int], shared: int | None, before: Mapping[int, float]) -> None:
        """Count in `rows`; `before` are their values at step `shared`, which the window before holds, too."""
        self._committed |= rows
        if shared is not None:
            self._shared.append((shared, dict(before)))

    def _compare_overlaps(self) -> None:
        """How many values differ where two answers overlap; a sample in only one of them differs, too."""
        for step, before in self._shared:
            again = np.full(len(self._rows), np.nan, np.float32)
            with np.errstate(over="ignore"):
                again[list(before)] = list(before.values())
            held = self._values[: len(self._rows), step]
            self.disagreements += int(np.count_nonzero(~((held == again) | (np.isnan(held) & np.isnan(again)))))
        self._shared.clear()


class WindowWriter:
    """Writes the answer to one request: some consecutive steps, all series.

    Nothing counts until `commit`; a request that is sent again starts with `clear`. With `overlap` the request
    begins one step earlier, on the last step of the window before: the two answers have to agree there.
    """

    def __init__(self, builder: FrameBuilder, whole: StepGrid, first: int, n_steps: int, *, overlap: bool) -> None:
        self._builder = builder
        self._first = first
        self._n_steps = n_steps
        self._overlap = int(overlap)
        start = first - self._overlap
        self.grid = StepGrid(
            start_ms=whole.start_ms + start * whole.step_ms, step_ms=whole.step_ms, n_steps=n_steps + self._overlap
        )
        self._rows: set[int] = set()
        self._before: dict[int, float] = {}

    def add(self, labels: bytes, block: bytearray) -> None:
        """One series, as `MatrixParser` hands it over.

        Raises:
            PermanentError: labels or points are malformed, or the series comes twice in one answer.
        """
        row = self._builder.row(labels)
        if row is None:
            return
        if row in self._rows:
            raise PermanentError(f"series {labels.decode(errors='replace')} is twice in one answer")
        steps, values = decode_points(block, self.grid)
        self._rows.add(row)
        start = self._first - self._overlap
        moved: slice | Int64
        if isinstance(steps, slice):
            shared = self._overlap and steps.start == 0 and steps.stop > 0
            moved = slice(steps.start + start + int(shared), steps.stop + start)
        else:
            shared = self._overlap and len(steps) > 0 and steps[0] == 0
            moved = steps[int(shared) :] + start
        if shared:
            self._before[row] = float(values[0])
        self._builder.put(row, moved, values[int(shared) :])

    def clear(self) -> None:
        """Forget what a failed attempt wrote."""
        self._builder.clear(self._first, self._first + self._n_steps)
        self._rows.clear()
        self._before.clear()

    def commit(self) -> None:
        """The answer is complete."""
        self._builder.commit(self._rows, self._first - 1 if self._overlap else None, self._before)


def _parse_labels(text: bytes) -> dict[str, str]:
    try:
        labels = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise PermanentError(f"expected the labels of a series, got {text[:120]!r}: {exc}") from exc
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise PermanentError(f"expected labels as texts, got {text[:120]!r}")
    return labels


def _permute_rows(values: Float32, source: list[int], n_rows: int) -> None:
    """Row `i` becomes the former row `source[i]`, in place; rows that are not in `source` end up behind."""
    rest = sorted(set(range(n_rows)) - set(source))
    order = source + rest
    done = [False] * n_rows
    for start in range(n_rows):
        if done[start] or order[start] == start:
            continue
        kept, row = values[start].copy(), start
        while order[row] != start:
            values[row] = values[order[row]]
            done[row] = True
            row = order[row]
        values[row] = kept
        done[row] = True
