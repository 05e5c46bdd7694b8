"""What the training components do, and the program that `torchrun` starts once per process.

Usage: torchrun -m clusterheal_components.training MODEL --dataset FOLDER --out FOLDER [--seed 7] [--device auto]
[--max-seconds S] [--checkpoint FOLDER]
"""

from __future__ import annotations

import argparse
import logging
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterheal.contracts import DETECTOR, FORECASTER, ModelPackage
from clusterheal.errors import InvalidInput
from clusterheal_components.snapshot import Snapshot, thaw

if TYPE_CHECKING:
    from clusterheal_models.compute import World
    from clusterheal_models.progress import Progress

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda")
LONGEST = timedelta(hours=24)  # for a job of several processes without a limit of its own


def train_detector(
    dataset: Path, model: Path, *, seed: int, device: str, max_seconds: float | None, accelerators: int = 0
) -> dict[str, Any]:
    """Fit the anomaly detector on the snapshot and export its package to `model`.

    `max_seconds` bounds the forecaster's training; the detector is fitted in closed form, in seconds.
    """
    from clusterheal_models.detector import DetectorConfig, fit

    _device(device, accelerators)
    snapshot = _open(dataset)
    fitted = fit(snapshot.panel, snapshot.split, DetectorConfig(seed=seed, device=device))
    return _describe(fitted.export(_empty(model)), snapshot)


def train_forecaster(
    dataset: Path,
    model: Path,
    *,
    seed: int,
    device: str,
    max_seconds: float | None,
    accelerators: int = 0,
    processes: int | None = None,
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """Fit the forecaster on the snapshot and export its package to `model`.

    `processes` train together, `None` is one per accelerator. With a `checkpoint` folder a training that was killed
    goes on from there.
    """
    from clusterheal_models.compute import World, resolve_device

    chosen = _device(device, accelerators)
    count = max(1, accelerators if processes is None else processes)
    if count > 1:
        from clusterheal_components.train_job import Fit, train_locally

        fit = Fit(
            model=FORECASTER,
            dataset=dataset.absolute(),
            out=_empty(model).absolute(),
            seed=seed,
            device=device,
            max_seconds=max_seconds,
            checkpoint=checkpoint and checkpoint.absolute(),
        )
        train_locally(fit, processes=count, timeout=LONGEST)
    else:
        world = World(device=resolve_device(chosen))
        _fit_forecaster(dataset, model, world, seed=seed, max_seconds=max_seconds, checkpoint=checkpoint)
    return _describe(ModelPackage.load(model), thaw(dataset))


def _fit_forecaster(
    dataset: Path, model: Path, world: World, *, seed: int, max_seconds: float | None, checkpoint: Path | None
) -> None:
    from clusterheal_models.forecaster import ForecasterConfig, fit

    snapshot = _open(dataset)
    config = ForecasterConfig(seed=seed, max_seconds=max_seconds, checkpoint=checkpoint)
    fitted = fit(snapshot.panel, snapshot.split, config, world=world, progress=_log_progress)
    if world.first:
        fitted.export(_empty(model))


def _log_progress(report: Progress) -> None:
    log.info(
        "%s: step %d of %d, loss %.4f, %.0f windows/s, %.0f s left",
        report.phase,
        report.done,
        report.total,
        report.loss or 0.0,
        report.samples_per_second or 0.0,
        report.seconds_left or 0.0,
    )


def main(arguments: list[str] | None = None) -> None:
    """One process of a training; the first of them writes the package."""
    from clusterheal_models.compute import join

    parser = argparse.ArgumentParser(prog="clusterheal_components.training", description=main.__doc__)
    parser.add_argument("model", choices=(DETECTOR, FORECASTER))
    parser.add_argument("--dataset", type=Path, required=True, help="folder of the frozen training set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the package")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--checkpoint", type=Path, help="folder of the checkpoint, which all processes can read")
    given = parser.parse_args(arguments)
    limits = {"seed": given.seed, "max_seconds": given.max_seconds}
    with join(given.device) as world:
        if given.model == FORECASTER:
            _fit_forecaster(given.dataset, given.out, world, checkpoint=given.checkpoint, **limits)
        elif world.first:  # fitted in closed form: there is nothing to share
            train_detector(given.dataset, given.out, device=given.device, **limits)
        world.wait()


def _device(device: str, accelerators: int) -> str:
    """Raises:
    InvalidInput: no such device, or GPUs were asked for and torch sees none.
    """
    if device not in DEVICES:
        raise InvalidInput(f"device: expected one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cuda" or (accelerators and device != "cpu"):
        import torch

        if not torch.cuda.is_available():
            asked = f"{accelerators} accelerators were" if accelerators else "the device cuda was"
            raise InvalidInput(
                f"{asked} asked for, but torch sees no CUDA device; check the accelerator's resource name and the "
                "image, or train on the device cpu with 0 accelerators"
            )
    return device


def _open(dataset: Path) -> Snapshot:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return thaw(dataset)


def _empty(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _describe(package: ModelPackage, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "name": package.name,
        "package_sha256": package.sha256,
        "contract_sha256": package.contract.sha256,
        "dataset_sha256": snapshot.sha256,
    }


if __name__ == "__main__":
    from torch.distributed.elastic.multiprocessing.errors import record

    record(main)()  # so that torchrun's summary has the error, not only that there was one
