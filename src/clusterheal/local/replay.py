"""Recorded telemetry as the demo's source: Parquet files with a column `t` and metrics `m00`, `m01` ..."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clusterheal.errors import InvalidInput
from clusterheal.local.generator import Series
from clusterheal.local.world_signals import Float64

METRIC = re.compile(r"^m\d{2,}$")
LIVE_ROWS = 60  # kept from the history's end, to go on with
MIN_DAYS = 3.0
MAX_DAYS = 10.0
MAX_INSTANCES = 8


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One instance's recorded metrics.

    `values`: float64 `(n_rows, n_metrics)`, oldest first, NaN = no sample; rows are `step_seconds` apart.
    """

    instance: str
    metrics: tuple[str, ...]
    values: Float64
    step_seconds: int

    @property
    def dead(self) -> list[str]:
        """Metrics without any sample."""
        return [name for i, name in enumerate(self.metrics) if not bool(np.isfinite(self.values[:, i]).any())]

    @property
    def constant(self) -> list[str]:
        """Metrics that have samples, all of one value."""
        alive = set(self.metrics) - set(self.dead)
        columns = zip(self.metrics, self.values.T, strict=True)
        return [name for name, column in columns if name in alive and np.nanmin(column) == np.nanmax(column)]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The recordings that were chosen, all with the same step and metrics, and why (`notes`, for people)."""

    recordings: tuple[Recording, ...]
    notes: tuple[str, ...]

    @property
    def step_seconds(self) -> int:
        return self.recordings[0].step_seconds

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.recordings[0].metrics

    @property
    def instances(self) -> tuple[str, ...]:
        return tuple(r.instance for r in self.recordings)

    @property
    def rows(self) -> int:
        """Rows of history: the shortest recording's, without those that are kept to go on with."""
        most = int(MAX_DAYS * 86_400 / self.step_seconds)
        return min(most, min(len(r.values) for r in self.recordings) - LIVE_ROWS)

    @property
    def days(self) -> float:
        return self.rows * self.step_seconds / 86_400

    def history(self, end: int) -> Iterator[Series]:
        """Every metric of every instance as `recorded_metric`, moved in time so that the last row is at `end`."""
        times = end - self.step_seconds * np.arange(self.rows - 1, -1, -1, dtype=np.int64)
        for recording in self.recordings:
            last = len(recording.values) - LIVE_ROWS
            for i, metric in enumerate(recording.metrics):
                yield Series(
                    name="recorded_metric",
                    labels={"instance": recording.instance, "metric": metric},
                    times=times,
                    values=recording.values[last - self.rows : last, i],
                )

    def live_row(self, recording: Recording, *, end: int, now: float) -> npt.NDArray[np.float64]:
        """The values at `now`, `(n_metrics,)`: the recording goes on in real time where the history ended."""
        ahead = int(max(0.0, now - end) // self.step_seconds)
        return np.asarray(recording.values[len(recording.values) - LIVE_ROWS - 1 + min(ahead, LIVE_ROWS)])


def open_replay(path: Path, *, pattern: str | None = None) -> Replay:
    """Choose recordings under `path` (a file or a folder) that can be replayed together.

    Of the files whose name matches `pattern`, those of one step and one set of metrics: the kind with the most
    samples. Steps are never mixed; a `pattern` that would mix them is refused.

    Raises:
        InvalidInput: nothing fits, a file is no recorded telemetry, or the history is too short.
    """
    files = _files(path, pattern)
    loaded = [read_recording(file) for file in files]
    groups: dict[tuple[int, tuple[str, ...]], list[Recording]] = {}
    for recording in loaded:
        groups.setdefault((recording.step_seconds, recording.metrics), []).append(recording)
    if len(groups) > 1 and pattern is not None:
        found = sorted({f"{step} s x {len(metrics)} metrics" for step, metrics in groups})
        raise InvalidInput(f"--series {pattern!r} mixes {', '.join(found)}; choose series of one kind")
    (step, metrics), chosen = max(groups.items(), key=lambda item: sum(r.values.size for r in item[1]))
    kept = chosen[:MAX_INSTANCES]
    replay = Replay(recordings=tuple(kept), notes=_notes(loaded, kept, step, metrics))
    if replay.days < MIN_DAYS:
        raise InvalidInput(
            f"{path}: {max(replay.rows, 0)} rows of {step} s are {max(replay.days, 0):.1f} days of history; "
            f"expected at least {MIN_DAYS:g} days (and {LIVE_ROWS} rows to go on with); choose longer series"
        )
    return replay


def _files(path: Path, pattern: str | None) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidInput(f"--data {path}: no such file or folder")
    files = sorted(p for p in path.rglob("*.parquet") if pattern is None or fnmatch(p.stem, pattern))
    if not files:
        every = sorted(p.stem for p in path.rglob("*.parquet"))
        hint = f"; it has {', '.join(every[:6])} ..." if every else ""
        raise InvalidInput(f"--data {path}: no Parquet file matches --series {pattern or '*'!r}{hint}")
    return files


def _notes(
    loaded: Sequence[Recording], kept: Sequence[Recording], step: int, metrics: Sequence[str]
) -> tuple[str, ...]:
    left = len(loaded) - len(kept)
    notes = [
        f"{len(kept)} series with a step of {step} s and {len(metrics)} metrics: {', '.join(r.instance for r in kept)}"
    ]
    for recording in kept:
        for what, names in (("no sample at all", recording.dead), ("never change", recording.constant)):
            if names:
                notes.append(f"{recording.instance}: {what}: {', '.join(names)}; the models cannot judge these")
    if left:
        notes.append(
            f"{left} series left out (another step, other metrics, or more than {MAX_INSTANCES}); see --series"
        )
    return tuple(notes)


def read_recording(path: Path) -> Recording:
    """Read one Parquet file.

    Raises:
        InvalidInput: not Parquet, without `t` or metrics, with an uneven step, or with nothing but gaps.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as exc:
        raise InvalidInput(f"{path}: cannot be read as Parquet: {exc}; copy the file again") from exc
    metrics = tuple(name for name in table.column_names if METRIC.match(name))
    if "t" not in table.column_names or not metrics:
        raise InvalidInput(
            f"{path}: expected a column t (unix seconds) and metrics m00, m01 ..., got {table.column_names[:8]}"
        )
    try:
        t = table["t"].to_numpy().astype(np.float64)
        columns = [table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in metrics]
    except (pa.ArrowException, TypeError, ValueError) as exc:
        raise InvalidInput(f"{path}: t and the metrics must be numbers: {exc}") from exc
    return _on_grid(path, t, metrics, np.stack(columns, axis=1))


def _on_grid(path: Path, t: Float64, metrics: tuple[str, ...], values: Float64) -> Recording:
    if len(t) < 2 or not bool(np.isfinite(t).all()) or not bool((np.diff(t) > 0).all()):
        raise InvalidInput(f"{path}: t must rise and have at least two rows, got {len(t)} rows")
    step = round(float(np.median(np.diff(t))))
    if step < 1:
        raise InvalidInput(f"{path}: the step of t is {np.median(np.diff(t)):g} s; expected 1 s or more")
    position = np.round((t - t[0]) / step).astype(np.int64)
    if position[-1] > 20 * len(t):
        raise InvalidInput(f"{path}: t jumps over {position[-1] - len(t)} missing rows; cut the file into pieces")
    grid = np.full((int(position[-1]) + 1, len(metrics)), np.nan)
    grid[position] = values
    recording = Recording(instance=path.stem, metrics=metrics, values=grid, step_seconds=step)
    if len(dead := recording.dead) == len(metrics):
        raise InvalidInput(f"{path}: every metric is NaN throughout; there is nothing to learn from")
    if len(dead) + len(recording.constant) == len(metrics):
        raise InvalidInput(f"{path}: no metric ever changes; there is nothing to learn from")
    return recording


__all__ = ["Recording", "Replay", "open_replay", "read_recording"]
