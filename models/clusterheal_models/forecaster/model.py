"""`fit` trains the forecaster on a panel; `Forecaster.export` seals it as the package `predictive-analytics`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clusterheal.contracts import (
    FORECASTER,
    FeatureContract,
    FeaturePanel,
    Float32,
    ModelInputs,
    ModelPackage,
    TimeSplit,
    model_inputs,
    split_entity_key,
)
from clusterheal.contracts.requests import Tensor
from clusterheal.errors import DataQualityError
from clusterheal_models.cards import render_card
from clusterheal_models.compute import World, reproducible, resolve_device
from clusterheal_models.export import OPSET, TOLERANCE, check_parity, export_onnx, write_package
from clusterheal_models.forecaster.calibration import Calibration, calibrate
from clusterheal_models.forecaster.config import LEVELS, ForecasterConfig
from clusterheal_models.forecaster.network import DAY_NS, ForecastNet
from clusterheal_models.forecaster.tables import feature_tables
from clusterheal_models.forecaster.training import Trainer, TrainSpan, TrainState
from clusterheal_models.forecaster.windows import WindowSource
from clusterheal_models.progress import ProgressCallback

OUTPUT_NAMES = ("quantiles", "levels")
WEEKLY_SPAN_NS = 21 * DAY_NS  # with less, a weekday cannot be told from a trend
MIN_LAG_SHARE = 0.1  # of the training windows; a lag seen less often is left out


@dataclass(frozen=True, kw_only=True)
class Forecaster:
    """A fitted forecaster: the network on the CPU in evaluation mode, and how it came about."""

    contract: FeatureContract
    net: ForecastNet
    config: ForecasterConfig
    state: TrainState
    calibration: Calibration
    example: ModelInputs
    data: dict[str, Any]

    def predict(self, inputs: ModelInputs) -> Float32:
        """Quantiles `(batch, horizon_steps, n_features, n_levels)` in the features' units."""
        with torch.no_grad():
            quantiles, _ = self.net(*_tensors(inputs).values())
        result: Float32 = quantiles.numpy()
        return result

    def export(self, directory: Path) -> ModelPackage:
        """Write and seal the package; equal data, seed and machine give equal bytes.

        Raises:
            PackageInvalid: the ONNX graph does not answer what torch answers.
        """
        directory.mkdir(parents=True, exist_ok=True)
        example = _tensors(self.example)
        path = directory / "model.onnx"
        export_onnx(self.net, example, path, output_names=OUTPUT_NAMES, static_outputs=("levels",))
        floors = {"quantiles": band_width}
        outputs = check_parity(self.net, path, example, output_names=OUTPUT_NAMES, floors=floors)
        return write_package(
            directory,
            name=FORECASTER,
            contract=self.contract,
            calibration=self._calibration_json(),
            metrics=self._metrics_json(),
            inputs={name: tensor.numpy() for name, tensor in example.items()},
            outputs=outputs,
            card=render_card(FORECASTER, self.contract, self._metrics_json()),
        )

    def _calibration_json(self) -> dict[str, Any]:
        c = self.calibration
        return {
            "schema_version": 1,
            "levels": list(LEVELS),
            "windows": c.windows,
            "widening": [[round(float(x), 6) for x in row] for row in c.widening],
            "coverage80_before": _finite(c.coverage_before),
            "coverage80_after": _finite(c.coverage_after),
        }

    def _metrics_json(self) -> dict[str, Any]:
        config = asdict(self.config)
        for free in ("checkpoint", "checkpoint_every", "device", "threads"):
            config.pop(free)
        return {
            "schema_version": 1,
            "opset": OPSET,
            "parity_tolerance": TOLERANCE,
            "parameters": sum(p.numel() for p in self.net.parameters()),
            "data": self.data,
            "season_lags_used": [
                lag
                for lag, usable in zip(self.contract.window.season_lags, self.net.usable_lag.tolist(), strict=True)
                if usable
            ],
            "training": {
                "config": config,
                "steps": self.state.step,
                "best_step": self.state.best_step,
                "batch_rows": self.state.batch_rows,
                "history": [{"step": s, "loss": round(v, 6)} for s, v in self.state.history],
            },
        }


