# mypy: disable-error-code=untyped-decorator
"""What Kubeflow Pipelines' runner adds to each step, and how long it takes from new data to promoted models.

    .venv/bin/python -m benchmarks.pipelines [--quick] [--json FILE]

The first part runs the same components under kfp.local and as bare functions. Both ways do the same work on the same
stored dataset against the same development registry. Under the runner every step is a process of its own, that imports
what it needs; the bare functions share one process, imports done.
The second part runs the pipeline `train` on ten generated days in a real Prometheus, against the emulator and real
model servers, until both models serve; trainings are bounded by --train-seconds, the bake time is two seconds. Then
`release` brings a second version of the detector into service beside the first, and `release` with the version
`previous` goes back.
No postponed annotations in this module: KFP reads those of its pipeline as objects.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from clusterheal.contracts import (
    DETECTOR,
    FORECASTER,
    EntityKind,
    FeatureContract,
    FeaturePanel,
    FeatureSpec,
    default_window,
    seal_package,
)
from clusterheal.local.registry.server import create_app, now_ms, running
from clusterheal.local.registry.store import ResourceStore
from clusterheal.local.runner import PipelineRun, run_pipeline
from clusterheal.local.runner_platform import RunnerPlatform

STEP = timedelta(minutes=5)
START = datetime(2026, 1, 5, tzinfo=UTC)
DAY_MS = 86_400_000
DAYS = 10
GATES = ("Gate detector", "Gate forecaster")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Seconds of one step; `overhead` is what the runner added."""

    step: str
    runner: float
    bare: float

    @property
    def overhead(self) -> float:
        return self.runner - self.bare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="fewer entities, shorter trainings")
    parser.add_argument("--train-seconds", type=float, help="bound of each training; default: 60, quick: 20")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, addresses(Path(scratch)):
        panel = make_panel(entities=4 if args.quick else 16, days=8)
        store_panel(panel, Path(scratch, "dataset"))
        run, total = under_runner(panel, Path(scratch))
        rows = [
            Row(step=title, runner=run.step(title).seconds, bare=s) for title, s in bare(panel, Path(scratch)).items()
        ]
    show(rows, total)
    whole = from_data_to_service(args.train_seconds or (20.0 if args.quick else 60.0))
    show_whole(whole)
    if args.json:
        figures = [asdict(row) | {"overhead": row.overhead} for row in rows]
        result = {"steps": figures, "pipeline_seconds": total, "data_to_service": asdict(whole)}
        args.json.write_text(json.dumps(result, indent=1))


@dataclass(frozen=True, kw_only=True)
class Whole:
    """One run of `train`, in seconds: in all, and per step; `serving` names the versions that answer in the end.

    `release` and `back` are the steps of releasing a further version and of returning to the one before.
    """

    seconds: float
    train_seconds: float
    steps: dict[str, float]
    serving: dict[str, str]
    release: dict[str, float]
    back: dict[str, float]


def from_data_to_service(train_seconds: float) -> Whole:
    """Days that nobody has collected yet, until both models trained on them are in service."""
    from clusterheal_pipelines.compiling import compile_pipeline

    from clusterheal.local.runner_platform import generate_history, runner_platform

    step_seconds = round(STEP.total_seconds())
    with tempfile.TemporaryDirectory() as scratch:
        generate_history(Path(scratch), days=DAYS, step_seconds=step_seconds)
        package = compile_pipeline("train", Path(scratch, "train.yaml"))
        with runner_platform(Path(scratch), step_seconds=step_seconds) as platform:
            arguments = {"days": DAYS - 0.5, "device": "cpu", "max_seconds": train_seconds}
            run = run_pipeline(package, arguments, out=platform.out, env=platform.env)
            if run.status != "succeeded":
                raise SystemExit(f"the pipeline failed: {run.error}")
            serving = {name: platform.registry.current(name) for name in (DETECTOR, FORECASTER)}
            release, back = there_and_back(platform, Path(scratch)) if serving[DETECTOR] is not None else ({}, {})
    missing = [name for name, version in serving.items() if version is None]
    if missing:
        why = {title: run.step(title).artifacts["reasons"]["metadata"]["why"] for title in GATES}
        raise SystemExit(f"{missing} did not come into service: {why}")
    return Whole(
        seconds=run.seconds,
        train_seconds=train_seconds,
        steps={step.title: step.seconds for step in run.steps},
        serving={name: version.version for name, version in serving.items() if version is not None},
        release=release,
        back=back,
    )


