"""`clusterheal bench anomaly`: the detector on recorded telemetry, in the formats that its scoring script reads.

One configuration for all series. Each series is an entity of its own: fitted on its train rows (split 0) without
labels, the last quarter of them held back for calibration; every test row (split 1) is scored from rows up to it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from clusterheal.contracts import EntityKind, FeatureContract, FeaturePanel, FeatureSpec, TimeSplit, default_window
from clusterheal.errors import InvalidInput, PermanentError
from clusterheal_models.detector import DetectorConfig, fit
from clusterheal_models.detector.stream import StreamScores, score_stream

CALIBRATION_SHARE = 0.25
HIT_RATES = ("hit@100", "hit@150")


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


def detect(series: Series, config: DetectorConfig | None = None) -> StreamScores:
    """Fit on the train rows and score the test rows, as the served graph does when it is handed its memory."""
    return score_stream(fit(series.panel, series.split, config), series.panel, 0, first=series.n_train)


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
    if peers:
        from clusterheal_models.bench.anomaly_peers import PEERS, peer_scores

        for name in PEERS:
            (out / "peers" / name).mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for number, path in enumerate(paths, 1):
        series = read_series(path)
        scores = detect(series)
        np.save(out / f"{path.stem}.npy", np.column_stack([scores.score, scores.alarm]).astype(np.float32))
        np.save(out / "contributions" / f"{path.stem}.npy", scores.contribution)
        if peers:
            rows, season = series.panel.values[0].astype(np.float64), series.panel.contract.window.season_steps
            for name, values in peer_scores(rows, series.n_train, season).items():
                np.save(out / "peers" / name / f"{path.stem}.npy", values.astype(np.float32))
        spent = time.monotonic() - start
        left = spent / number * (len(paths) - number)
        say(f"{number}/{len(paths)} {path.stem}: {len(scores.score)} rows, {spent:.0f} s, about {left:.0f} s left")
    if not (data / "score.py").is_file():
        say(f"{data / 'score.py'} is absent: the scores are written, but not judged")
        return ""
    table = figures(data, out, peers=peers)
    say(table)
    return table


def figures(data: Path, out: Path, *, peers: bool) -> str:
    """Markdown: what `score.py` of the data says of the detector, and of the peers beside it.

    Raises:
        PermanentError: the script failed.
    """
    judged = {"detector": out}
    if peers:
        judged |= {path.name: path for path in sorted((out / "peers").iterdir())}
    tables = {name: _judge(data, "anomaly", path, "labels") for name, path in judged.items()}
    sets = [name for name in tables["detector"] if name != "MEAN"]
    lines = ["| VUS-PR | " + " | ".join([*sets, "mean"]) + " |", "|---" * (len(sets) + 2) + "|"]
    for name, table in tables.items():
        lines.append(f"| {name} | " + " | ".join(f"{table[s]['vus_pr']:.3f}" for s in [*sets, "MEAN"]) + " |")
    lines += ["", "| event recall, one threshold, 1 false alarm per series-day | " + " | ".join(sets) + " |"]
    lines.append("|---" * (len(sets) + 1) + "|")
    for name, table in tables.items():
        lines.append(f"| {name} | " + " | ".join(f"{table[s]['recall@budget_1thr']:.3f}" for s in sets) + " |")
    lines += ["", "| own alarm of the detector | " + " | ".join(sets) + " |", "|---" * (len(sets) + 1) + "|"]
    for key, label in (("alarm_recall", "event recall"), ("alarm_false_per_day", "false alarms per series-day")):
        lines.append(f"| {label} | " + " | ".join(f"{tables['detector'][s][key]:.3f}" for s in sets) + " |")
    if any((out / "contributions" / f"{path.stem}.npy").is_file() for path in (data / "attribution").glob("*.json")):
        table = _judge(data, "attribution", out / "contributions", "attribution")
        lines += ["", "| attribution | " + " | ".join(table) + " |", "|---" * (len(table) + 1) + "|"]
        lines += [f"| {key} | " + " | ".join(f"{row[key]:.3f}" for row in table.values()) + " |" for key in HIT_RATES]
    return "\n".join(lines)


def _judge(data: Path, kind: str, predicted: Path, truth: str) -> dict[str, dict[str, float]]:
    """The table that `score.py` writes, by data set."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, str(data / "score.py"), kind, str(predicted), str(data / truth), "--json", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the user's own data
        if done.returncode:
            raise PermanentError(f"{data / 'score.py'} {kind} failed: {done.stderr.strip()[-300:]}")
        table: dict[str, dict[str, float]] = json.loads(Path(file.name).read_text())["table"]
    return table
