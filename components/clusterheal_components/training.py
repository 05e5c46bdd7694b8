"""What the training components do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from clusterheal.contracts import ModelPackage
from clusterheal.errors import InvalidInput
from clusterheal_components.snapshot import Snapshot, thaw

DEVICES = ("auto", "cpu", "cuda")


def train_detector(
    dataset: Path, model: Path, *, seed: int, device: str, max_seconds: float | None, accelerators: int = 0
) -> dict[str, Any]:
    """Fit the anomaly detector on the snapshot and export its package to `model`.

    `device` and `max_seconds` bound the forecaster's training; the detector is fitted in closed form, on the CPU.
    """
    from clusterheal_models.detector import DetectorConfig, fit

    _device(device, accelerators)
    snapshot = _open(dataset)
    fitted = fit(snapshot.panel, snapshot.split, DetectorConfig(seed=seed))
    return _describe(fitted.export(_empty(model)), snapshot)


def train_forecaster(
    dataset: Path, model: Path, *, seed: int, device: str, max_seconds: float | None, accelerators: int = 0
) -> dict[str, Any]:
    """Fit the forecaster on the snapshot and export its package to `model`."""
    from clusterheal_models.forecaster import ForecasterConfig, fit

    chosen = _device(device, accelerators)
    snapshot = _open(dataset)
    config = ForecasterConfig(seed=seed, device=chosen, max_seconds=max_seconds)  # type: ignore[arg-type]
    fitted = fit(snapshot.panel, snapshot.split, config)
    return _describe(fitted.export(_empty(model)), snapshot)


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
