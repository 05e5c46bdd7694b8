"""What training costs: samples per second of both models, whether it grows in line with the data, and the peers' loops.

    .venv/bin/python -m benchmarks.training [--quick] [--json FILE] [--device auto|cpu|cuda]

A sample is one grid cell of the panel: entities x steps x metrics. On the CPU four sizes show how cost grows, the
largest of them once more streamed from Parquet, and the demo's size by the default configuration. `--device cuda` adds
the large case, and how busy the GPU was: 1,000 entities x 14 days x 60 s x 20 metrics, 4e8 samples.
The peers are what a loop costs that fits one model per series (forecasts) or entity (anomalies), on one thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

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
from clusterheal.metrics.dataset import Dataset
from clusterheal.metrics.parts import DAY_MS, Extent, Part
from clusterheal.metrics.storage import Storage

STEP = timedelta(seconds=60)
DAY = 1440
METRICS = 20
START_MS = 1_767_571_200_000
SIZES = ((12, 3), (25, 3), (50, 3), (100, 3))  # entities, days
QUICK = ((5, 2), (10, 2), (20, 2))
DEMO = (16, 8)
LARGE = (1000, 14)
TARGET_SECONDS, TARGET_BUSY = 360.0, 0.8
MIB = 2**20
PEER_SERIES = 2
ETS, BOOSTING = "AutoETS, one per series", "LightGBM quantiles, nine per series"
FOREST = "isolation forest, one per entity"
PEERS_OF = {"forecaster": (ETS, BOOSTING), "detector": (FOREST,)}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training. `cpu`: processor seconds, which others on the machine change little; `busy`: of the GPU, 0 to 1.

    `memory`: the most that the process took beside the panel, mapped files left out, MiB; `device_memory` on the GPU.
    """

    what: str
    device: str
    samples: int
    seconds: float
    cpu: float
    memory: float
    device_memory: float | None = None
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
    rows.append(streamed(panel))
    rows += peers(panel)
    del panel
    if not args.quick:
        rows += measure(make_panel(*DEMO), torch.device("cpu"), config=ForecasterConfig(), suffix=", demo's size")
    if device.type == "cuda" and not args.quick:
        rows += measure(make_panel(*LARGE), device, config=ForecasterConfig(device="cuda"), suffix=", large case")
    show(rows, device)
    if args.json:
        summary = {
            "cuda": device_name(device),
            "torch": torch.__version__,
            "growth": growth(rows),
            "against_peers": against_peers(rows),
            "rows": [asdict(r) for r in rows],
        }
        args.json.write_text(json.dumps(summary, indent=1) + "\n")


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
    times = START_MS * 1_000_000 + np.arange(steps, dtype=np.int64) * contract.step_ns
    return FeaturePanel(
        values=values, timestamps=times, entities=tuple(f"pod/{i}" for i in range(entities)), contract=contract
    )


def scaled_down() -> ForecasterConfig:
    """Few steps whose size follows the data as it does in the large case, without the floor for small data."""
    return ForecasterConfig(batch_rows=16, max_steps=100, evaluate_every=100, device="cpu")


def measure(panel: FeaturePanel, device: torch.device, *, config: ForecasterConfig, suffix: str = "") -> list[Row]:
    split = TimeSplit.by_fraction(panel.timestamps)
    trainings: dict[str, Callable[[], Any]] = {
        "forecaster": lambda: fit_forecaster(panel, split, config),
        "detector": lambda: fit_detector(panel, split, DetectorConfig(device=device.type)),
    }
    name = device_name(device) or "CPU"
    cuda = device.type == "cuda"
    return [timed(what + suffix, name, panel.values.size, run, cuda=cuda) for what, run in trainings.items()]


def streamed(panel: FeaturePanel) -> Row:
    """The forecaster on the same data out of Parquet, with no room for it in memory; reading the parts is included."""
    with tempfile.TemporaryDirectory() as name, mock.patch("clusterheal_models.compute.free_bytes", return_value=0):
        dataset = store(panel, Path(name, "dataset"))
        file, split = Path(name, "panel.npy"), TimeSplit.by_fraction(panel.timestamps)
        run = lambda: fit_forecaster(dataset.panel(file=file), split, scaled_down())  # noqa: E731
        return timed("forecaster, streamed", "CPU", panel.values.size, run)


