"""Have the metrics, or the model in service, drifted away from what the model was trained on?

Three signs, each a figure per day:

- The population stability index (PSI) of a feature compares shares per decile of the reference: below 0.1 counts as
  stable, above 0.25 as shifted (the usual credit-scoring rule of thumb, after Siddiqi, Credit Risk Scorecards, 2006).
  Clock time is accounted for by whole days on both sides.
- A forecaster's 80 % interval covers 80 % of what comes, or its calibration no longer holds.
- A detector alarms about as often as on its calibration slice, or what is normal has changed.

Each sign begins at one limit and ends at a weaker one (hysteresis), and has to last for two days: a day that is odd is
an incident, not drift.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clusterheal.clock import Clock, SystemClock
from clusterheal.contracts import DETECTOR, FeaturePanel, ModelPackage
from clusterheal.errors import DataQualityError, InvalidInput
from clusterheal.registry import ModelVersion, Registry
from clusterheal.settings import Settings, load_settings
from clusterheal_components.scoring import daily_figure
from clusterheal_components.snapshot import thaw

BINS = 10
FLOOR = 1e-4  # of an empty bin, so that one missing value does not make the index infinite
DAYS = 3  # looked at, where the snapshot has them
LASTING = 2  # days that a sign must last
ENOUGH_FEATURES = 0.2  # share of shifted features that makes the whole data drifted
RETRAIN, KEEP = "retrain", "keep"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A sign begins above `begin`, or below where `below`, and lasts until it is back on the good side of `end`."""

    begin: float
    end: float
    below: bool = False

    def days(self, values: Sequence[float | None]) -> int:
        """For how many days up to the newest the sign has lasted; `values` oldest first, None where unknown."""
        lasted = 0
        for value in values:
            limit = self.end if lasted else self.begin
            on = value is not None and (value < limit if self.below else value > limit)
            lasted = lasted + 1 if on else 0
        return lasted


PSI = Limit(begin=0.25, end=0.1)
NOMINAL = 0.8  # coverage of the interval from the 10 % to the 90 % quantile
ALARM_FLOOR = 0.01  # share of rows; below it, a ratio of alarm rates says nothing


def coverage_limit(expected: float) -> Limit:
    """For a forecaster whose interval covered `expected` of held-out time."""
    expected = min(expected, NOMINAL)
    return Limit(begin=expected - 0.15, end=expected - 0.08, below=True)


def alarm_limit(expected: float) -> Limit:
    """For a detector that alarmed on the share `expected` of rows when all was normal."""
    expected = max(expected, ALARM_FLOOR)
    return Limit(begin=4 * expected, end=2 * expected)


@dataclass(frozen=True, kw_only=True)
class Drift:
    """`decision` is `retrain` or `keep`; `psi` per feature and `figures`, what else was measured, of the newest day."""

    decision: str
    text: str
    psi: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


def population_stability(reference: npt.NDArray[np.floating], recent: npt.NDArray[np.floating]) -> float | None:
    """PSI over the reference's deciles; missing samples are left out, None where a side has none."""
    reference, recent = reference[np.isfinite(reference)], recent[np.isfinite(recent)]
    if not len(reference) or not len(recent):
        return None
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, BINS + 1)[1:-1]))
    shares = [
        np.maximum(np.bincount(np.searchsorted(edges, side, side="right"), minlength=len(edges) + 1) / len(side), FLOOR)
        for side in (reference, recent)
    ]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def feature_stability(reference: FeaturePanel, recent: FeaturePanel) -> dict[str, float | None]:
    """PSI per feature, all entities together; None for a feature without samples on a side."""
    return {
        name: population_stability(reference.values[:, :, index].ravel(), recent.values[:, :, index].ravel())
        for index, name in enumerate(reference.contract.feature_names)
    }


def decide_drift(dataset: Path, name: str, *, when: str, min_days_between: float, clock: Clock | None = None) -> Drift:
    """Compare the snapshot's last days with the training time of the version in service.

    Raises:
        InvalidInput: `when` is neither `drifted` nor `always`.
        DataQualityError: the snapshot is shorter than two days.
    """
    if when not in ("drifted", "always"):
        raise InvalidInput(f"when: expected drifted or always, got {when!r}")
    settings = load_settings()
    registry = Registry(settings.registry)
    current = registry.current(name)
    panel = thaw(dataset).panel
    if current is None:
        return Drift(decision=RETRAIN, text=f"{name}: nothing is in service, so there is nothing to keep.\n")
    if current.contract_sha256 != panel.contract.sha256:
        return Drift(decision=RETRAIN, text=f"{name}: {current.version} was built for another feature contract.\n")
    days = _last_days(panel)
    reference = _reference(settings, current, panel)
    stability = [feature_stability(reference, day) for day in days]
    psi = {feature: value for feature, value in stability[-1].items() if value is not None}
    shifted = sorted(n for n in psi if PSI.days([day[n] for day in stability]) >= LASTING)
    with tempfile.TemporaryDirectory() as aside:
        model = _model_drift(registry.fetch(current, Path(aside)), current, panel, len(days))
    data_drifted = len(shifted) > ENOUGH_FEATURES * max(len(psi), 1)
    rested = _since_last_training(registry, name, clock or SystemClock()) >= timedelta(days=min_days_between)
    drifted = data_drifted or model.drifted
    decision = RETRAIN if when == "always" or (drifted and rested) else KEEP
    why = _why(when, drifted=drifted, rested=rested, min_days_between=min_days_between)
    text = _words(f"{name}: {decision}", [why, _shifted_words(shifted), model.text], psi)
    return Drift(decision=decision, text=text, psi=psi, figures=model.figures)


