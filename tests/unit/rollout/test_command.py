"""`clusterheal rollout`: what it picks, what it prints, how it exits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from clusterheal.cli import build_app
from clusterheal.commands import rollout as command
from clusterheal.contracts import FeaturePanel, ModelPackage
from clusterheal.errors import InvalidInput
from clusterheal.metrics.dataset import Dataset
from clusterheal.registry.versions import ModelVersion, State
from clusterheal.rollout import RolloutOutcome, RolloutResult, StepRecord
from clusterheal.rollout.windows import replay_windows
from clusterheal.settings import Settings

from .conftest import Registry, make_contract


def result(outcome: RolloutOutcome, reason: str | None = None) -> RolloutResult:
    return RolloutResult(
        outcome=outcome,
        name="anomaly-detector",
        version="v000002",
        serving="v000001" if reason else "v000002",
        url=None,
        steps=(StepRecord(name="promote", seconds=1.25, detail="golden requests within 0"),),
        reason=reason,
    )


@pytest.mark.parametrize(
    ("outcome", "reason", "code"),
    [
        (RolloutOutcome.PROMOTED, None, 0),
        (RolloutOutcome.ROLLED_BACK, "golden request differs", 1),
        (RolloutOutcome.FAILED, "did not load", 1),
    ],
)
def test_only_a_version_in_service_exits_with_zero(
    monkeypatch: pytest.MonkeyPatch, outcome: RolloutOutcome, reason: str | None, code: int
) -> None:
    monkeypatch.setattr(command, "_run", lambda *args: result(outcome, reason))
    done = CliRunner().invoke(build_app(), ["rollout", "--name", "anomaly-detector"])
    assert done.exit_code == code
    assert f"anomaly-detector v000002: {outcome.value}" in done.output
    assert reason is None or reason in done.output


def test_flags_reach_the_settings_with_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    def run(settings: Settings, *rest: Any) -> RolloutResult:
        seen.append(settings)
        return result(RolloutOutcome.PROMOTED)

    monkeypatch.setattr(command, "_run", run)
    flags = ["--bake", "90", "--strategy", "shadow", "--ready-timeout", "120", "--namespace", "x"]
    assert CliRunner().invoke(build_app(), ["rollout", "--name", "anomaly-detector", *flags]).exit_code == 0
    rollout = seen[0].rollout
    assert (rollout.bake.total_seconds(), rollout.ready_timeout.total_seconds()) == (90, 120)
    assert rollout.strategy == "shadow"
    assert seen[0].kubernetes.namespace == "x"


def test_previous_is_the_version_that_was_served_before(packages: dict[str, ModelPackage]) -> None:
    class Known(Registry):
        def previous(self, name: str) -> ModelVersion | None:
            return next((v for v in self.versions.values() if v.state is State.PREVIOUS), None)

    registry = Known()
    first = registry.add(packages["v000001"])
    with pytest.raises(InvalidInput, match="no previous version to go back to"):
        command._wanted(registry, first.name, "previous")  # type: ignore[arg-type]
    registry.set_state(first.name, first.version, State.PREVIOUS)
    assert command._wanted(registry, first.name, "previous").version == "v000001"  # type: ignore[arg-type]


def test_replayed_windows_spread_over_the_newest_season(monkeypatch: pytest.MonkeyPatch) -> None:
    contract = make_contract()
    steps = 40
    panel = FeaturePanel(
        values=np.arange(steps * 2, dtype=np.float32).reshape(1, steps, 2),
        timestamps=np.arange(steps, dtype=np.int64) * contract.step_ns,
        entities=("node/a",),
        contract=contract,
    )

    class Opened:
        def __init__(self) -> None:
            self.contract = contract

        def extents(self) -> list[Any]:
            return []

        def panel(self, *, start_ns: int | None) -> FeaturePanel:
            return panel

    monkeypatch.setattr(Dataset, "open", staticmethod(lambda *args: Opened()))
    windows = replay_windows("anywhere", 4, Settings())
    origins = [int(w.timestamp[0] // contract.step_ns) for w in windows]
    assert origins == [30, 33, 36, 39]
    assert windows[-1].recent[0, -1].tolist() == [78.0, 79.0]
