"""The releasing components: what they ask of the rollout, and what a repeated step may not do again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from clusterheal_components.promote import promote
from clusterheal_components.roll_back import roll_back
from clusterheal_components.roll_out import roll_out
from clusterheal_components.shadow import shadow
from clusterheal_components.stage import stage
from clusterheal_components.watch import watch
from clusterheal_models.serving.toy import toy_detector

from clusterheal.contracts import DETECTOR, FORECASTER, FeatureContract, FeaturePanel, ModelInputs, ModelPackage
from clusterheal.errors import InvalidInput, PermanentError, RetryableError
from clusterheal.registry import ModelVersion, Registry, State
from clusterheal.rollout import RolloutOutcome, RolloutResult, Step
from clusterheal.settings import Settings
from tests.components.test_components import store

Make = Callable[..., Any]


class Rollouts:
    """Stands in for `roll_out`, which has tests of its own; keeps what it was asked and answers what it is told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.outcome = RolloutOutcome.PROMOTED
        self.cut_off_after_serving = 0
        self.settings: Settings | None = None

    async def __call__(
        self, cluster: Any, registry: Registry, version: ModelVersion, settings: Settings, clock: Any, **options: Any
    ) -> RolloutResult:
        self.asked.append({"version": version.version, **options})
        self.settings = settings
        if self.outcome is RolloutOutcome.PROMOTED:
            registry.set_state(version.name, version.version, State.SERVING)
        if len(self.asked) <= self.cut_off_after_serving:
            raise RetryableError("the API server does not answer")
        if self.outcome is RolloutOutcome.ROLLED_BACK:
            noted = {"rollback_holder": options["holder"], "rollback_reason": "alarms on everything"}
            registry.set_state(version.name, version.version, State.CANDIDATE, properties=noted)
        return RolloutResult(
            outcome=self.outcome, name=version.name, version=version.version, serving=version.version, url=None,
            steps=(), reason="alarms on everything" if self.outcome is RolloutOutcome.ROLLED_BACK else None,
        )  # fmt: skip


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> Rollouts:
    made = Rollouts()

    @asynccontextmanager
    async def nobody(settings: Any) -> Any:
        yield None

    monkeypatch.setattr("clusterheal.rollout.roll_out", made)
    monkeypatch.setattr("clusterheal.kube.http.HttpCluster.from_settings", nobody)
    return made


@pytest.fixture
def version(registry: Registry, packages: dict[str, ModelPackage]) -> str:
    return registry.register(packages[DETECTOR]).version


@pytest.mark.parametrize(
    ("component", "outcome", "stop_after"),
    [
        (shadow, RolloutOutcome.PAUSED, Step.SHADOW),
        (promote, RolloutOutcome.PAUSED, Step.PROMOTE),
        (watch, RolloutOutcome.PROMOTED, None),
        (roll_out, RolloutOutcome.PROMOTED, None),
    ],
)
def test_each_step_stops_where_the_next_goes_on(
    component: Any, outcome: RolloutOutcome, stop_after: Step | None, rollouts: Rollouts, version: str, artifact: Make
) -> None:
    rollouts.outcome = outcome
    report = artifact("Markdown")
    assert component.python_func(name=DETECTOR, version=version, run_id="r1", report=report) == outcome.value
    (asked,) = rollouts.asked
    assert (asked["version"], asked["holder"], asked["stop_after"]) == (version, "run-r1", stop_after)
    assert asked["live"] is not None
    assert asked["windows"] is None  # nothing is stored
    assert Path(report.path).read_text().startswith(f"# {DETECTOR} {version}")


def test_the_stored_datasets_newest_day_is_replayed(
    rollouts: Rollouts, version: str, artifact: Make, panel: FeaturePanel, tmp_path: Path
) -> None:
    store(panel, tmp_path / "dataset")
    watch.python_func(name=DETECTOR, version=version, run_id="r1", report=artifact("Markdown"))
    windows: list[ModelInputs] = rollouts.asked[0]["windows"]
    assert len(windows) == 24
    newest, step = int(panel.timestamps[-1]), panel.contract.step_ns
    times = [int(window.timestamp[0]) for window in windows]
    assert times == [newest - step * round(288 * i / 24) for i in range(23, -1, -1)]
    assert windows[0].entity == panel.entities


def test_a_step_that_took_a_version_back_does_not_try_it_again_and_another_run_may(
    rollouts: Rollouts, registry: Registry, version: str, artifact: Make
) -> None:
    rollouts.outcome = RolloutOutcome.ROLLED_BACK
    with pytest.raises(PermanentError, match="rolled-back: alarms on everything"):
        watch.python_func(name=DETECTOR, version=version, run_id="r1", report=artifact("Markdown"))
    rollouts.outcome = RolloutOutcome.PROMOTED
    for repeated in (shadow, promote, watch):
        with pytest.raises(PermanentError, match="taken back by this run already: alarms on everything"):
            repeated.python_func(name=DETECTOR, version=version, run_id="r1", report=artifact("Markdown"))
    assert len(rollouts.asked) == 1
    watch.python_func(name=DETECTOR, version=version, run_id="r2", report=artifact("Markdown"))
    assert len(rollouts.asked) == 2


def test_the_newest_candidate_is_one_that_no_rollout_took_back(
    registry: Registry, packages: dict[str, ModelPackage], version: str
) -> None:
    noted = {"rollback_holder": "run-1", "rollback_reason": "worse in shadow"}
    registry.set_state(DETECTOR, version, State.CANDIDATE, properties=noted)
    with pytest.raises(InvalidInput, match=f"taken back, {version} because: worse in shadow"):
        stage.python_func(name=DETECTOR)
    assert stage.python_func(name=DETECTOR, version=version) == version  # who names it, means it


def test_going_back_needs_a_version_before(
    rollouts: Rollouts, registry: Registry, packages: dict[str, ModelPackage], artifact: Make
) -> None:
    report = artifact("Markdown")
    with pytest.raises(InvalidInput, match="no previous version"):
        roll_back.python_func(name=FORECASTER, run_id="r1", report=report)
    first = registry.register(packages[FORECASTER]).version
    registry.set_state(FORECASTER, first, State.PREVIOUS)
    assert roll_back.python_func(name=FORECASTER, run_id="r1", report=report) == first
    assert rollouts.settings is not None
    assert rollouts.settings.rollout.strategy == "direct"


def test_going_back_a_second_time_does_not_choose_again(
    rollouts: Rollouts,
    registry: Registry,
    packages: dict[str, ModelPackage],
    contract: FeatureContract,
    artifact: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The API server is away when the version before is in service again: by then the other one is the previous."""
    monkeypatch.setenv("CLUSTERHEAL_PIPELINES__STEP_PAUSE", "PT0S")
    other = toy_detector(tmp_path / "other", contract, alarm_score=9.0)
    good, bad = (registry.register(package).version for package in (packages[DETECTOR], other))
    for served in (good, bad):
        registry.set_state(DETECTOR, served, State.SERVING)
    rollouts.cut_off_after_serving = 1
    assert roll_back.python_func(name=DETECTOR, run_id="r1", report=artifact("Markdown")) == good
    assert [asked["version"] for asked in rollouts.asked] == [good, good]
    current = registry.current(DETECTOR)
    assert current is not None
    assert current.version == good
    assert roll_back.python_func(name=DETECTOR, run_id="r2", report=artifact("Markdown")) == bad
