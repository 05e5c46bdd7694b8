"""What a run on this machine leaves of a step that failed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from clusterheal.clock import SystemClock
from clusterheal.local.runner_log import OUTPUTS, Follower, PipelineRun, Status, Step

NOW = datetime(2026, 1, 5, tzinfo=UTC)


def written(folder: Path, said: str | None) -> Path:
    """A step's folder with an artifact, and what the step said at its end."""
    folder.mkdir(parents=True)
    (folder / "made").write_text("half")
    if said is not None:
        (folder / OUTPUTS).write_text(said)
    return folder


def followed(out: Path, **statuses: Status) -> Follower:
    steps = [Step(task=task, title=task, status=status, started=NOW) for task, status in statuses.items()]
    run = PipelineRun(
        pipeline="probe", run_id="1", status="failed", started=NOW, seconds=1.0, arguments={}, steps=steps, out=out
    )
    return Follower(run, {}, SystemClock(), lambda step: None)


def test_a_failed_step_leaves_nothing_and_its_finished_turns_in_a_loop_stay(tmp_path: Path) -> None:
    root = tmp_path / "artifacts" / "probe-1"
    finished = written(root / "loop-0" / "train", "{}")
    absent, cut = written(root / "loop-1" / "train", None), written(root / "loop-2" / "train", '{"parameterVal')
    followed(tmp_path, train="failed").discard_unfinished()
    assert [folder.exists() for folder in (finished, absent, cut)] == [True, False, False]


def test_another_steps_artifact_with_the_name_of_a_failed_step_stays(tmp_path: Path) -> None:
    prepared = written(tmp_path / "artifacts" / "probe-1" / "prepare", "{}")
    artifact = written(prepared / "train", None)
    (prepared / "test").write_text("a file")
    followed(tmp_path, prepare="succeeded", train="failed", test="failed").discard_unfinished()
    assert (artifact / "made").read_text() == "half"
    assert (prepared / "test").read_text() == "a file"
