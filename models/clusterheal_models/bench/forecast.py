"""`clusterheal bench forecast`: fit on each task's train rows, forecast its origins with the sealed package.

One configuration serves all tasks. What differs is read from the task: interval, season and horizon make the window
of the contract, every column is a feature. Predictions are written as `<task>.npz` with `q` `(series, origins,
horizon, levels)` and `levels`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import (
    EntityKind,
    FeatureContract,
    FeaturePanel,
    FeatureSpec,
    ModelPackage,
    TimeSplit,
    default_window,
    model_inputs,
)
from clusterheal.errors import InvalidInput
from clusterheal_models.export import run_onnx, session
from clusterheal_models.forecaster import LEVELS, ForecasterConfig, fit
from clusterheal_models.progress import ProgressCallback

START_NS = 1_577_664_000_000_000_000  # Monday, 2019-12-30: recorded series have no clock, so any midnight serves
CALIBRATION_SHARE = 0.15

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One entry of `tasks.json`. `origins` are rows of the first forecast step; `season` and `horizon` are in steps."""

    name: str
    panel: FeaturePanel
    train_rows: int
    origins: tuple[int, ...]
    season: int
    horizon: int

    @property
    def values(self) -> Float64:
        """`(n_series, n_rows)`."""
        return np.asarray(self.panel.values[0].T, np.float64)


@dataclass(frozen=True, kw_only=True)
class Score:
    """Errors of one method on one task, means over series; `rel_*` are geometric means of ratios to seasonal naive."""

    method: str
    task: str
    mase: float
    scrps: float
    coverage80: float
    rel_mase: float
    rel_scrps: float
    seconds: float


def load_tasks(data: Path) -> list[Task]:
    """Every task in `data/forecast/tasks.json`.

    Raises:
        InvalidInput: the folder, the file or a column of it is not there.
    """
    path = data / "forecast" / "tasks.json"
    if not path.is_file():
        raise InvalidInput(f"{path} does not exist; give the folder that holds forecast/tasks.json")
    return [_load_task(data / "forecast", name, entry) for name, entry in json.loads(path.read_text()).items()]


def run(
    data: Path,
    out: Path,
    *,
    peers: bool = False,
    config: ForecasterConfig | None = None,
    only: tuple[str, ...] = (),
    progress: ProgressCallback | None = None,
    say: Callable[[str], None] = print,
) -> list[Score]:
    """Forecast every task (or `only` those) and, with `peers`, by the peers, too; returns what could be scored.

    `out/<task>.npz` are ours, `out/peers/<peer>/<task>.npz` the peers', `out/packages/<task>` the sealed packages.
    """
    config = config or ForecasterConfig.thorough()
    scores: list[Score] = []
    tasks = [t for t in load_tasks(data) if not only or t.name in only]
    if not tasks:
        raise InvalidInput(f"no task is called {', '.join(only)}; see {data / 'forecast' / 'tasks.json'}")
    for task in tasks:
        began = time.perf_counter()
        package = train(task, config, out / "packages" / task.name, progress=progress)
        quantiles = forecast(task, package)
        score = _keep(task, "clusterheal", quantiles, out, data, time.perf_counter() - began)
        scores += score
        say(describe(task, score))
        if peers:
            scores += _run_peers(task, out / "peers", data, say)
    return scores


def train(
    task: Task, config: ForecasterConfig, directory: Path, *, progress: ProgressCallback | None = None
) -> ModelPackage:
    """Fit on the rows before `train_rows`; the last of them are for stopping and calibration."""
    timestamps = task.panel.timestamps
    split = TimeSplit(
        train_end_ns=int(timestamps[round(task.train_rows * (1 - CALIBRATION_SHARE))]),
        calibration_end_ns=int(timestamps[task.train_rows]),
    )
    return fit(task.panel, split, config, progress=progress).export(directory)


def forecast(task: Task, package: ModelPackage) -> Float64:
    """Quantiles `(series, origins, horizon, levels)` that the sealed graph answers."""
    graph = session(package.model_path)
    answers = [
        run_onnx(graph, model_inputs(task.panel, origin=origin - 1).tensors())["quantiles"][0]
        for origin in task.origins
    ]
    return np.stack(answers).transpose(2, 0, 1, 3).astype(np.float64)


def score(task: Task, method: str, quantiles: Float64, folder: Path, seconds: float) -> list[Score]:
    """Against `<task>.true.npz` and `snaive/<task>.npz` where they are there; otherwise nothing."""
    truth, naive = folder / f"{task.name}.true.npz", folder / "snaive" / f"{task.name}.npz"
    if not truth.is_file() or not naive.is_file():
        return []
    true = np.load(truth)
    y, scale = true["y"].astype(np.float64), np.maximum(true["scale"].astype(np.float64), 1e-12)
    mae, crps, cover = errors(y, quantiles)
    naive_mae, naive_crps, _ = errors(y, np.load(naive)["q"].astype(np.float64))
    return [
        Score(
            method=method,
            task=task.name,
            mase=float((mae / scale).mean()),
            scrps=float((crps / scale).mean()),
            coverage80=float(cover.mean()),
            rel_mase=_geometric(mae / naive_mae),
            rel_scrps=_geometric(crps / naive_crps),
            seconds=seconds,
        )
    ]


