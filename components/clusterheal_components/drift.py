"""Have the metrics drifted away from what a model was trained on?

The population stability index (PSI) of a feature compares shares per decile of the reference: below 0.1 counts as
stable, above 0.25 as shifted (the usual credit-scoring rule of thumb, after Siddiqi, Credit Risk Scorecards, 2006).
Clock time is accounted for by whole days on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clusterheal.clock import Clock, SystemClock
from clusterheal.contracts import FeaturePanel
from clusterheal.errors import DataQualityError, InvalidInput
from clusterheal.registry import ModelVersion, Registry
from clusterheal.settings import Settings, load_settings
from clusterheal_components.snapshot import thaw

BINS = 10
SHIFTED, STABLE = 0.25, 0.1
ENOUGH_FEATURES = 0.2  # share of shifted features that makes the whole data drifted
FLOOR = 1e-4  # of an empty bin, so that one missing value does not make the index infinite
RETRAIN, KEEP = "retrain", "keep"


@dataclass(frozen=True, kw_only=True)
class Drift:
    """`decision` is `retrain` or `keep`; `psi` per feature of the newest day."""

    decision: str
    text: str
    psi: dict[str, float] = field(default_factory=dict)


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


def feature_stability(reference: FeaturePanel, recent: FeaturePanel) -> dict[str, float]:
    """PSI per feature, all entities together; features without samples on a side are left out."""
    found = {}
    for index, name in enumerate(reference.contract.feature_names):
        value = population_stability(reference.values[:, :, index].ravel(), recent.values[:, :, index].ravel())
        if value is not None:
            found[name] = value
    return found


def drifted(newest: dict[str, float], before: dict[str, float]) -> list[str]:
    """Features that are shifted now and were not stable the day before: one odd day is no drift."""
    return sorted(n for n, value in newest.items() if value > SHIFTED and before.get(n, 0.0) > STABLE)


def decide_drift(dataset: Path, name: str, *, when: str, min_days_between: float, clock: Clock | None = None) -> Drift:
    """Compare the snapshot's last two days with the training time of the version in service.

    Raises:
        InvalidInput: `when` is neither `drifted` nor `always`.
        DataQualityError: the snapshot is shorter than two days.
    """
    if when not in ("drifted", "always"):
        raise InvalidInput(f"when: expected drifted or always, got {when!r}")
    settings = load_settings()
    current = Registry(settings.registry).current(name)
    panel = thaw(dataset).panel
    if current is None:
        return Drift(decision=RETRAIN, text=f"{name}: nothing is in service, so there is nothing to keep.\n")
    if current.contract_sha256 != panel.contract.sha256:
        return Drift(decision=RETRAIN, text=f"{name}: {current.version} was built for another feature contract.\n")
    newest, before = _last_days(panel)
    reference = _reference(settings, current, panel)
    psi, psi_before = feature_stability(reference, newest), feature_stability(reference, before)
    shifted = drifted(psi, psi_before)
    age = (clock or SystemClock()).now() - current.state_since
    young = age < timedelta(days=min_days_between)
    enough = len(shifted) > ENOUGH_FEATURES * max(len(psi), 1)
    decision = RETRAIN if when == "always" or (enough and not young) else KEEP
    return Drift(decision=decision, text=_words(name, current, decision, shifted, psi, age), psi=psi)


def _last_days(panel: FeaturePanel) -> tuple[FeaturePanel, FeaturePanel]:
    day = round(timedelta(days=1) / panel.contract.step)
    if len(panel.timestamps) < 2 * day:
        raise DataQualityError(f"drift needs two days of data, got {len(panel.timestamps)} steps; collect more days")
    cut = int(panel.timestamps[-day])
    return panel.between(cut, None), panel.between(int(panel.timestamps[-2 * day]), cut)


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


def _words(
    name: str, current: ModelVersion, decision: str, shifted: list[str], psi: dict[str, float], age: timedelta
) -> str:
    lines = [
        f"# {name}: {decision}",
        "",
        f"{current.version} has been in service for {age / timedelta(days=1):.1f} days.",
    ]
    lines += [
        f"Shifted on both of the last two days: {', '.join(shifted) or 'nothing'}.",
        "",
        "| feature | PSI |",
        "|---|---:|",
    ]
    lines += [f"| {feature} | {value:.3f} |" for feature, value in sorted(psi.items(), key=lambda item: -item[1])]
    return "\n".join(lines) + "\n"