def fit(
    panel: FeaturePanel,
    split: TimeSplit,
    config: ForecasterConfig,
    *,
    world: World | None = None,
    progress: ProgressCallback | None = None,
) -> Forecaster:
    """Train on the time before `split.train_end_ns`, stop and calibrate on the time up to `calibration_end_ns`.

    Nothing after `calibration_end_ns` is looked at. With a `world` of several processes, each calls this with the same
    arguments and gets the same model; its device counts, not the configuration's.

    Raises:
        DataQualityError: too little history, or no series with any change.
    """
    known = panel.between(None, split.calibration_end_ns)
    train_end = int(np.searchsorted(known.timestamps, split.train_end_ns))
    span = _span(known, train_end)
    world = world or World(device=resolve_device(config.device))
    device = world.device
    with reproducible(device, threads=config.threads):
        torch.manual_seed(config.seed)
        train_part = known.between(None, split.train_end_ns)
        duration = int(train_part.timestamps[-1] - train_part.timestamps[0])
        net = ForecastNet(
            config,
            panel.contract.window,
            panel.contract.step_ns,
            feature_tables(train_part),
            weekly=duration >= WEEKLY_SPAN_NS,
        ).to(device)
        source = WindowSource(known, train_end=train_end, device=device)
        net.usable_lag.copy_(source.lag_share(span.first, span.end) >= MIN_LAG_SHARE)
        trainer = Trainer(net, source, span, config, world=world, progress=progress)
        state = trainer.run()
        calibration = calibrate(net, source, span.end, span.later_end)
        if config.refit_share > 0:
            trainer.refit(round(config.refit_share * state.best_step))
    return Forecaster(
        contract=panel.contract,
        net=net.cpu().eval(),
        config=config,
        state=state,
        calibration=calibration,
        example=_example(known),
        data=_describe(known, source, split),
    )


def _span(panel: FeaturePanel, train_end: int) -> TrainSpan:
    """Where targets may lie; the first ones have at least some recent steps behind them."""
    window = panel.contract.window
    later_end = len(panel.timestamps)
    need = 2 * window.horizon_steps
    if train_end < need or later_end - train_end < window.horizon_steps:
        raise DataQualityError(
            f"the history has {train_end} steps to train on and {later_end - train_end} to calibrate on; expected at "
            f"least {need} and {window.horizon_steps}: collect a longer history or shorten the horizon"
        )
    first = min(window.recent_steps, train_end - window.horizon_steps)
    return TrainSpan(first=first, end=train_end, later_end=later_end)


def _tensors(inputs: ModelInputs) -> dict[str, torch.Tensor]:
    """The graph's inputs; entity keys play no part in a forecast."""
    return {
        "recent": torch.from_numpy(np.ascontiguousarray(inputs.recent)),
        "seasonal": torch.from_numpy(np.ascontiguousarray(inputs.seasonal)),
        "timestamp": torch.from_numpy(inputs.timestamp),
    }


def band_width(quantiles: Tensor) -> Tensor:
    """Widest distance of the outermost quantiles of each row and feature: `(B, H, F, Q)` to `(B, 1, F, 1)`.

    A quantile is a location plus a multiple of the window's scale; near zero, what rounding leaves of that sum is as
    large as the scale makes it, whatever the sum. Each series stands for itself, so that a wrong forecast of a ratio
    does not vanish beside bytes.
    """
    width = (quantiles[..., -1] - quantiles[..., 0]).max(axis=1)
    return np.asarray(np.nan_to_num(width)[:, None, :, None])


def _example(panel: FeaturePanel) -> ModelInputs:
    """The golden request: the newest window of the first entity of each kind, since others lack a kind's features."""
    inputs = model_inputs(panel)
    first: dict[str, int] = {}
    for row, key in enumerate(panel.entities):
        first.setdefault(split_entity_key(key)[0], row)
    rows = list(first.values())
    rows = rows if len(rows) > 1 else [*rows, len(panel.entities) - 1]  # a batch of one does not show its axis
    return ModelInputs(
        recent=inputs.recent[rows],
        seasonal=inputs.seasonal[rows],
        timestamp=inputs.timestamp[rows],
        entity=tuple(inputs.entity[i] for i in rows),
    )


def _describe(panel: FeaturePanel, source: WindowSource, split: TimeSplit) -> dict[str, Any]:
    return {
        "entities": len(panel.entities),
        "features": len(panel.contract.features),
        "series_trained_on": len(source),
        "start_ns": int(panel.timestamps[0]),
        "train_end_ns": split.train_end_ns,
        "calibration_end_ns": split.calibration_end_ns,
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
