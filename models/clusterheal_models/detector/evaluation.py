"""The detector half of `clusterheal_models.evaluation`: planted faults on held-out time, beside naive peers.

Held-out telemetry has no labels, so faults of known place and size are planted into copies of its windows: does the
score tell a window with a fault from the same window without? The faults are the same for the model and its peers.
The windows without faults give the rate of alarms: an upper bound of false alarms, since real trouble counts, too.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import FeaturePanel, ModelInputs, ModelPackage, TimeSplit, model_inputs
from clusterheal.errors import DataQualityError
from clusterheal_models.evaluation import assemble, check, held_out_window
from clusterheal_models.export import run_onnx, session

ORIGINS = 48
SHAPES = {"shift": 3, "drop": 3, "ramp": 15}  # how many of the newest steps a planted fault covers
SIZES = (3.0, 8.0)  # in spreads (1.4826 x MAD) of the metric in training time
MOST_ALARMS = 0.05
SEED = 11

Float64 = npt.NDArray[np.float64]


def evaluate_detector(package: ModelPackage, panel: FeaturePanel, split: TimeSplit) -> dict[str, Any]:
    """Score evenly spaced origins of the held-out time. See `evaluation.evaluate`.

    The primary figure is `missed_ranking`: 1 - AUC, the chance that a window with a planted fault scores lower than one
    without. Peers: a rolling robust z-score, a z-score against training time, and the newest change.

    Raises:
        DataQualityError: no held-out time, or no metric that moves.
    """
    first = int(np.searchsorted(panel.timestamps, split.calibration_end_ns))
    if first >= len(panel.timestamps):
        raise DataQualityError("no time is left after the calibration slice; collect more or move the split")
    origins = np.unique(np.linspace(first, len(panel.timestamps) - 1, ORIGINS).round().astype(int))
    train = panel.between(None, split.train_end_ns).values
    reference = _Reference(train)
    if not np.isfinite(reference.spread).any():
        raise DataQualityError("no metric moves in training time; there is nothing to evaluate a detector on")
    run, index = session(package.model_path), _entity_index(package, panel)
    rng = np.random.default_rng(SEED)
    clean: dict[str, list[Float64]] = {}
    faulty: dict[str, list[Float64]] = {}
    alarms: list[npt.NDArray[np.bool_]] = []
    hits: list[npt.NDArray[np.bool_]] = []
    named: list[npt.NDArray[np.bool_]] = []
    nonfinite = 0
    for origin in origins:
        inputs = model_inputs(panel, origin=int(origin))
        planted, features, usable = _plant(inputs, reference.spread, rng)
        answers = [run_onnx(run, {**x.tensors(), "entity_index": index}) for x in (inputs, planted)]
        nonfinite += sum(int((~np.isfinite(a["score"])).sum()) for a in answers)
        for scores, answer, window in ((clean, answers[0], inputs), (faulty, answers[1], planted)):
            figures = {"model": answer["score"].astype(np.float64)} | reference.peers(window)
            for name, values in figures.items():
                scores.setdefault(name, []).append(np.where(usable, values, np.nan))
        alarms.append(answers[0]["alarm"][usable])
        hits.append(answers[1]["alarm"][usable])
        named.append((answers[1]["contribution"].argmax(1) == features)[usable])
    kinds = np.array([key.partition("/")[0] for key in panel.entities])
    names = list(clean)
    missed = {name: _missed(clean[name], faulty[name]) for name in names}
    blocks = {name: [_missed([c], [f]) for c, f in zip(clean[name], faulty[name], strict=True)] for name in names}
    kept = np.isfinite(np.array(list(blocks.values()))).all(0)
    alarm_share = float(np.concatenate(alarms).mean())
    return assemble(
        package,
        window=held_out_window(panel, split, origins=len(origins)),
        primary="missed_ranking",
        score=missed["model"],
        peers={name: missed[name] for name in names if name != "model"},
        blocks={name: [v for v, keep in zip(values, kept, strict=True) if keep] for name, values in blocks.items()},
        by_kind=_by_kind(clean, faulty, kinds),
        figures={
            "planted_faults": int(sum(len(h) for h in hits)),
            "planted_found": float(np.concatenate(hits).mean()),
            "planted_named_right": float(np.concatenate(named).mean()),
            "alarm_share_without_planted": alarm_share,
        },
        checks=[
            check("finite", nonfinite == 0, f"{nonfinite} scores are not finite; expected none"),
            check(
                "alarm_share",
                alarm_share <= MOST_ALARMS,
                f"{alarm_share:.1%} of held-out windows alarm; expected at most {MOST_ALARMS:.0%}",
            ),
        ],
    )


class _Reference:
    """Robust statistics of training time, `(n_entities, n_features)`; NaN for a metric that is absent or constant."""

    def __init__(self, train: npt.NDArray[np.float32]) -> None:
        values = train.astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # metrics of another entity kind are NaN throughout
            self.median = np.nanmedian(values, 1)
            self.spread = _positive(1.4826 * np.nanmedian(np.abs(values - self.median[:, None]), 1))
            self.change = _positive(1.4826 * np.nanmedian(np.abs(np.diff(values, axis=1)), 1))

    def peers(self, inputs: ModelInputs) -> dict[str, Float64]:
        """What each naive detector says of the newest sample, per entity: the largest over the metrics."""
        recent = inputs.recent.astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            middle = np.nanmedian(recent, 1)
            rolling = _positive(1.4826 * np.nanmedian(np.abs(recent - middle[:, None]), 1))
        newest, before = recent[:, -1], recent[:, -2]
        return {
            "rolling_robust_z": _largest(np.abs(newest - middle) / rolling),
            "training_robust_z": _largest(np.abs(newest - self.median) / self.spread),
            "newest_change": _largest(np.abs(newest - before) / self.change),
        }


def _plant(
    inputs: ModelInputs, spread: Float64, rng: np.random.Generator
) -> tuple[ModelInputs, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """A copy with one fault per entity in a metric that moves; which metric it was, and which entities got one."""
    recent = inputs.recent.copy()
    features = np.full(len(recent), -1, np.int64)
    for entity in range(len(recent)):
        candidates = np.flatnonzero(np.isfinite(spread[entity]) & np.isfinite(recent[entity, -1]))
        if not len(candidates):
            continue
        feature = int(rng.choice(candidates))
        shape = str(rng.choice(sorted(SHAPES)))
        steps = min(SHAPES[shape], recent.shape[1])
        size = rng.uniform(*SIZES) * spread[entity, feature]
        profile = np.linspace(1 / steps, 1, steps) if shape == "ramp" else np.ones(steps)
        recent[entity, -steps:, feature] += np.float32(-size if shape == "drop" else size) * profile.astype(np.float32)
        features[entity] = feature
    return replace(inputs, recent=recent), features, features >= 0


def _entity_index(package: ModelPackage, panel: FeaturePanel) -> npt.NDArray[np.int64]:
    known = {key: i for i, key in enumerate(package.calibration["entities"])}
    unknown = int(package.calibration["unknown_entity_index"])
    return np.array([known.get(key, unknown) for key in panel.entities], np.int64)


def _missed(clean: list[Float64], faulty: list[Float64]) -> float:
    """1 - AUC of telling the two apart, ties half; NaN where there is nothing to compare."""
    without, with_fault = np.concatenate(clean), np.concatenate(faulty)
    without, with_fault = without[np.isfinite(without)], np.sort(with_fault[np.isfinite(with_fault)])
    if not len(without) or not len(with_fault):
        return float("nan")
    lower = np.searchsorted(with_fault, without, "left")
    ties = np.searchsorted(with_fault, without, "right") - lower
    return float((lower + ties / 2).mean() / len(with_fault))


def _by_kind(
    clean: dict[str, list[Float64]], faulty: dict[str, list[Float64]], kinds: npt.NDArray[np.str_]
) -> dict[str, dict[str, float]]:
    """Kinds in which nothing could be planted are left out."""
    figures = {
        str(kind): {
            name: _missed([c[kinds == kind] for c in clean[name]], [f[kinds == kind] for f in faulty[name]])
            for name in clean
        }
        for kind in np.unique(kinds)
    }
    return {kind: row for kind, row in figures.items() if np.isfinite(row["model"])}


def _positive(values: Float64) -> Float64:
    return np.asarray(np.where(values > 0, values, np.nan))


def _largest(values: Float64) -> Float64:
    """Over metrics, `(n_entities, n_features)` to `(n_entities,)`; 0 where no metric says anything."""
    return np.asarray(np.where(np.isfinite(values), values, 0.0).max(1))