def store(panel: FeaturePanel, folder: Path) -> Dataset:
    """The panel as a dataset of one part a day."""
    dataset = Dataset.create(Storage.open(folder), panel.contract)
    for first in range(0, len(panel.timestamps), DAY):
        start = START_MS + first // DAY * DAY_MS
        values = np.ascontiguousarray(panel.values[:, first : first + DAY].transpose(2, 0, 1))
        extent = Extent(start_ms=start, end_ms=start + DAY_MS, kind="pod")
        dataset.write(Part(extent=extent, entities=panel.entities, values=values))
    return dataset


def timed(what: str, device: str, samples: int, run: Callable[[], Any], *, cuda: bool = False) -> Row:
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began, cpu = time.perf_counter(), time.process_time()
    with Watcher(gpu=cuda) as watcher:
        run()
        if cuda:
            torch.cuda.synchronize()
    return Row(
        what=what,
        device=device,
        samples=samples,
        seconds=time.perf_counter() - began,
        cpu=time.process_time() - cpu,
        memory=watcher.memory,
        device_memory=torch.cuda.max_memory_allocated() / MIB if cuda else None,
        busy=watcher.busy,
    )


class Watcher:
    """Looks at the process's own memory and asks the driver how busy the GPU is, again and again in a thread."""

    def __init__(self, *, gpu: bool) -> None:
        self._before = self._most = own_memory()
        self._seen: list[float] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=look) for look in (self._memory, self._gpu)[: 1 + gpu]]

    def __enter__(self) -> Watcher:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _memory(self) -> None:
        while not self._over.wait(0.02):
            self._most = max(self._most, own_memory())

    def _gpu(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        while shutil.which(command[0]) and not self._over.wait(0.5):
            answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if answer.isdigit():
                self._seen.append(int(answer) / 100)

    @property
    def memory(self) -> float:
        return self._most - self._before

    @property
    def busy(self) -> float | None:
        return float(np.mean(self._seen)) if self._seen else None


def own_memory() -> float:
    """MiB that the process holds itself, mapped files left out."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:", 1)[1].split(None, 1)[0]) / 1024


def peers(panel: FeaturePanel) -> list[Row]:
    """One model per series or entity, a few of them, one after the other on one thread."""
    end = int(np.searchsorted(panel.timestamps, TimeSplit.by_fraction(panel.timestamps).train_end_ns))
    series = np.nan_to_num(panel.values[:PEER_SERIES, :, 0].astype(np.float64))
    loops: dict[str, tuple[int, Callable[[], Any]]] = {
        ETS: (series.size, lambda: [auto_ets(s[:end]) for s in series]),
        BOOSTING: (series.size, lambda: [boosted(s[:end]) for s in series]),
        FOREST: (
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


def against_peers(rows: list[Row]) -> dict[str, float]:
    """How many times the samples per second of each peer's loop our training does: by the default configuration where
    that was run, in the large case where there is a GPU. By CPU time on the CPU, else by the clock.
    """
    found = {}
    for what, peers_of_it in PEERS_OF.items():
        ours = [r for r in rows if r.what.startswith(what) and "streamed" not in r.what][-1]
        spent = ours.cpu if ours.device == "CPU" else ours.seconds
        for peer in (r for r in rows if r.what in peers_of_it):
            found[f"{ours.what}, on {ours.device} against {peer.what}"] = (ours.samples / spent) / (
                peer.samples / peer.cpu
            )
    return found


def device_name(device: torch.device) -> str | None:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def show(rows: list[Row], device: torch.device) -> None:
    console = Console(width=120)
    table = Table(title=f"training, torch {torch.__version__}, {device_name(device) or 'no CUDA device: CPU only'}")
    for column in ("what", "device", "samples", "seconds", "CPU s", "samples/s", "MiB", "GPU MiB", "GPU busy"):
        table.add_column(column, justify="left" if column in ("what", "device") else "right")
    for r in rows:
        busy = "" if r.busy is None else f"{r.busy:.0%}"
        memory = (f"{r.memory:.0f}", "" if r.device_memory is None else f"{r.device_memory:.0f}")
        figures = (f"{r.samples:,}", f"{r.seconds:.1f}", f"{r.cpu:.1f}", f"{r.per_second:,.0f}", *memory, busy)
        table.add_row(r.what, r.device, *figures)
    console.print(table)
    for what, factor in growth(rows).items():
        console.print(f"{what}: a sample of the largest size costs {factor:.2f} of one of the smallest (1 is linear)")
    for what, factor in against_peers(rows).items():
        console.print(f"{what}: {factor:.1f} times the samples in a second")
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
