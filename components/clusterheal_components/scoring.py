"""What the scoring component does: a model in service over a window, without a server."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import DETECTOR, FeaturePanel, ModelInputs, ModelPackage, model_inputs
from clusterheal.errors import InvalidInput
from clusterheal.registry import Registry
from clusterheal.settings import load_settings
from clusterheal_components.snapshot import thaw

LOW, HIGH = 0.1, 0.9
ORIGINS_PER_DAY = 48  # enough for a rate per day over all entities
ROWS = 1024  # of one answer


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
    memory = None
    for origin in origins:
        inputs = model_inputs(panel, origin=origin)
        answer = _run(runtime, inputs, memory=memory)
        memory = answer.get("memory_after")
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
        path, known = _path(runtime, panel, origin)
        observed = panel.values[:, origin + 1 : origin + 1 + horizon]
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


def daily_figure(package: ModelPackage, panel: FeaturePanel, days: int) -> tuple[str, list[float | None]]:
    """A detector's alarm rate or a forecaster's interval coverage on each of the panel's last `days`, oldest first.

    Measured on evenly spaced origins; None for a day on which nothing could be compared.
    """
    from clusterheal_models.serving.runtime import load_runtime

    runtime = load_runtime(package)
    per_day = round(timedelta(days=1) / panel.contract.step)
    detector = package.name == DETECTOR
    spacing = max(per_day // ORIGINS_PER_DAY, 1) if detector else panel.contract.window.horizon_steps
    figures: list[float | None] = []
    for back in range(days, 0, -1):
        first = len(panel.timestamps) - back * per_day
        hits: list[npt.NDArray[np.bool_]] = []
        for origin in range(first, first + per_day, spacing):
            hits.append(_alarms(runtime, panel, origin) if detector else _inside(runtime, panel, origin - 1))
        joined = np.concatenate(hits)
        figures.append(float(joined.mean()) if len(joined) else None)
    return ("alarm_rate" if detector else "coverage80"), figures


def _alarms(runtime: Any, panel: FeaturePanel, origin: int) -> npt.NDArray[np.bool_]:
    return np.asarray(_run(runtime, model_inputs(panel, origin=origin))["alarm"], bool)


def _inside(runtime: Any, panel: FeaturePanel, origin: int) -> npt.NDArray[np.bool_]:
    """Which of the observed values of the horizon after `origin` the 80 % interval covers; none where it would end
    after the panel."""
    horizon = panel.contract.window.horizon_steps
    if origin < 0 or origin + horizon >= len(panel.timestamps):
        return np.empty(0, bool)
    path, known = _path(runtime, panel, origin)
    observed = panel.values[:, origin + 1 : origin + 1 + horizon]
    return np.asarray(((observed >= path[..., 0]) & (observed <= path[..., 2]))[known], bool)


def _path(runtime: Any, panel: FeaturePanel, origin: int) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
    """Low, median and high `(n_entities, horizon, n_features, 3)`, and where something was observed."""
    answer = _run(runtime, model_inputs(panel, origin=origin))
    picked = [int(np.argmin(np.abs(answer["levels"] - level))) for level in (LOW, 0.5, HIGH)]
    path = answer["quantiles"][..., picked]
    return path, np.isfinite(panel.values[:, origin + 1 : origin + 1 + path.shape[1]])


def _run(
    runtime: Any, inputs: ModelInputs, *, memory: npt.NDArray[np.float32] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """The answer for any number of entities; a model takes a bounded number of rows at a time.

    `memory`: what the answer at the step before asked for; `None` judges the windows by themselves.
    """
    tensors, rows = inputs.tensors(), len(inputs.entity)
    if memory is not None:
        tensors["memory"] = memory
    parts = [
        runtime.run({key: value[start : start + ROWS] for key, value in tensors.items()})
        for start in range(0, rows, ROWS)
    ]
    if len(parts) == 1:
        return dict(parts[0])
    return {
        key: part if key == "levels" else np.concatenate([other[key] for other in parts])
        for key, part in parts[0].items()
    }


def _write(target: Path, columns: Mapping[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {k: pa.array(v, pa.timestamp("ns", "UTC")) if k == "time" else pa.array(v) for k, v in columns.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), target)
