"""Pictures of a candidate on held-out time: how a detector tells faults apart, what a forecaster expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import DETECTOR, FeaturePanel, ModelPackage, TimeSplit, model_inputs
from clusterheal_components.charts import BLUE, GREY, ORANGE, Band, Line, chart, page

ORIGINS = 24
MAGNITUDE = 3.0  # robust scales: between the faults that hardly show and those that nobody misses
MOST_ENTITIES = 64
MOST_POINTS = 60  # of a curve; a pipeline's metadata is not endless
MOST_SERIES = 6
SEED = 11

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Roc:
    """A receiver operating characteristic: rates per threshold, from (0, 0) to (1, 1); `area` under it."""

    false_positive: Float64
    true_positive: Float64
    thresholds: Float64
    area: float


def roc(untouched: Float64, faulty: Float64) -> Roc:
    """The curve of scores that should be low and scores that should be high; not finite ones are left out."""
    untouched, faulty = (np.sort(side[np.isfinite(side)]) for side in (untouched, faulty))
    joined = np.unique(np.concatenate([untouched, faulty]))[::-1]
    if not len(untouched) or not len(faulty):
        raise ValueError("a curve needs scores on both sides")
    thresholds = np.concatenate([[np.nextafter(joined[0], np.inf)], joined])
    rates = [1 - np.searchsorted(side, thresholds, side="left") / len(side) for side in (untouched, faulty)]
    area = float(np.sum(np.diff(rates[0]) * (rates[1][1:] + rates[1][:-1]) / 2))
    kept = np.unique(np.linspace(0, len(thresholds) - 1, MOST_POINTS).round().astype(int))
    return Roc(false_positive=rates[0][kept], true_positive=rates[1][kept], thresholds=thresholds[kept], area=area)


def detector_roc(package: ModelPackage, panel: FeaturePanel, split: TimeSplit) -> Roc:
    """Untouched windows of the held-out time against the same windows with a fault of three robust scales injected."""
    from clusterheal_models.detector.faults import inject
    from clusterheal_models.detector.peers import NaivePeers
    from clusterheal_models.serving.runtime import load_runtime

    known = panel.between(None, split.calibration_end_ns)
    rng = np.random.default_rng(SEED)
    some = np.sort(rng.permutation(len(panel.entities))[:MOST_ENTITIES])
    spread = NaivePeers.fit(known).spread[some]
    runtime = load_runtime(package)
    untouched, faulty = [], []
    for origin in np.unique(np.linspace(len(known.timestamps), len(panel.timestamps) - 1, ORIGINS).round().astype(int)):
        tensors = {key: value[some] for key, value in model_inputs(panel, origin=int(origin)).tensors().items()}
        untouched.append(runtime.run(tensors)["score"])
        changed = [
            inject(window, scale, MAGNITUDE, rng)[0] for window, scale in zip(tensors["recent"], spread, strict=True)
        ]
        faulty.append(runtime.run({**tensors, "recent": np.stack(changed)})["score"])
    return roc(np.concatenate(untouched).astype(np.float64), np.concatenate(faulty).astype(np.float64))


def detector_page(curve: Roc) -> str:
    lines = [
        Line(label="detector", x=curve.false_positive, y=curve.true_positive),
        Line(label="chance", x=[0.0, 1.0], y=[0.0, 1.0], colour=GREY, dashed=True),
    ]
    title = f"Injected faults of {MAGNITUDE:g} robust scales told from untouched windows, area {curve.area:.3f}"
    drawn = chart(
        title, lines, x_label="share of untouched windows above the threshold", y_label="share of faults above it"
    )
    return page("Detector on held-out time", [drawn])


def forecaster_page(package: ModelPackage, panel: FeaturePanel, split: TimeSplit) -> str:
    """The newest whole horizon of the held-out time: what was forecast and what came, for series of every feature."""
    from clusterheal_models.serving.runtime import load_runtime

    window = panel.contract.window
    origin = len(panel.timestamps) - window.horizon_steps - 1
    answer = load_runtime(package).run(model_inputs(panel, origin=origin).tensors())
    past = slice(max(origin - 2 * window.horizon_steps, 0), origin + 1)
    hours = panel.contract.step.total_seconds() / 3600
    drawn = [
        _forecast(panel, answer, entity, feature, past, origin, hours) for entity, feature in _liveliest(panel, origin)
    ]
    return page("Forecasts on held-out time", drawn or ["<p>No series has samples in the newest horizon.</p>"])


def _liveliest(panel: FeaturePanel, origin: int) -> list[tuple[int, int]]:
    """Per feature the entity that moves most in the newest horizon, the liveliest first: a flat line shows nothing."""
    newest = panel.values[:, origin + 1 :].astype(np.float64)
    known = np.isfinite(newest)
    low, high = np.where(known, newest, np.inf).min(1), np.where(known, newest, -np.inf).max(1)
    size = np.maximum(np.abs(high), 1e-9)
    moved = np.where(known.any(1), (high - low) / size, -np.inf)
    entities = moved.argmax(0)
    found = [(int(e), f) for f, e in enumerate(entities) if np.isfinite(moved[e, f])]
    return sorted(found, key=lambda pair: -moved[pair])[:MOST_SERIES]


def _forecast(
    panel: FeaturePanel, answer: dict[str, Any], entity: int, feature: int, past: slice, origin: int, hours: float
) -> str:
    spec = panel.contract.features[feature]
    quantiles = answer["quantiles"][entity, :, feature].astype(np.float64)
    middle = int(np.argmin(np.abs(answer["levels"] - 0.5)))
    ahead = np.arange(1, len(quantiles) + 1) * hours
    rows = np.arange(past.start, origin + 1 + len(quantiles))
    observed = panel.values[entity, rows, feature].astype(np.float64)
    low, high = answer["levels"][0], answer["levels"][-1]
    return chart(
        f"{spec.name} of {panel.entities[entity]}",
        [
            Line(label="observed", x=(rows - origin) * hours, y=observed, colour=BLUE),
            Line(label="forecast median", x=ahead, y=quantiles[:, middle], colour=ORANGE, dashed=True),
        ],
        bands=[Band(label=f"{low:.0%} to {high:.0%}", x=ahead, low=quantiles[:, 0], high=quantiles[:, -1])],
        x_label="hours from the forecast's origin",
        y_label=spec.unit,
    )


def draw(package: ModelPackage, panel: FeaturePanel, split: TimeSplit) -> tuple[str, Roc | None]:
    """The page for either model, and the detector's curve."""
    if package.name == DETECTOR:
        curve = detector_roc(package, panel, split)
        return detector_page(curve), curve
    return forecaster_page(package, panel, split), None