def there_and_back(platform: RunnerPlatform, scratch: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Release the detector in service once more, as another version, and go back; seconds by step."""
    from clusterheal_pipelines.compiling import compile_pipeline

    current = platform.registry.current(DETECTOR)
    assert current is not None
    package = platform.registry.fetch(current, scratch / "fetched")
    copy = scratch / "again"
    shutil.copytree(package.path, copy)
    for path in (copy, *copy.iterdir()):
        path.chmod(path.stat().st_mode | 0o200)
    with (copy / "MODEL_CARD.md").open("a") as card:
        card.write("\nThe same model, released again by a benchmark.\n")
    again = platform.registry.register(seal_package(copy, name=DETECTOR, contract=package.contract))
    target = compile_pipeline("release", scratch / "release.yaml")
    taken = []
    for version, expected in ((again.version, again.version), ("previous", current.version)):
        run = run_pipeline(target, {"name": DETECTOR, "version": version}, out=platform.out, env=platform.env)
        serving = platform.registry.current(DETECTOR)
        if run.status != "succeeded" or serving is None or serving.version != expected:
            raise SystemExit(f"the release of {version} failed: {run.error}")
        taken.append({step.title: step.seconds for step in run.steps})
    return taken[0], taken[1]


def show_whole(whole: Whole) -> None:
    table = Table(title=f"From new data to both models in service: {whole.seconds:.1f} s")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    for title, seconds in whole.steps.items():
        table.add_row(title, f"{seconds:.2f}")
    Console().print(table)
    for title, steps in (("A further version released", whole.release), ("Back to the one before", whole.back)):
        parts = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in steps.items())
        Console().print(f"{title}: {sum(steps.values()):.1f} s ({parts})")


@contextmanager
def addresses(scratch: Path) -> Iterator[None]:
    """A registry, and the variables by which the steps find it and the dataset."""
    store = ResourceStore(scratch / "registry.sqlite", now_ms=now_ms)
    with running(create_app(store)) as url:
        given = {
            "CLUSTERHEAL_REGISTRY__URL": url,
            "CLUSTERHEAL_REGISTRY__STORAGE": str(scratch / "models"),
            "CLUSTERHEAL_DATASET__PATH": str(scratch / "dataset"),
        }
        before = {key: os.environ.get(key) for key in given}
        os.environ.update(given)
        try:
            yield
        finally:
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})
    store.close()


def make_panel(*, entities: int, days: int, features: int = 12) -> FeaturePanel:
    """Daily seasons and slowly wandering noise; values `(entities, days * 288, features)`."""
    contract = FeatureContract(
        entity_kinds=(EntityKind(name="node", labels=("node",)),),
        features=tuple(
            FeatureSpec(name=f"f{i}", promql=f"f{i}", unit="1", entity_kind="node") for i in range(features)
        ),
        step=STEP,
        window=default_window(STEP),
    )
    rng = np.random.default_rng(7)
    n = days * (timedelta(days=1) // STEP)
    noise = rng.normal(0, 0.1, (entities, n, features))
    for i in range(1, n):
        noise[:, i] += 0.9 * noise[:, i - 1]
    season = np.sin(2 * np.pi * np.arange(n) / 288)[None, :, None]
    times = round(START.timestamp()) * 10**9 + np.arange(n, dtype=np.int64) * contract.step_ns
    keys = tuple(f"node/worker-{i}" for i in range(entities))
    return FeaturePanel(
        values=(3 + season + noise).astype(np.float32), timestamps=times, entities=keys, contract=contract
    )


def store_panel(panel: FeaturePanel, path: Path) -> None:
    """As the collection would have written it, one part a day."""
    from clusterheal.metrics.dataset import Dataset
    from clusterheal.metrics.parts import Extent, Part
    from clusterheal.metrics.storage import Storage

    dataset = Dataset.create(Storage.open(path), panel.contract)
    for day in range(len(panel.timestamps) // 288):
        rows = slice(day * 288, (day + 1) * 288)
        start = int(panel.timestamps[rows][0]) // 10**6
        values = np.ascontiguousarray(panel.values[:, rows].transpose(2, 0, 1))
        extent = Extent(start_ms=start, end_ms=start + DAY_MS, kind="node")
        dataset.write(Part(extent=extent, entities=panel.entities, values=values))


def span(panel: FeaturePanel) -> tuple[str, str]:
    """Begin and end of the panel, ISO 8601."""
    end = datetime.fromtimestamp(int(panel.timestamps[-1]) / 1e9, UTC) + STEP
    return START.isoformat(), end.isoformat()


def under_runner(panel: FeaturePanel, scratch: Path) -> tuple[PipelineRun, float]:
    """Build, train, evaluate, gate and register one model as a pipeline; the run and its seconds."""
    from clusterheal_components.build_dataset import build_dataset
    from clusterheal_pipelines.cluster import on_cluster
    from clusterheal_pipelines.steps import Training, judged_model
    from kfp import compiler, dsl

    start, end = span(panel)

    @dsl.pipeline(name="overhead")
    def overhead() -> None:
        built = on_cluster(build_dataset(start=start, end=end), "Build dataset")
        options = Training(
            seed=7, device="cpu", max_seconds=60.0, accelerator="none", accelerators="0", node_selector={}
        )
        judged_model(DETECTOR, built.outputs["dataset"], options)

    package = scratch / "overhead.yaml"
    compiler.Compiler().compile(overhead, str(package))
    run = run_pipeline(package, {}, out=scratch / "runs")
    if run.status != "succeeded":
        raise SystemExit(f"the pipeline failed: {run.error}")
    return run, run.seconds


def bare(panel: FeaturePanel, scratch: Path) -> dict[str, float]:
    """The same five functions in this process, seconds by the step's title; registered under a second version."""
    from clusterheal_components.build_dataset import build_dataset
    from clusterheal_components.evaluate import evaluate
    from clusterheal_components.gate import gate
    from clusterheal_components.register import register
    from clusterheal_components.train_detector import train_detector
    from kfp import dsl

    def artifact(kind: Any, name: str) -> Any:
        return kind(name=name, uri=str(scratch / "bare" / name), metadata={})

    (scratch / "bare").mkdir()
    start, end = span(panel)
    dataset, model = artifact(dsl.Dataset, "dataset"), artifact(dsl.Model, "model")
    evaluation, reasons = artifact(dsl.Artifact, "evaluation"), artifact(dsl.Markdown, "reasons")
    seconds: dict[str, float] = {}

    def timed(title: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = call()
        seconds[title] = time.perf_counter() - began
        return result

    import model_registry  # noqa: F401 - imports are not what is measured here

    judge = {"dataset": dataset, "model": model, "evaluation": evaluation}
    timed("Build dataset", lambda: build_dataset.python_func(start=start, end=end, dataset=dataset))
    timed("Train detector", lambda: train_detector.python_func(dataset=dataset, model=model, device="cpu"))
    seen = {"metrics": artifact(dsl.Metrics, "metrics"), "roc": artifact(dsl.ClassificationMetrics, "roc")}
    seen["plots"] = artifact(dsl.HTML, "plots")
    timed("Evaluate detector", lambda: evaluate.python_func(**judge, **seen))
    verdict = timed("Gate detector", lambda: gate.python_func(evaluation=evaluation, reasons=reasons))
    names = {"run_id": "bare", "run_name": "bare"}
    timed("Register detector", lambda: register.python_func(**judge, reasons=reasons, verdict=verdict, **names))
    return seconds


def show(rows: list[Row], total: float) -> None:
    table = Table(title="Seconds per step")
    for column in ("step", "under the runner", "bare function", "overhead"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for row in rows:
        table.add_row(row.step, f"{row.runner:.2f}", f"{row.bare:.2f}", f"{row.overhead:.2f}")
    steps = sum(row.runner for row in rows)
    table.add_row(
        "all steps", f"{steps:.2f}", f"{sum(r.bare for r in rows):.2f}", f"{sum(r.overhead for r in rows):.2f}"
    )
    table.add_row("starting the runner", f"{total - steps:.2f}", "", f"{total - steps:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
