"""`clusterheal train`"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clusterheal.settings import Settings


class Trainer(StrEnum):
    LOCAL = "local"
    CLUSTER = "cluster"


def register(app: typer.Typer) -> None:
    @app.command()
    def train(
        dataset: Annotated[str | None, typer.Option(help="Folder or s3:// URL that `collect` wrote.")] = None,
        out: Annotated[Path, typer.Option(help="Folder for the packages and their evaluations.")] = Path("out/train"),
        days: Annotated[float | None, typer.Option(help="Use the newest DAYS days; default: all there is.")] = None,
        seed: Annotated[int | None, typer.Option(help="Same seed, data and machine give the same models.")] = None,
        device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
        max_seconds: Annotated[float | None, typer.Option(help="Stop each training after this long, seconds.")] = None,
        processes: Annotated[
            int | None, typer.Option(help="Processes on this machine that train the forecaster together.")
        ] = None,
        checkpoint: Annotated[
            Path | None, typer.Option(help="Folder for checkpoints; a killed training goes on from there.")
        ] = None,
        trainer: Annotated[
            Trainer,
            typer.Option(help="`local` trains on this machine; `cluster` as a Kubeflow TrainJob, see `train_job`."),
        ] = Trainer.LOCAL,
        compare: Annotated[
            bool, typer.Option(help="Also compare with the version in service, asking the registry.")
        ] = False,
        config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    ) -> None:
        """Train, evaluate and gate both models on a collected dataset; exits 1 when the gate rejects one.

        Example: clusterheal train --dataset out/dataset --days 7 --out out/train
        Example: clusterheal train --trainer cluster --out /mnt/training/run
        """
        from clusterheal.settings import load_settings
        from clusterheal.telemetry import configure_logging

        flags: dict[str, dict[str, Any]] = {
            "dataset": {"path": dataset},
            "training": {
                "seed": seed,
                "device": device,
                "max_seconds": max_seconds,
                "processes": processes,
                "checkpoint": checkpoint,
            },
        }
        settings = load_settings(config, flags)
        configure_logging(settings.log)
        span = None if days is None else timedelta(days=days)
        rejections = train_both(settings, out, span=span, compare=compare, trainer=trainer)
        if rejections:
            from clusterheal.errors import GateRejected

            raise GateRejected("; ".join(rejections))


def train_both(
    settings: Settings, out: Path, *, span: timedelta | None, compare: bool, trainer: Trainer = Trainer.LOCAL
) -> list[str]:
    """The pipeline's steps from dataset to verdict, one after the other; returns the rejections.

    Results appear in `out` when all is done; earlier ones of the same name are replaced, anything else is left alone.

    Raises:
        DataQualityError: nothing there to train on.
    """
    import tempfile

    from clusterheal_components.snapshot import PANEL, freeze

    from clusterheal.contracts import DETECTOR, FORECASTER
    from clusterheal.metrics.dataset import Dataset

    stored = Dataset.open(settings.dataset.path, settings.dataset)
    start_ns = None if span is None else stored.newest_ns() - round(span.total_seconds() * 1e9)
    out.mkdir(parents=True, exist_ok=True)
    chosen = settings.training
    rejections = []
    with tempfile.TemporaryDirectory(dir=out, prefix=".training-") as name:
        aside = Path(name)
        panel = stored.panel(start_ns, file=aside / "dataset" / PANEL)
        freeze(panel, aside / "dataset", train=chosen.train_share, calibration=chosen.calibration_share)
        for model in (DETECTOR, FORECASTER):
            package = aside / model
            _say(f"training: {model}")
            _train(settings, model, aside / "dataset", package, trainer)
            _say(f"evaluating: {model}")
            rejections += _judge(settings, aside, package, compare=compare)
        for made in sorted(aside.iterdir()):
            _replace(made, out / made.name)
            typer.echo(str(out / made.name))
    return rejections


def _train(settings: Settings, model: str, dataset: Path, package: Path, trainer: Trainer) -> None:
    from clusterheal_components import train_job, training

    from clusterheal.contracts import DETECTOR

    chosen = settings.training
    limits: dict[str, Any] = {"seed": chosen.seed, "device": chosen.device, "max_seconds": chosen.max_seconds}
    if model == DETECTOR:  # fitted in closed form: seconds on this machine, nothing to share
        training.train_detector(dataset, package, **limits)
    elif trainer is Trainer.CLUSTER:
        fit = train_job.Fit(
            model=model,
            dataset=dataset.absolute(),
            out=package.absolute(),
            checkpoint=chosen.checkpoint and chosen.checkpoint.absolute(),
            **limits,
        )
        train_job.train_on_cluster(fit, settings.train_job, settings.kubernetes)
    else:
        training.train_forecaster(dataset, package, processes=chosen.processes, checkpoint=chosen.checkpoint, **limits)


def _judge(settings: Settings, folder: Path, package: Path, *, compare: bool) -> list[str]:
    from clusterheal_components.judging import REJECTED, decide_gate, evaluate_both

    from clusterheal.registry import Registry

    evaluation = folder / f"{package.name}.evaluation.json"
    registry = Registry(settings.registry) if compare else None
    evaluate_both(folder / "dataset", package, evaluation, lambda name, value: None, registry=registry)
    verdict, why = decide_gate(evaluation, folder / f"{package.name}.gate.md")
    typer.echo(f"{package.name}: {verdict}")
    typer.echo("\n".join(f"  {line}" for line in why.splitlines()))
    return [f"{package.name} rejected: {why.splitlines()[0]}"] if verdict == REJECTED else []


def _say(what: str) -> None:
    """What takes long; on stderr, since results go to stdout."""
    typer.echo(f"{what} ...", err=True)


def _replace(made: Path, target: Path) -> None:
    import shutil

    if target.is_dir() and made.is_dir():
        shutil.rmtree(target)
    made.rename(target)
