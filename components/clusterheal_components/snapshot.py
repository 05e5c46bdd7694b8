"""The frozen training set between the steps: one panel with its contract and its split in time.

A folder with `panel.npy` (float32 `(n_entities, n_steps, n_features)`, memory-mapped on reading) and `snapshot.json`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from clusterheal.contracts import FeatureContract, FeaturePanel, Float32, TimeSplit
from clusterheal.errors import DataQualityError, InvalidInput

PANEL, DESCRIPTION = "panel.npy", "snapshot.json"
MIN_EVALUATION_WINDOWS = 4


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a model is trained and judged on. `sha256` covers values, times, entities, contract and split."""

    panel: FeaturePanel
    split: TimeSplit
    sha256: str

    @property
    def start(self) -> datetime:
        return _time(int(self.panel.timestamps[0]))

    @property
    def end(self) -> datetime:
        return _time(int(self.panel.timestamps[-1]))


def freeze(panel: FeaturePanel, directory: Path, *, train: float, calibration: float) -> Snapshot:
    """Check that a model can be trained and judged on `panel`, split it in time, and write it.

    A panel whose values lie in `directory / PANEL` already, as `Dataset.panel` can put them, is not written again.

    Raises:
        DataQualityError: no entities, no samples, or too short a history; the message says what is needed.
        InvalidInput: shares that leave a part of the split empty.
    """
    _require_enough(panel, train=train, calibration=calibration)
    split = TimeSplit.by_fraction(panel.timestamps, train=train, calibration=calibration)
    _require_samples(panel, split)
    directory.mkdir(parents=True, exist_ok=True)
    if not _lies_in(directory / PANEL, panel.values):
        np.save(directory / "partial.npy", panel.values)
        (directory / "partial.npy").replace(directory / PANEL)
    description = {
        "contract": panel.contract.to_dict(),
        "entities": list(panel.entities),
        "start_ns": int(panel.timestamps[0]),
        "train_end_ns": split.train_end_ns,
        "calibration_end_ns": split.calibration_end_ns,
        "panel_sha256": _file_sha(directory / PANEL),
    }
    (directory / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True))
    return thaw(directory)


def thaw(directory: Path) -> Snapshot:
    """Read a snapshot back; its values stay on disk until they are used.

    Raises:
        InvalidInput: not a snapshot, or its values are not those that were frozen.
    """
    try:
        text = (directory / DESCRIPTION).read_bytes()
        data: dict[str, Any] = json.loads(text)
        values = np.load(directory / PANEL, mmap_mode="c")  # writable in memory, never on disk
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"{directory} is no training snapshot: {exc}; run the step that builds the dataset") from exc
    if _file_sha(directory / PANEL) != data["panel_sha256"]:
        raise InvalidInput(f"{directory / PANEL} was changed after it was frozen; build the dataset again")
    contract = FeatureContract.from_dict(data["contract"])
    timestamps = data["start_ns"] + np.arange(values.shape[1], dtype=np.int64) * contract.step_ns
    panel = FeaturePanel(values=values, timestamps=timestamps, entities=tuple(data["entities"]), contract=contract)
    split = TimeSplit(train_end_ns=data["train_end_ns"], calibration_end_ns=data["calibration_end_ns"])
    return Snapshot(panel=panel, split=split, sha256=hashlib.sha256(text).hexdigest())


def _require_enough(panel: FeaturePanel, *, train: float, calibration: float) -> None:
    n_entities, n_steps, n_features = panel.values.shape
    if 0 in (n_entities, n_steps, n_features):
        raise DataQualityError(
            f"the dataset is empty: {n_entities} entities, {n_steps} steps, {n_features} features; "
            "collect a range in which the catalogue's series exist"
        )
    window = panel.contract.window
    to_train = window.recent_steps + window.horizon_steps * MIN_EVALUATION_WINDOWS
    to_judge = window.recent_steps + window.horizon_steps
    rest = 1 - train - calibration
    if n_steps * train < to_train or n_steps * rest < to_judge:
        enough = 1 + round(max(to_train / train, to_judge / rest)) if min(train, rest) > 0 else "more"
        raise DataQualityError(
            f"the dataset covers {n_steps} steps of {panel.contract.step}: too short to train on {train:.0%} "
            f"and to judge on {rest:.0%} of it; collect {enough} steps or more"
        )
    if not any(np.isfinite(entity).any() for entity in panel.values):
        raise DataQualityError(f"all {panel.values.size} values are missing; check the catalogue's queries")


def _require_samples(panel: FeaturePanel, split: TimeSplit) -> None:
    """Raises DataQualityError: a part of the split has none, as where the metrics ended before the range does."""
    trained, known = (
        len(panel.between(None, end).timestamps) for end in (split.train_end_ns, split.calibration_end_ns)
    )
    n_steps = len(panel.timestamps)
    for what, first, end in (("train", 0, trained), ("calibrate", trained, known), ("judge", known, n_steps)):
        if not any(np.isfinite(entity[first:end]).any() for entity in panel.values):
            begun, over = _time(int(panel.timestamps[first])), _time(int(panel.timestamps[end - 1]))
            raise DataQualityError(
                f"every value from {begun:%Y-%m-%d %H:%M} to {over:%Y-%m-%d %H:%M} UTC is missing, so there is nothing "
                f"to {what} on; choose a range in which the metrics exist"
            )


def _lies_in(file: Path, values: Float32) -> bool:
    """Whether these are all the values of that file, not a part or a copy of them."""
    if not isinstance(values, np.memmap) or not isinstance(values.base, mmap.mmap):
        return False
    return values.filename is not None and Path(values.filename) == file.resolve()


def _file_sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _time(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1e9, UTC)
