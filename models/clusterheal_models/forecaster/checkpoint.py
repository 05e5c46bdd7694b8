"""Checkpoints as safetensors: weights, averages and optimiser state, so that a killed fit goes on alike.

There is no generator state in them: what a step draws follows from the seed and its number.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from clusterheal.errors import InvalidInput

if TYPE_CHECKING:
    from clusterheal_models.forecaster.training import Trainer

FILE = "forecaster.safetensors"


def save_checkpoint(folder: Path, trainer: Trainer) -> None:
    """Write everything that the next step depends on; the file appears whole or not at all."""
    tensors: dict[str, torch.Tensor] = {}
    for prefix, values in _states(trainer):
        tensors |= {f"{prefix}/{k}": v.detach().cpu().contiguous().clone() for k, v in values.items()}
    for index, slots in trainer.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{index}/{k}": torch.as_tensor(v).cpu().clone() for k, v in slots.items()}
    state = trainer.state
    progress = {
        "step": state.step,
        "best_step": state.best_step,
        "best_loss": state.best_loss if state.best else None,
        "history": state.history,
        "batch_rows": state.batch_rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{FILE}.partial"
    save_file(tensors, partial, metadata={"progress": json.dumps(progress), "run": run_id(trainer)})
    partial.replace(folder / FILE)


def load_checkpoint(folder: Path, trainer: Trainer) -> None:
    """Go on from `folder` when it holds a checkpoint; does nothing when it holds none.

    Raises:
        InvalidInput: the checkpoint is damaged or comes from other data or another configuration.
    """
    path = folder / FILE
    if not path.is_file():
        return
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (not a mapping)
    except SafetensorError as exc:
        raise InvalidInput(f"{path}: not a readable checkpoint ({exc}); delete it to start again") from exc
    if metadata.get("run") != run_id(trainer):
        raise InvalidInput(
            f"{path}: comes from other data or another configuration; delete it or give another checkpoint folder"
        )
    _restore(trainer, tensors, json.loads(metadata["progress"]))


def run_id(trainer: Trainer) -> str:
    """Hash of configuration, data and span: what must be equal for a checkpoint to fit."""
    settings: dict[str, Any] = asdict(trainer.config)
    for free in ("checkpoint", "checkpoint_every", "max_seconds", "threads"):
        settings.pop(free)
    about = [settings, asdict(trainer.span), trainer.source.fingerprint]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _states(trainer: Trainer) -> list[tuple[str, dict[str, torch.Tensor]]]:
    return [("net", trainer.net.state_dict()), ("averaged", trainer.state.averaged), ("best", trainer.state.best)]


def _restore(trainer: Trainer, tensors: dict[str, torch.Tensor], progress: dict[str, Any]) -> None:
    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(f"{prefix}/"): v for k, v in tensors.items() if k.startswith(f"{prefix}/")}

    device = trainer.source.device
    trainer.net.load_state_dict(part("net"))
    trainer.state.averaged = {k: v.to(device) for k, v in part("averaged").items()}
    trainer.state.best = {k: v.to(device) for k, v in part("best").items()}
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in part("optimiser").items():
        index, name = key.split("/")
        slots.setdefault(int(index), {})[name] = value
    groups = trainer.optimiser.state_dict()["param_groups"]
    trainer.optimiser.load_state_dict({"state": slots, "param_groups": groups})
    state = trainer.state
    state.step, state.best_step, state.batch_rows = progress["step"], progress["best_step"], progress["batch_rows"]
    state.best_loss = float("inf") if progress["best_loss"] is None else progress["best_loss"]
    state.history = [(int(a), float(b)) for a, b in progress["history"]]
