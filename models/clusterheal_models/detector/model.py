"""The fitted detector: score panels with it, or export it as a package."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from clusterheal.contracts import DETECTOR, FeaturePanel, ModelPackage, TimeSplit, model_inputs, seal_package
from clusterheal_models.detector.card import model_card
from clusterheal_models.detector.config import PIECES, DetectorConfig
from clusterheal_models.detector.fit import Fitted, fit_graph
from clusterheal_models.detector.onnx_export import export_onnx

Progress = Callable[[str, float], None]
SAMPLE_ROWS = 4


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
        export_onnx(self.fitted.graph, self.panel.contract, directory / "model.onnx")
        calibration = self.calibration()
        (directory / "calibration.json").write_text(json.dumps(calibration, indent=1, sort_keys=True))
        (directory / "metrics.json").write_text(json.dumps(self.metrics(), indent=1, sort_keys=True))
        (directory / "sample_request.json").write_text(json.dumps(self.sample_request()))
        (directory / "MODEL_CARD.md").write_text(model_card(self.panel, self.split, calibration, self.metrics()))
        return seal_package(directory, name=DETECTOR, contract=self.panel.contract)

    def calibration(self) -> dict[str, Any]:
        """Thresholds and how they were set; `entities` maps a key to its `entity_index` by position."""
        return {
            "entities": list(self.panel.entities),
            "unknown_entity_index": -1,
            "alarm_score": float(self.fitted.graph.threshold),
            "false_alarms_per_entity_day": self.config.false_alarms_per_day,
            "event_prior": self.config.event_prior,
            "found_share_at_score": list(self.fitted.found_share),
            "pieces": list(PIECES),
            "config": asdict(self.config),
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

    def sample_request(self) -> dict[str, Any]:
        """V2 inputs for the last rows of the panel, and what the model answers to them."""
        inputs = model_inputs(self.panel)
        rows = min(SAMPLE_ROWS, len(inputs.entity))
        with torch.no_grad():
            answer = self.fitted.graph(
                torch.from_numpy(inputs.recent[:rows]),
                torch.from_numpy(inputs.seasonal[:rows]),
                torch.from_numpy(inputs.timestamp[:rows]),
                torch.arange(rows),
            )
        return {
            "parameters": {"contract_sha256": self.panel.contract.sha256},
            "inputs": [
                _tensor("recent", "FP32", torch.from_numpy(inputs.recent[:rows])),
                _tensor("seasonal", "FP32", torch.from_numpy(inputs.seasonal[:rows])),
                _tensor("timestamp", "INT64", torch.from_numpy(inputs.timestamp[:rows])),
                {"name": "entity", "datatype": "BYTES", "shape": [rows], "data": list(inputs.entity[:rows])},
            ],
            "expected": {"score": [float(v) for v in answer[0]]},
        }


def _tensor(name: str, datatype: str, value: torch.Tensor) -> dict[str, Any]:
    flat = [None if math.isnan(v) else v for v in value.reshape(-1).tolist()]
    return {"name": name, "datatype": datatype, "shape": list(value.shape), "data": flat}


def fit(
    panel: FeaturePanel, split: TimeSplit, config: DetectorConfig | None = None, *, progress: Progress | None = None
) -> Detector:
    """Train and calibrate on the time before `split.calibration_end_ns`; what comes later is not looked at.

    `progress` is called with a stage's name and the share done, 0 to 1.

    Raises:
        DataQualityError: too short or empty training or calibration time.
    """
    chosen = config or DetectorConfig()
    report = progress or (lambda _stage, _share: None)
    torch.manual_seed(chosen.seed)
    known = panel.between(None, split.calibration_end_ns)
    fitted = fit_graph(known, split, chosen, report)
    report("done", 1.0)
    return Detector(fitted=fitted, config=chosen, panel=known, split=split)
