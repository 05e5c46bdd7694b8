"""From the tensors of an answer to what the engine reads: `Detection` and `Forecast`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np

from clusterheal.contracts import Band, Detection, FeatureContract, Forecast, ModelInputs, split_entity_key
from clusterheal.contracts.requests import Tensor
from clusterheal.errors import PermanentError
from clusterheal.inference.wire import Answer


def detections(answer: Answer, inputs: ModelInputs, contract: FeatureContract) -> list[Detection]:
    """One `Detection` per row with a finite score: a window without a single sample has no verdict.

    Raises:
        PermanentError: the answer lacks an output or has one of another shape.
    """
    rows, n_features = len(inputs.entity), len(contract.features)
    out = answer.tensors
    score, tail, confidence, alarm = (
        _output(out, name, (rows,)) for name in ("score", "tail_probability", "confidence", "alarm")
    )
    contribution, low, median, high = (
        _output(out, name, (rows, n_features))
        for name in ("contribution", "expected_low", "expected_median", "expected_high")
    )
    found = []
    for row, entity in enumerate(inputs.entity):
        if not np.isfinite(score[row]):
            continue
        own = _features_of(entity, contract)
        newest = inputs.recent[row, -1]
        found.append(
            Detection(
                entity=entity,
                time=_time(int(inputs.timestamp[row])),
                score=float(score[row]),
                tail_probability=float(tail[row]),
                alarm=bool(alarm[row]),
                confidence=float(confidence[row]),
                contributions={n: float(contribution[row, i]) for i, n in own if np.isfinite(contribution[row, i])},
                expected={
                    name: Band(
                        low=float(low[row, i]),
                        median=float(median[row, i]),
                        high=float(high[row, i]),
                        observed=float(newest[i]) if np.isfinite(newest[i]) else None,
                    )
                    for i, name in own
                    if np.isfinite(median[row, i])
                },
                model_version=answer.model_version,
                contract_sha256=contract.sha256,
            )
        )
    return found


def forecasts(answer: Answer, inputs: ModelInputs, contract: FeatureContract) -> list[Forecast]:
    """One `Forecast` per row, of the features of the entity's kind.

    Raises:
        PermanentError: the answer lacks an output or has one of another shape.
    """
    levels = answer.tensors.get("levels")
    n_levels = len(levels) if levels is not None and levels.ndim == 1 else 0
    shape = (len(inputs.entity), contract.window.horizon_steps, len(contract.features), n_levels)
    quantiles = _output(answer.tensors, "quantiles", shape)
    level_values = tuple(round(float(level), 6) for level in _output(answer.tensors, "levels", (n_levels,)))
    made = []
    for row, entity in enumerate(inputs.entity):
        own = _features_of(entity, contract)
        made.append(
            Forecast(
                entity=entity,
                origin=_time(int(inputs.timestamp[row])),
                step=contract.step,
                levels=level_values,
                feature_names=tuple(name for _, name in own),
                quantiles=quantiles[row][:, [i for i, _ in own]].astype(np.float32, copy=False),
                model_version=answer.model_version,
                contract_sha256=contract.sha256,
            )
        )
    return made


def _features_of(entity: str, contract: FeatureContract) -> list[tuple[int, str]]:
    """Index and name of the features that entities of this kind have."""
    kind, _ = split_entity_key(entity)
    return [(i, f.name) for i, f in enumerate(contract.features) if f.entity_kind == kind]


def _output(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    array = tensors.get(name)
    if array is None or array.shape != shape:
        got = sorted(tensors) if array is None else list(array.shape)
        raise PermanentError(f"the served model must answer {name!r} with shape {list(shape)}, got {got}")
    return array


def _time(nanoseconds: int) -> datetime:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=rest // 1000)
