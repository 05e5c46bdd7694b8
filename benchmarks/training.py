"""What training costs: samples per second of both models, whether it grows in line with the data, and the peers' loops.

    .venv/bin/python -m benchmarks.training [--quick] [--json FILE] [--device auto|cpu|cuda]

A sample is one grid cell of the panel: entities x steps x metrics. On the CPU three sizes show how cost grows. With
CUDA the large case runs as well: 1,000 entities x 14 days x 60 s x 20 metrics, 4e8 samples, and how busy the GPU was.
The peers are what a loop costs that fits one model per series (forecasts) or entity (anomalies), on one thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clusterheal_models.compute import resolve_device
from clusterheal_models.detector import DetectorConfig
from clusterheal_models.detector import fit as fit_detector
from clusterheal_models.forecaster import LEVELS, ForecasterConfig
from clusterheal_models.forecaster import fit as fit_forecaster
from rich.console import Console
from rich.table import Table

from clusterheal.contracts import EntityKind, FeatureContract, FeaturePanel, FeatureSpec, TimeSplit, default_window

STEP = timedelta(seconds=60)
DAY = 1440
METRICS = 20
SIZES = ((25, 3), (50, 3), (100, 3))  # entities, days
QUICK = ((5, 2), (10, 2), (20, 2))
LARGE = (1000, 14)
TARGET_SECONDS, TARGET_BUSY = 360.0, 0.8
PEER_SERIES = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training. `cpu`: processor seconds, which others on the machine do not change; `busy`: of the GPU, 0 to 1."""

    what: str
    device: str
    samples: int
    seconds: float
    cpu: float
    busy: float | None = None

    @property
    def per_second(self) -> float:
        return self.samples / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, no large case: under a minute")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    device = resolve_device(args.device)
    rows: list[Row] = []
    measure(
        make_panel(2, 2), torch.device("cpu"), config=replace(scaled_down(), max_steps=1)
    )  # imports and first calls
    for entities, days in QUICK if args.quick else SIZES:
        panel = make_panel(entities, days)
        rows += measure(panel, torch.device("cpu"), config=scaled_down())
    rows += peers(panel)
    if device.type == "cuda" and not args.quick:
        rows += measure(make_panel(*LARGE), device, config=ForecasterConfig(device="cuda"))
    show(rows, device)
    if args.json:
        summary = {"cuda": device_name(device), "torch": torch.__version__, "growth": growth(rows)}
        args.json.write_text(json.dumps({**summary, "rows": [asdict(r) for r in rows]}, indent=1) + "\n")


def make_panel(entities: int, days: int, seed: int = 0) -> FeaturePanel:
    """Metrics with a day's season, noise of their own size and some gaps."""
    contract = FeatureContract(
        entity_kinds=(EntityKind(name="pod", labels=("pod",)),),
        features=tuple(FeatureSpec(name=f"m{i}", promql="up", unit="1", entity_kind="pod") for i in range(METRICS)),
        step=STEP,
        window=default_window(STEP),
    )
    rng = np.random.default_rng(seed)
    steps = days * DAY
    day = (2 * np.pi / DAY * np.arange(steps, dtype=np.float32))[:, None]
    values = np.empty((entities, steps, METRICS), np.float32)
    for entity in values:  # in place: a copy of the large case would be as large again
        rng.standard_normal(out=entity, dtype=np.float32)
        entity *= 0.2
        entity += np.sin(day + rng.uniform(0, 2 * np.pi, METRICS).astype(np.float32))
        entity *= rng.uniform(1, 50, METRICS).astype(np.float32)
        start = int(rng.integers(steps - 30))
        entity[start : start + 30] = np.nan
    times = 1_767_571_200_000_000_000 + np.arange(steps, dtype=np.int64) * contract.step_ns
    return FeaturePanel(
        values=values, timestamps=times, entities=tuple(f"pod/{i}" for i in range(entities)), contract=contract
    )


def scaled_down() -> ForecasterConfig:
    """Few steps whose size follows the data as it does in the large case, without the floor for small data."""
    return ForecasterConfig(batch_rows=16, max_steps=100, evaluate_every=100, device="cpu")


def measure(panel: FeaturePanel, device: torch.device, *, config: ForecasterConfig) -> list[Row]:
    split = TimeSplit.by_fraction(panel.timestamps)
    trainings: dict[str, Callable[[], Any]] = {
        "forecaster": lambda: fit_forecaster(panel, split, config),
        "detector": lambda: fit_detector(panel, split, DetectorConfig(device=device.type)),
    }
    name = device_name(device) or "CPU"
    return [timed(what, name, panel.values.size, run, watch=device.type == "cuda") for what, run in trainings.items()]


