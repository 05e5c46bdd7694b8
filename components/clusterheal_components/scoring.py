"""What the scoring component does: a model in service over a window, without a server."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from clusterheal.contracts import DETECTOR, FeaturePanel, model_inputs
from clusterheal.errors import InvalidInput
from clusterheal.registry import Registry
from clusterheal.settings import load_settings
from clusterheal_components.snapshot import thaw

LOW, HIGH = 0.1, 0.9


def run_over_window(dataset: Path, name: str, scores: Path, *, hours: float) -> dict[str, float]:
    """Score every entity at every step of the newest `hours`; forecasts are made once per horizon.

    Writes Parquet to `scores` and returns the window's figures.

    Raises:
        InvalidInput: nothing is in service, or `hours` is not positive.
        ContractMismatch: the version in service was built for other features.
    """
    from clusterheal_models.serving.runtime import load_runtime

    registry = Registry(load_settings().registry)
    current = registry.current(name)
    if current is None:
        raise InvalidInput(f"no version of {name} is in service; release one first")
    panel = thaw(dataset).panel
    panel.contract.require_same(current.contract_sha256, where=f"{name} {current.version}")
    count = round(timedelta(hours=hours) / panel.contract.step)
    if count < 1:
        raise InvalidInput(f"hours must cover at least one step of {panel.contract.step}, got {hours}")
    last = len(panel.timestamps) - 1
    origins = range(max(last - count + 1, 0), last + 1)
    with tempfile.TemporaryDirectory() as aside:
        runtime = load_runtime(registry.fetch(current, Path(aside)))
        if name == DETECTOR:
            return _detections(runtime, panel, origins, scores)
        return _forecasts(runtime, panel, origins, scores)


def _detections(runtime: Any, panel: FeaturePanel, origins: range, target: Path) -> dict[str, float]:
    columns: dict[str, list[Any]] = {"time": [], "entity": [], "score": [], "confidence": [], "alarm": []}
    for origin in origins:
        inputs = model_inputs(panel, origin=origin)
        answer = runtime.run(inputs.tensors())
        columns["time"].append(inputs.timestamp)
        columns["entity"].extend(inputs.entity)
        for name in ("score", "confidence", "alarm"):
            columns[name].append(answer[name])
    flat = {k: v if k == "entity" else np.concatenate(v) for k, v in columns.items()}
    _write(target, flat)
    return {"scored": float(len(flat["entity"])), "alarm_rate": float(np.mean(flat["alarm"]))}


def _forecasts(runtime: Any, panel: FeaturePanel, origins: range, target: Path) -> dict[str, float]:
    horizon = panel.contract.window.horizon_steps
    inside, low, high, medians, times, entities, names = ([] for _ in range(7))  # type: ignore[var-annotated]
    for origin in range(max(origins.start - 1, 0), origins.stop - horizon, horizon):
        answer = runtime.run(model_inputs(panel, origin=origin).tensors())
        levels = answer["levels"]
        picked = [int(np.argmin(np.abs(levels - level))) for level in (LOW, 0.5, HIGH)]
        path = answer["quantiles"][..., picked]  # (entities, horizon, features, 3)
        observed = panel.values[:, origin + 1 : origin + 1 + horizon]
        known = np.isfinite(observed)
        inside.append(((observed >= path[..., 0]) & (observed <= path[..., 2]))[known])
        entity, step, feature = np.nonzero(known)
        times.append(panel.timestamps[origin + 1 + step])
        entities.append(np.array(panel.entities, dtype=object)[entity])
        names.append(np.array(panel.contract.feature_names, dtype=object)[feature])
        for column, index in ((low, 0), (medians, 1), (high, 2)):
            column.append(path[..., index][known])
    if not inside:
        raise InvalidInput(f"the window is shorter than one forecast of {horizon} steps; score more hours")
    columns = {"time": times, "entity": entities, "feature": names, "low": low, "median": medians, "high": high}
    _write(target, {k: np.concatenate(v) for k, v in columns.items()} | {"inside": np.concatenate(inside)})
    return {"scored": float(sum(len(v) for v in inside)), "coverage80": float(np.mean(np.concatenate(inside)))}


def _write(target: Path, columns: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {k: pa.array(v, pa.timestamp("ns", "UTC")) if k == "time" else pa.array(v) for k, v in columns.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), target)