def errors(y: Float64, quantiles: Float64) -> tuple[Float64, Float64, Float64]:
    """Mean absolute error of the median, mean CRPS and coverage of the 80 % interval, per series."""
    known = np.isfinite(y)
    target = np.where(known, y, 0.0)
    levels = np.asarray(LEVELS)
    error = target[..., None] - quantiles
    crps = 2 * np.maximum(levels * error, (levels - 1) * error).mean(-1)
    absolute = np.abs(target - quantiles[..., len(levels) // 2])
    inside = (target >= quantiles[..., 0]) & (target <= quantiles[..., -1])
    count = np.maximum(known.sum((1, 2)), 1)
    return (
        (absolute * known).sum((1, 2)) / count,
        (crps * known).sum((1, 2)) / count,
        (inside & known).sum((1, 2)) / count,
    )


def summary(scores: list[Score]) -> str:
    """Markdown: every method on every task, and the geometric mean over tasks."""
    tasks = list(dict.fromkeys(s.task for s in scores))
    lines = [
        "| method | " + " | ".join(f"{t}: rel. sCRPS / rel. MASE / cover80" for t in tasks) + " | geometric mean |",
        "|---|" + "---|" * (len(tasks) + 1),
    ]
    for method in dict.fromkeys(s.method for s in scores):
        rows = {s.task: s for s in scores if s.method == method}
        cells = [
            f"{r.rel_scrps:.3f} / {r.rel_mase:.3f} / {r.coverage80:.2f}" if (r := rows.get(t)) else "-" for t in tasks
        ]
        both = [_geometric(np.array([getattr(r, k) for r in rows.values()])) for k in ("rel_scrps", "rel_mase")]
        complete = f"{both[0]:.3f} / {both[1]:.3f}" if len(rows) == len(tasks) else "-"
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {complete} |")
    return "\n".join(lines)


def describe(task: Task, scores: list[Score]) -> str:
    """One line per task for people."""
    if not scores:
        return f"{task.name}: written, no truth to score against"
    s = scores[0]
    return (
        f"{s.task:12s} {s.method:14s} rel. sCRPS {s.rel_scrps:.3f}  rel. MASE {s.rel_mase:.3f}  "
        f"cover80 {s.coverage80:.3f}  {s.seconds:.0f} s"
    )


def _run_peers(task: Task, out: Path, data: Path, say: Callable[[str], None]) -> list[Score]:
    from clusterheal_models.bench.forecast_peers import PEERS

    scores: list[Score] = []
    for name, peer in PEERS.items():
        began = time.perf_counter()
        found = _keep(task, name, peer(task), out / name, data, time.perf_counter() - began)
        say(describe(task, found))
        scores += found
    return scores


def _keep(task: Task, method: str, quantiles: Float64, out: Path, data: Path, seconds: float) -> list[Score]:
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / f"{task.name}.npz", q=quantiles.astype(np.float32), levels=np.array(LEVELS))
    return score(task, method, quantiles, data / "forecast", seconds)


def _load_task(folder: Path, name: str, entry: dict[str, object]) -> Task:
    import pandas as pd

    file = folder / str(entry["file"])
    if not file.is_file():
        raise InvalidInput(f"{file} does not exist; tasks.json names it for task {name}")
    table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
    true = np.load(folder / f"{name}.true.npz")
    names = [str(n) for n in true["names"]]
    missing = [n for n in names if n not in table.columns]
    if missing:
        raise InvalidInput(f"{file} lacks the columns {missing} of task {name}")
    step = timedelta(seconds=float(str(entry["interval_s"])))
    season, horizon = int(str(entry["season"])), int(str(entry["horizon"]))
    contract = FeatureContract(
        entity_kinds=(EntityKind(name="task", labels=("task",)),),
        features=tuple(FeatureSpec(name=n, promql=n, unit="recorded", entity_kind="task") for n in names),
        step=step,
        window=default_window(step, season=season * step, horizon_steps=horizon),
    )
    values = table[names].to_numpy(np.float32)[None]
    panel = FeaturePanel(
        values=np.ascontiguousarray(values),
        timestamps=START_NS + np.arange(len(table), dtype=np.int64) * contract.step_ns,
        entities=(f"task/{name}",),
        contract=contract,
    )
    return Task(
        name=name,
        panel=panel,
        train_rows=int(str(entry["train_rows"])),
        origins=tuple(int(o) for o in true["origins"]),
        season=season,
        horizon=horizon,
    )


def _geometric(values: Float64) -> float:
    return float(np.exp(np.log(np.maximum(values, 1e-9)).mean()))
