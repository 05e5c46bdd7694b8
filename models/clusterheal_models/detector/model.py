"""The fitted detector: score panels with it, or export it as a package."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clusterheal.contracts import DETECTOR, FeaturePanel, ModelPackage, TimeSplit, model_inputs
from clusterheal_models.compute import reproducible, resolve_device
from clusterheal_models.detector.card import model_card
from clusterheal_models.detector.config import PIECES, DetectorConfig
from clusterheal_models.detector.fit import Fitted, fit_graph
from clusterheal_models.detector.graph import OUTPUT_NAMES
from clusterheal_models.detector.memory import MEMORY, no_memory
from clusterheal_models.export import check_parity, export_onnx, write_package
from clusterheal_models.progress import Progress, ProgressCallback

SAMPLE_ROWS = 4
LEAST_FLOOR = 1e-4


@dataclass(frozen=True, kw_only=True)
class Detector:
    """What `fit` returns. `panel` is kept only to cut the sample request from its end."""

    fitted: Fitted
    config: DetectorConfig
    panel: FeaturePanel
    split: TimeSplit

    def export(self, directory: Path) -> ModelPackage:
        """Write and seal a package in `directory` (made if absent).

        Raises:
            PackageInvalid: a file of the package could not be written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        graph, example = self.fitted.graph, self.sample_inputs()
        export_onnx(graph, example, directory / "model.onnx", output_names=OUTPUT_NAMES)
        floors = {name: tenth_of_metric for name in OUTPUT_NAMES if name.startswith("expected_")}
        outputs = check_parity(graph, directory / "model.onnx", example, output_names=OUTPUT_NAMES, floors=floors)
        inputs = {name: example[name].numpy() for name in ("recent", "seasonal", "timestamp", "memory")}
        inputs["entity"] = np.array([self.panel.entities[i] for i in example["entity_index"]], dtype=object)
        calibration, metrics = self.calibration(), self.metrics()
        return write_package(
            directory,
            name=DETECTOR,
            contract=self.panel.contract,
            calibration=calibration,
            metrics=metrics,
            inputs=inputs,
            outputs=outputs,
            card=model_card(self.panel, self.split, calibration, metrics),
        )

    def calibration(self) -> dict[str, Any]:
        """Thresholds and how they were set; `entities` maps a key to its `entity_index` by position."""
        return {
            "entities": list(self.panel.entities),
            "unknown_entity_index": -1,
            "alarm_ratio": float(self.fitted.graph.alarm_ratio),
            "alarm_score": float(self.fitted.graph.alarm_score),
            "false_alarms_per_entity_day": self.config.false_alarms_per_day,
            "most_alarms_begun_per_entity_day": self.config.false_alarms_per_day + self.config.real_alarms_per_day,
            "event_prior": self.config.event_prior,
            "found_share_at_score": [float(v) for v in self.fitted.graph.found_share],
            "pieces": list(PIECES),
            "memory": list(MEMORY),
            "config": {name: value for name, value in asdict(self.config).items() if name != "device"},
            "train_end_ns": self.split.train_end_ns,
            "calibration_end_ns": self.split.calibration_end_ns,
        }

    def metrics(self) -> dict[str, Any]:
        days = self.fitted.calibration_days
        return {
            "calibration_entity_days": days,
            "calibration_alarm_steps_per_entity_day": self.fitted.calibration_alarm_steps / max(days, 1e-9),
            "parameters": sum(int(b.numel()) for b in self.fitted.graph.buffers()),
        }

    def sample_inputs(self) -> dict[str, Tensor]:
        """The graph's inputs for a few entities at the panel's end; at least two rows, so that the batch stays free."""
        inputs = model_inputs(self.panel)
        rows = np.arange(max(2, min(SAMPLE_ROWS, len(inputs.entity)))) % len(inputs.entity)
        tensors = {
            "recent": torch.from_numpy(inputs.recent[rows]),
            "seasonal": torch.from_numpy(inputs.seasonal[rows]),
            "timestamp": torch.from_numpy(inputs.timestamp[rows]),
            "entity_index": torch.from_numpy(rows.astype(np.int64)),
            "memory": no_memory(len(rows)),
        }
        with torch.no_grad():  # the first row is asked for the first time, the others are asked again
            tensors["memory"][1:] = self.fitted.graph(*tensors.values())[-1][1:]
        return tensors


def tenth_of_metric(band: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A tenth of each metric's largest magnitude: `(B, F)` to `(F,)`.

    Metrics have units of their own: a wrong ratio must not vanish beside bytes. One that is 0 has the rounding errors
    of what the scaling added and took away again.
    """
    size = np.abs(band)
    size[~np.isfinite(size)] = 0.0
    return np.asarray(np.maximum(0.1 * size.max(0), LEAST_FLOOR))


def fit(
    panel: FeaturePanel,
    split: TimeSplit,
    config: DetectorConfig | None = None,
    *,
    progress: ProgressCallback | None = None,
) -> Detector:
    """Train and calibrate on the time before `split.calibration_end_ns`; what comes later is not looked at.

    The graph is on the CPU afterwards, whatever the configuration's device.

    Raises:
        DataQualityError: too short or empty training or calibration time.
        InvalidInput: CUDA was asked for and torch sees none.
    """
    chosen = config or DetectorConfig()

    def report(stage: str, share: float) -> None:
        if progress is not None:
            progress(Progress(phase=stage, done=round(100 * share), total=100))

    known, where = panel.between(None, split.calibration_end_ns), resolve_device(chosen.device)
    with reproducible(where, threads=torch.get_num_threads()):
        fitted = fit_graph(known, split, chosen, report, where)
    report("done", 1.0)
    return Detector(fitted=fitted, config=chosen, panel=known, split=split)