def timed(what: str, device: str, samples: int, run: Callable[[], Any], *, watch: bool = False) -> Row:
    began, cpu = time.perf_counter(), time.process_time()
    with Watcher() if watch else Unwatched() as watcher:
        run()
        if watch:
            torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    cpu = time.process_time() - cpu
    return Row(what=what, device=device, samples=samples, seconds=seconds, cpu=cpu, busy=watcher.busy())


class Unwatched:
    """No GPU, nothing to watch."""

    def __enter__(self) -> Unwatched:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def busy(self) -> float | None:
        return None


class Watcher(Unwatched):
    """Asks the driver, twice a second, for how much of the time the GPU was busy."""

    def __init__(self) -> None:
        self._seen: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        while shutil.which(command[0]) and not self._over.wait(0.5):
            answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if answer.isdigit():
                self._seen.append(int(answer) / 100)

    def busy(self) -> float | None:
        return float(np.mean(self._seen)) if self._seen else None


def peers(panel: FeaturePanel) -> list[Row]:
    """One model per series or entity, a few of them, one after the other on one thread."""
    end = int(np.searchsorted(panel.timestamps, TimeSplit.by_fraction(panel.timestamps).train_end_ns))
    series = np.nan_to_num(panel.values[:PEER_SERIES, :, 0].astype(np.float64))
    loops: dict[str, tuple[int, Callable[[], Any]]] = {
        "AutoETS, one per series": (series.size, lambda: [auto_ets(s[:end]) for s in series]),
        "LightGBM quantiles, nine per series": (series.size, lambda: [boosted(s[:end]) for s in series]),
        "isolation forest, one per entity": (
            panel.values[:PEER_SERIES].size,
            lambda: [forest(np.nan_to_num(e[:end])) for e in panel.values[:PEER_SERIES]],
        ),
    }
    return [timed(what, "CPU", samples, run) for what, (samples, run) in loops.items()]


def auto_ets(history: Any) -> None:
    from statsforecast.models import AutoETS

    AutoETS(season_length=1, model="AZN").forecast(y=history, h=60, level=[80])


def boosted(history: Any, lags: int = 60) -> None:
    import lightgbm as lgb

    windows = np.lib.stride_tricks.sliding_window_view(history, lags + 1)
    data = lgb.Dataset(windows[:, :-1], windows[:, -1], params={"verbosity": -1})
    for level in LEVELS:
        parameters = {"objective": "quantile", "alpha": level, "verbosity": -1, "num_threads": 1}
        lgb.train(parameters, data, num_boost_round=100)


def forest(history: Any) -> None:
    from sklearn.ensemble import IsolationForest

    IsolationForest(n_estimators=100, random_state=0, n_jobs=1).fit(history).score_samples(history)


def growth(rows: list[Row]) -> dict[str, float]:
    """Cost per sample of the largest CPU size over that of the smallest: at most one is linear or better."""
    found = {}
    for what in ("forecaster", "detector"):
        sizes = [r for r in rows if r.what == what and r.device == "CPU"]
        found[what] = (sizes[-1].cpu / sizes[-1].samples) / (sizes[0].cpu / sizes[0].samples)
    return found


def device_name(device: torch.device) -> str | None:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def show(rows: list[Row], device: torch.device) -> None:
    console = Console(width=120)
    table = Table(title=f"training, torch {torch.__version__}, {device_name(device) or 'no CUDA device: CPU only'}")
    for column in ("what", "device", "samples", "seconds", "CPU s", "samples/s", "GPU busy"):
        table.add_column(column, justify="left" if column in ("what", "device") else "right")
    for r in rows:
        busy = "" if r.busy is None else f"{r.busy:.0%}"
        figures = (f"{r.samples:,}", f"{r.seconds:.1f}", f"{r.cpu:.1f}", f"{r.per_second:,.0f}", busy)
        table.add_row(r.what, r.device, *figures)
    console.print(table)
    for what, factor in growth(rows).items():
        console.print(f"{what}: a sample of the largest size costs {factor:.2f} of one of the smallest (1 is linear)")
    large = [r for r in rows if r.busy is not None or r.device not in ("CPU",)]
    if large:
        seconds = sum(r.seconds for r in large)
        busy = sum((r.busy or 0) * r.seconds for r in large) / seconds
        console.print(
            f"large case, both models: {seconds:.0f} s (target {TARGET_SECONDS:.0f}), GPU busy {busy:.0%} "
            f"(target {TARGET_BUSY:.0%})"
        )


if __name__ == "__main__":
    main()
