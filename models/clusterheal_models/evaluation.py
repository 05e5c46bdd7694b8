"""Figures of a sealed package on held-out time, beside those of naive peers on the same windows.

What `evaluate` returns has the same shape for both models and is JSON-ready; `gate.decide` reads it:

- `model`, `package_sha256`, `contract_sha256`: what was evaluated.
- `window`: `start_ns`, `end_ns` of the held-out time, `origins` scored in it, `data_sha256` of the held-out values;
  two evaluations can be compared when their windows are equal.
- `primary`: the name of the figure that decides; lower is better. `score`: the model's, `peers`: each peer's.
- `blocks`: per origin (or block of time) the primary figure of `model` and of each peer, for a paired bootstrap.
- `by_kind`: per entity kind the primary figure of `model` and of each peer; `blocks_by_kind`: their `blocks`.
- `guards`: figures of the same form, each with its `primary`, `score`, `peers`, `blocks`, `by_kind` and
  `blocks_by_kind`, in which the model need not be the best, but may not be clearly worse than a naive peer.
- `figures`: everything else that was measured, by name.
- `checks`: `{name, passed, detail}`; one that failed stops the gate whatever the scores say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clusterheal.contracts import DETECTOR, FORECASTER, FeaturePanel, ModelPackage, TimeSplit
from clusterheal.errors import DataQualityError, PackageInvalid


def evaluate(package: ModelPackage, panel: FeaturePanel, split: TimeSplit) -> dict[str, Any]:
    """Score the package's ONNX graph on the time after `split.calibration_end_ns`; see the module's text.

    Raises:
        ContractMismatch: the panel was collected for another contract.
        DataQualityError: too little held-out time.
        PackageInvalid: a package of a name that nobody can evaluate.
    """
    package.contract.require_same(panel.contract.sha256, where="the evaluation data")
    if package.name == FORECASTER:
        from clusterheal_models.forecaster.evaluation import evaluate_forecaster

        return evaluate_forecaster(package, panel, split)
    if package.name == DETECTOR:
        from clusterheal_models.detector.evaluation import evaluate_detector

        return evaluate_detector(package, panel, split)
    raise PackageInvalid(f"{package.path}: cannot evaluate {package.name!r}; expected {FORECASTER} or {DETECTOR}")


def held_out_window(panel: FeaturePanel, split: TimeSplit, *, origins: int) -> dict[str, Any]:
    """The `window` entry for the part of `panel` after the calibration slice.

    Raises:
        DataQualityError: there is none.
    """
    held_out = panel.between(split.calibration_end_ns, None)
    if not len(held_out.timestamps):
        raise DataQualityError("no time is left after the calibration slice; collect more or move the split")
    return {
        "start_ns": int(held_out.timestamps[0]),
        "end_ns": int(held_out.timestamps[-1]),
        "origins": origins,
        "data_sha256": hashlib.sha256(np.ascontiguousarray(held_out.values).tobytes()).hexdigest(),
    }


def assemble(
    package: ModelPackage,
    *,
    window: Mapping[str, Any],
    primary: str,
    score: float,
    peers: Mapping[str, float],
    blocks: Mapping[str, list[float]],
    by_kind: Mapping[str, Mapping[str, float]],
    blocks_by_kind: Mapping[str, Mapping[str, list[float]]],
    figures: Mapping[str, Any],
    checks: list[dict[str, Any]],
    guards: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """One evaluation in the common shape; a figure that is not finite becomes `None`, which never passes the gate."""
    result = {
        "model": package.name,
        "package_sha256": package.sha256,
        "contract_sha256": package.contract.sha256,
        "window": dict(window),
        "primary": primary,
        "score": score,
        "peers": dict(peers),
        "blocks": {k: list(v) for k, v in blocks.items()},
        "by_kind": {k: dict(v) for k, v in by_kind.items()},
        "blocks_by_kind": {k: dict(v) for k, v in blocks_by_kind.items()},
        "guards": [dict(g) for g in guards],
        "figures": dict(figures),
        "checks": checks,
    }
    cleaned = _finite(result)
    assert isinstance(cleaned, dict)
    return cleaned


def check(name: str, passed: bool, detail: str) -> dict[str, Any]:
    """One entry of `checks`."""
    return {"name": name, "passed": bool(passed), "detail": detail}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
