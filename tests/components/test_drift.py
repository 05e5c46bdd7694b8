"""When a model is trained anew: metrics that moved, forecasts that no longer cover, alarms that never stop."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterheal_components.check_drift import check_drift
from clusterheal_components.drift import (
    PSI,
    Drift,
    alarm_limit,
    coverage_limit,
    decide_drift,
    population_stability,
)
from clusterheal_components.snapshot import freeze, thaw
from clusterheal_models.serving.toy import toy_detector

from clusterheal.contracts import DETECTOR, FORECASTER, FeatureContract, FeaturePanel, ModelPackage
from clusterheal.errors import DataQualityError, InvalidInput
from clusterheal.registry import Registry, State

Make = Callable[..., Any]


class At:
    """A clock that stands."""

    def __init__(self, time: datetime) -> None:
        self.time = time

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None: ...


LATER = At(datetime.now(UTC) + timedelta(days=30))


def serve(registry: Registry, package: ModelPackage, **properties: Any) -> None:
    version = registry.register(package, properties=properties)
    registry.set_state(package.name, version.version, State.SERVING)


def decide(dataset: Path, name: str = FORECASTER, **options: Any) -> Drift:
    return decide_drift(dataset, name, **{"when": "drifted", "min_days_between": 1.0, "clock": LATER, **options})


def moved(panel: FeaturePanel, folder: Path, days: int, change: Callable[[Any], Any] = lambda v: v + 2.0) -> Path:
    """The panel with its last `days` changed, frozen."""
    values = panel.values.copy()
    values[:, -days * 288 :] = change(values[:, -days * 288 :])
    made = FeaturePanel(values=values, timestamps=panel.timestamps, entities=panel.entities, contract=panel.contract)
    freeze(made, folder, train=0.7, calibration=0.15)
    return folder


def test_steady_metrics_have_not_drifted(registry: Registry, frozen: Path, forecaster: ModelPackage) -> None:
    serve(registry, forecaster)
    found = decide(frozen)
    assert found.decision == "keep", found.text
    assert "There is no drift." in found.text
    assert 0.7 < found.figures["coverage80"] <= 1


def test_two_shifted_days_are_drift_and_one_is_not(
    registry: Registry, panel: FeaturePanel, forecaster: ModelPackage, tmp_path: Path
) -> None:
    serve(registry, forecaster)
    one = decide(moved(panel, tmp_path / "one", 1))
    assert one.decision == "keep", one.text
    two = decide(moved(panel, tmp_path / "two", 2))
    assert two.decision == "retrain"
    assert "Features shifted for 2 days or longer: f0, f1, f2." in two.text
    assert min(two.psi.values()) > 0.25


def noisier(values: Any) -> Any:
    """Much more scatter around the same level."""
    return values + np.random.default_rng(1).normal(0, 0.9, values.shape).astype(np.float32)


def test_forecasts_that_no_longer_cover_are_drift_although_the_metrics_keep_their_range(
    registry: Registry, panel: FeaturePanel, forecaster: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(registry, forecaster)
    monkeypatch.setattr("clusterheal_components.drift.ENOUGH_FEATURES", 1.0)  # so that the metrics alone decide nothing
    one = decide(moved(panel, tmp_path / "one", 1, noisier))
    assert one.decision == "keep", one.text
    two = decide(moved(panel, tmp_path / "two", 2, noisier))
    assert two.decision == "retrain", two.text
    assert two.figures["coverage80"] < 0.65
    assert "Out of bounds for 2 days." in two.text


def test_a_detector_that_alarms_all_the_time_is_drift(
    registry: Registry, frozen: Path, tmp_path: Path, contract: FeatureContract
) -> None:
    serve(registry, toy_detector(tmp_path / "loud", contract, alarm_score=-1.0))
    found = decide(frozen, DETECTOR)
    assert found.decision == "retrain", found.text
    assert found.figures["alarm_rate"] == 1.0
    assert "alarm rate per day, oldest first: 100.0%, 100.0%, 100.0%" in found.text


def test_a_detector_that_was_as_loud_when_it_was_judged_has_not_drifted(
    registry: Registry, frozen: Path, tmp_path: Path, contract: FeatureContract
) -> None:
    loud = toy_detector(tmp_path / "loud", contract, alarm_score=-1.0)
    serve(registry, loud, **{"metric.figures.alarm_steps_per_entity_day": 288.0})
    assert decide(frozen, DETECTOR).decision == "keep"


def test_nothing_is_retrained_soon_after_the_last_training_unless_told(
    registry: Registry, panel: FeaturePanel, forecaster: ModelPackage, tmp_path: Path
) -> None:
    serve(registry, forecaster)
    dataset, soon = moved(panel, tmp_path / "two", 2), At(datetime.now(UTC) + timedelta(hours=2))
    kept = decide(dataset, clock=soon)
    assert kept.decision == "keep"
    assert "There is drift, but the last training is less than 1 days ago." in kept.text
    assert decide(dataset, clock=soon, when="always").decision == "retrain"


def test_a_rejected_training_counts_so_that_drift_that_it_does_not_cure_starts_none_every_day(
    registry: Registry, panel: FeaturePanel, forecaster: ModelPackage, packages: dict[str, ModelPackage], tmp_path: Path
) -> None:
    serve(registry, forecaster)
    dataset = moved(panel, tmp_path / "two", 2)
    assert decide(dataset, min_days_between=20.0).decision == "retrain"
    registry.register(packages[FORECASTER], state=State.REJECTED)
    tomorrow = At(datetime.now(UTC) + timedelta(days=0.9))
    assert decide(dataset, clock=tomorrow).decision == "keep"


def test_with_nothing_in_service_there_is_nothing_to_keep(registry: Registry, frozen: Path) -> None:
    assert decide(frozen).decision == "retrain"


def test_the_component_logs_what_it_found(
    registry: Registry, frozen: Path, forecaster: ModelPackage, artifact: Make
) -> None:
    serve(registry, forecaster)
    report, metrics = artifact("Markdown"), artifact("Metrics")
    options = {"dataset": artifact("Dataset", frozen), "name": FORECASTER, "report": report, "metrics": metrics}
    assert check_drift.python_func(**options) == "keep"
    assert set(metrics.metadata) == {"psi.f0", "psi.f1", "psi.f2", "coverage80"}
    assert Path(report.path).read_text().startswith(f"# {FORECASTER}: keep")


def test_drift_needs_two_days_and_a_known_mode(
    registry: Registry, panel: FeaturePanel, packages: dict[str, ModelPackage], frozen: Path
) -> None:
    serve(registry, packages[FORECASTER])
    with pytest.raises(InvalidInput, match="drifted or always"):
        decide(frozen, when="sometimes")
    from clusterheal_components.drift import _last_days

    with pytest.raises(DataQualityError, match="two days"):
        _last_days(panel.between(None, int(panel.timestamps[400])))
    assert [len(day.timestamps) for day in _last_days(thaw(frozen).panel)] == [288, 288, 288]


@pytest.mark.parametrize(
    ("values", "days"),
    [
        ([0.0, 0.0, 0.3], 1),
        ([0.0, 0.3, 0.3], 2),
        ([0.0, 0.3, 0.2], 2),  # once begun, it lasts until it is stable again
        ([0.0, 0.2, 0.2], 0),  # what never began does not last
        ([0.3, 0.05, 0.3], 1),
        ([0.3, None, 0.3], 1),
        ([0.3, 0.3, 0.1], 0),
    ],
)
def test_a_sign_begins_at_one_limit_and_ends_at_another(values: list[float | None], days: int) -> None:
    assert PSI.days(values) == days


def test_limits_follow_what_the_version_was_judged_at() -> None:
    assert coverage_limit(0.95).begin == pytest.approx(0.65)  # more than nominal is no promise
    assert coverage_limit(0.7).days([0.6, 0.54, 0.6]) == 2
    assert alarm_limit(0.0).days([0.05, 0.05]) == 2
    assert alarm_limit(0.03).days([0.05, 0.05]) == 0


def test_the_stability_index_of_equal_and_of_moved_shares() -> None:
    rng = np.random.default_rng(0)
    same, reference = rng.normal(0, 1, 5000), rng.normal(0, 1, 5000)
    assert population_stability(reference, same) == pytest.approx(0, abs=0.02)
    assert (population_stability(reference, same + 1) or 0) > 0.25
    assert population_stability(np.full(3, np.nan), same) is None
