"""`clusterheal bench anomaly`: the detector on recorded telemetry, in the formats that its scoring script reads.

One configuration for all series. Each series is an entity of its own: fitted on its train rows (split 0) without
labels, the last quarter of them held back for calibration; every test row (split 1) is scored from rows up to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from clusterheal.contracts import EntityKind, FeatureContract, FeaturePanel, FeatureSpec, TimeSplit, default_window
from clusterheal.errors import InvalidInput
from clusterheal_models.detector import DetectorConfig, fit
from clusterheal_models.detector.stream import StreamConfig, StreamScores, remove_drift, score_stream

CALIBRATION_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Series:
    """A recorded series: `panel` has one entity, `n_train` its train rows."""

    name: str
    panel: FeaturePanel
    n_train: int

    @property
    def split(self) -> TimeSplit:
        """Train, calibration and test time."""
        times, fitted = self.panel.timestamps, round(self.n_train * (1 - CALIBRATION_SHARE))
        return TimeSplit(train_end_ns=int(times[fitted]), calibration_end_ns=int(times[self.n_train]))


def read_series(path: Path) -> Series:
    """Read one Parquet file; rows are taken as even steps of the commonest interval.

    Raises:
        InvalidInput: not such a file, or without train or test rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        metrics = sorted(c for c in table.column_names if c.startswith("m") and c[1:].isdigit())
        times, split = table["t"].to_numpy(), table["split"].to_numpy()
    except (OSError, pa.ArrowInvalid, KeyError) as exc:
        raise InvalidInput(f"{path}: expected a Parquet file with t, split and m00..: {exc}") from exc
    n_train = int((split == 0).sum())
    if not metrics or not 0 < n_train < len(split) or (np.diff(split) < 0).any():
        raise InvalidInput(f"{path}: expected metrics m00.. and train rows (split 0) before test rows (split 1)")
    gaps, counts = np.unique(np.diff(times), return_counts=True)
    interval = int(gaps[gaps > 0][counts[gaps > 0].argmax()])
    step = timedelta(seconds=interval)
    contract = FeatureContract(
        entity_kinds=(EntityKind(name="instance", labels=("instance",)),),
        features=tuple(
            FeatureSpec(name=m, promql=f'recorded_metric{{metric="{m}"}}', unit="1", entity_kind="instance")
            for m in metrics
        ),
        step=step,
        window=default_window(step),
    )
    values = np.stack([table[m].to_numpy().astype(np.float32) for m in metrics], axis=1)
    panel = FeaturePanel(
        values=values[None],
        timestamps=(int(times[0]) + interval * np.arange(len(values), dtype=np.int64)) * 1_000_000_000,
        entities=(f"instance/{path.stem}",),
        contract=contract,
    )
    return Series(name=path.stem, panel=panel, n_train=n_train)


def detect(series: Series, config: DetectorConfig | None = None, stream: StreamConfig | None = None) -> StreamScores:
    """Fit on the train rows and score the test rows."""
    chosen = stream or StreamConfig()
    panel = remove_drift(series.panel, series.split, drift_steps=chosen.drift_steps)
    detector = fit(panel, series.split, config)
    return score_stream(detector, panel, 0, first=series.n_train, config=chosen)


def run(
    data: Path, out: Path, *, peers: bool = False, only: tuple[str, ...] = (), say: Callable[[str], None] = print
) -> str:
    """Score all series of `data/anomaly` into `out`, and give a table of figures where `data` has `score.py`.

    `out/<series>.npy` float32 `(test rows, 2)`: score, alarm; `out/contributions/<series>.npy` `(test rows, metrics)`;
    with `peers`, `out/peers/<method>/<series>.npy`.

    Raises:
        InvalidInput: there are no series in `data`.
    """
    paths = [p for p in sorted((data / "anomaly").glob("*.parquet")) if not only or p.stem.startswith(only)]
    if not paths:
        raise InvalidInput(f"{data / 'anomaly'}: expected Parquet files of recorded series, found none")
    (out / "contributions").mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for number, path in enumerate(paths, 1):
        series = read_series(path)
        scores = detect(series)
        np.save(out / f"{path.stem}.npy", np.column_stack([scores.score, scores.alarm]).astype(np.float32))
        np.save(out / "contributions" / f"{path.stem}.npy", scores.contribution)
        spent = time.monotonic() - start
        left = spent / number * (len(paths) - number)
        say(f"{number}/{len(paths)} {path.stem}: {len(scores.score)} rows, {spent:.0f} s, about {left:.0f} s left")
    return ""