@dataclass(frozen=True, kw_only=True)
class _ModelDrift:
    """How the served model did on the newest days."""

    figures: Mapping[str, float]
    drifted: bool
    text: str


def _model_drift(package: ModelPackage, version: ModelVersion, panel: FeaturePanel, days: int) -> _ModelDrift:
    figure, values = daily_figure(package, panel, days)
    expected = _expected(package, version, panel.contract.step)
    limit = alarm_limit(expected) if package.name == DETECTOR else coverage_limit(expected)
    lasted = limit.days(values)
    shown = ", ".join("unknown" if value is None else f"{value:.1%}" for value in values)
    text = f"{figure.replace('_', ' ')} per day, oldest first: {shown}; when it was judged it was {expected:.1%}. "
    text += f"Out of bounds for {lasted} days." if lasted else "Within bounds."
    newest = {} if values[-1] is None else {figure: values[-1]}
    return _ModelDrift(figures=newest, drifted=lasted >= LASTING, text=text)


def _expected(package: ModelPackage, version: ModelVersion, step: timedelta) -> float:
    """The figure on the time that the version was judged on, by its registry entry; nominal where that has none."""
    if package.name != DETECTOR:
        return float(version.properties.get("metric.figures.coverage80", NOMINAL))
    calibrated = package.metrics.get("calibration_alarm_steps_per_entity_day")
    judged = version.properties.get("metric.figures.alarm_steps_per_entity_day")
    return max(float(calibrated or 0.0), float(judged or 0.0)) * (step / timedelta(days=1))


def _since_last_training(registry: Registry, name: str, clock: Clock) -> timedelta:
    """Since the newest version was registered or moved, rejected ones included: a drift that no training cures must
    not start one every day."""
    newest = max(registry.versions(name), key=lambda v: v.number)
    return clock.now() - newest.state_since


def _last_days(panel: FeaturePanel) -> list[FeaturePanel]:
    """Up to `DAYS` whole days, oldest first."""
    day = round(timedelta(days=1) / panel.contract.step)
    count = min(DAYS, len(panel.timestamps) // day)
    if count < LASTING:
        raise DataQualityError(f"drift needs two days of data, got {len(panel.timestamps)} steps; collect more days")
    cuts = [int(panel.timestamps[-day * back]) for back in range(count, 0, -1)]
    return [panel.between(start, end) for start, end in zip(cuts, [*cuts[1:], None], strict=True)]


def _reference(settings: Settings, current: ModelVersion, panel: FeaturePanel) -> FeaturePanel:
    """The metrics of the version's training time; the snapshot's oldest part where they are no longer kept."""
    from clusterheal.metrics.dataset import Dataset

    oldest = panel.between(None, int(panel.timestamps[-2 * round(timedelta(days=1) / panel.contract.step)]))
    start, end = (str(current.properties.get(key, "")) for key in ("dataset_start", "dataset_end"))
    if not start or not end:
        return oldest
    try:
        stored = Dataset.open(settings.dataset.path, settings.dataset)
        return stored.panel(start_ns=_ns(start), end_ns=_ns(end))
    except (DataQualityError, InvalidInput):
        return oldest


def _ns(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * 1_000_000_000


def _why(when: str, *, drifted: bool, rested: bool, min_days_between: float) -> str:
    if when == "always":
        return "It was asked to retrain in any case."
    if drifted and not rested:
        return f"There is drift, but the last training is less than {min_days_between:g} days ago."
    return "There is drift." if drifted else "There is no drift."


def _shifted_words(shifted: list[str]) -> str:
    return f"Features shifted for {LASTING} days or longer: {', '.join(shifted) or 'none'}."


def _words(title: str, lines: list[str], psi: Mapping[str, float]) -> str:
    table = [f"| {feature} | {value:.3f} |" for feature, value in sorted(psi.items(), key=lambda item: -item[1])]
    return "\n".join([f"# {title}", "", *lines, "", "| feature | PSI, newest day |", "|---|---:|", *table]) + "\n"
