"""Submitting and scheduling against a server that takes and gives only what Kubeflow Pipelines' own API models hold."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from clusterheal_pipelines import submitting
from clusterheal_pipelines.backend import Backend
from clusterheal_pipelines.submitting import Schedule, check_cron

from clusterheal.errors import InvalidInput, PermanentError, RetryableError
from clusterheal.settings import PipelineSettings

from .api_shapes import Refused, check_both, installed_shapes, recorded_shapes
from .pipelines_server import EPOCH, TOKEN, PipelinesServer

DAILY = "0 0 3 * * *"


class Ticking:
    """Time passes only by sleeping; `on_sleep` is what happens meanwhile."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.on_sleep: Any = lambda: None

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.on_sleep()


@pytest.fixture
def server() -> PipelinesServer:
    return PipelinesServer()


@pytest.fixture
def backend(server: PipelinesServer, tmp_path: Path) -> Iterator[Backend]:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    settings = PipelineSettings.model_validate({"url": "https://dspa.example", "token_file": token, "attempts": 2})
    with Backend(settings, transport=httpx.MockTransport(server)) as made:
        yield made


def a_run(run_id: str, *, seconds: float = 3600.0, **fields: Any) -> dict[str, Any]:
    """A run that was created `seconds` after the server's first day began."""
    return {"run_id": run_id, "created_at": f"{EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}", **fields}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text("pipelineInfo: {name: train}\n")
    return path


def test_a_run_names_the_version_with_this_very_content(
    backend: Backend, server: PipelinesServer, package: Path
) -> None:
    run = submitting.submit(backend, "train", package, {"days": 3.0}, account="pipeline-runner-dspa")
    assert run["runtime_config"] == {"parameters": {"days": 3.0}}
    assert run["service_account"] == "pipeline-runner-dspa"
    assert run["pipeline_version_reference"]["pipeline_version_id"] == server.versions[0]["pipeline_version_id"]


def test_the_same_content_is_uploaded_once_and_another_once_more(
    backend: Backend, server: PipelinesServer, package: Path
) -> None:
    for _ in range(2):
        submitting.submit(backend, "train", package, {})
    assert (len(server.pipelines), len(server.versions), len(server.all_runs)) == (1, 1, 2)
    package.write_text("pipelineInfo: {name: train, description: changed}\n")
    submitting.submit(backend, "train", package, {})
    assert (len(server.pipelines), len(server.versions)) == (1, 2)


def test_scheduling_twice_changes_nothing(backend: Backend, server: PipelinesServer, package: Path) -> None:
    wanted = Schedule(cron=DAILY, parameters={"days": 7.0})
    first, new = submitting.schedule(backend, "retrain", package, wanted)
    again, second_new = submitting.schedule(backend, "retrain", package, wanted)
    assert (new, second_new) == (True, False)
    assert first["recurring_run_id"] == again["recurring_run_id"]
    assert len(server.schedules) == 1


def test_a_schedule_follows_the_latest_version_without_catching_up_one_at_a_time(
    backend: Backend, package: Path
) -> None:
    made, _ = submitting.schedule(backend, "retrain", package, Schedule(cron=DAILY, parameters={}))
    assert set(made["pipeline_version_reference"]) == {"pipeline_id"}
    assert (made["no_catchup"], made["max_concurrency"]) == (True, "1")
    assert made["trigger"] == {"cron_schedule": {"cron": DAILY}}


def test_new_content_leaves_a_following_schedule_alone_and_replaces_a_pinned_one(
    backend: Backend, server: PipelinesServer, package: Path
) -> None:
    following, pinned = Schedule(cron=DAILY, parameters={}), Schedule(cron=DAILY, parameters={}, pinned=True)
    submitting.schedule(backend, "retrain", package, following)
    submitting.schedule(backend, "score", package, pinned)
    package.write_text("pipelineInfo: {name: train, description: changed}\n")
    assert submitting.schedule(backend, "retrain", package, following)[1] is False
    made, new = submitting.schedule(backend, "score", package, pinned)
    assert new
    assert made["pipeline_version_reference"]["pipeline_version_id"] == server.versions[-1]["pipeline_version_id"]
    assert len(server.schedules) == 2


def test_another_cron_replaces_the_schedule(backend: Backend, server: PipelinesServer, package: Path) -> None:
    old, _ = submitting.schedule(backend, "retrain", package, Schedule(cron=DAILY, parameters={}))
    made, new = submitting.schedule(backend, "retrain", package, Schedule(cron="0 0 4 * * *", parameters={}))
    assert new
    assert [s["recurring_run_id"] for s in server.schedules] == [made["recurring_run_id"]]
    assert made["recurring_run_id"] != old["recurring_run_id"]


def test_a_running_job_is_waited_for_before_its_schedule_is_replaced(
    backend: Backend, server: PipelinesServer, package: Path
) -> None:
    old, _ = submitting.schedule(backend, "retrain", package, Schedule(cron=DAILY, parameters={}))
    running = a_run("r", state="RUNNING", recurring_run_id=old["recurring_run_id"])
    server.all_runs += [a_run(f"other-{n}", state="RUNNING") for n in range(3)] + [running]
    clock = Ticking()

    def finish() -> None:
        assert server.schedules[0]["status"] == "DISABLED"  # no further run starts meanwhile
        if clock.seconds >= 30:
            running["state"] = "SUCCEEDED"

    clock.on_sleep = finish
    wanted = Schedule(cron="0 0 4 * * *", parameters={})
    _, new = submitting.schedule(backend, "retrain", package, wanted, clock=clock)
    assert new
    assert clock.seconds == pytest.approx(30)
    assert len(server.schedules) == 1


def test_a_job_that_does_not_end_keeps_its_schedule(backend: Backend, server: PipelinesServer, package: Path) -> None:
    old, _ = submitting.schedule(backend, "retrain", package, Schedule(cron=DAILY, parameters={}))
    server.all_runs.append(a_run("r", state="RUNNING", recurring_run_id=old["recurring_run_id"]))
    wanted = Schedule(cron="0 0 4 * * *", parameters={})
    with pytest.raises(PermanentError, match=r"run r .* still under way"):
        submitting.schedule(backend, "retrain", package, wanted, wait=timedelta(minutes=1), clock=Ticking())
    assert [s["recurring_run_id"] for s in server.schedules] == [old["recurring_run_id"]]


def test_two_schedules_of_one_name_become_one(backend: Backend, server: PipelinesServer, package: Path) -> None:
    wanted = Schedule(cron=DAILY, parameters={})
    made, _ = submitting.schedule(backend, "retrain", package, wanted)
    server.schedules.insert(0, {**made, "recurring_run_id": "by-hand", "description": "made by hand"})
    submitting.schedule(backend, "retrain", package, wanted)
    assert [s["recurring_run_id"] for s in server.schedules] == [made["recurring_run_id"]]


def test_a_disabled_schedule_is_enabled_again(backend: Backend, server: PipelinesServer, package: Path) -> None:
    off = Schedule(cron=DAILY, parameters={}, enabled=False)
    submitting.schedule(backend, "retrain", package, off)
    server.schedules[0]["mode"] = "ENABLE"  # a real server's status follows later than the wish
    _, new = submitting.schedule(backend, "retrain", package, Schedule(cron=DAILY, parameters={}))
    assert (new, server.schedules[0]["status"]) == (False, "ENABLED")


@pytest.mark.parametrize(
    "cron",
    [
        *("0 3 * * *", "* * * *", "0 0 3 * * * *", "61 * * * * *", "0 0 3 32 * *", "a * * * * *"),
        *("0 0 3 * * 7", "0 0/0 * * * *", "0 0 8-6 * * *", "0 0 3,,4 * * *"),
    ],
)
def test_wrong_crons_are_refused(cron: str) -> None:
    with pytest.raises(InvalidInput, match="cron"):
        Schedule(cron=cron, parameters={})


def test_a_five_field_cron_is_told_its_six_field_form() -> None:
    with pytest.raises(InvalidInput, match=r"'0 30 3 \* \* 1-5'"):
        check_cron("30 3 * * 1-5")


@pytest.mark.parametrize("cron", ["0 */15 * * * *", "0 0 3 ? * 1-5", "0 0,30 8-18 * * *", "0 0 0 1 1 0"])
def test_right_crons_are_taken(cron: str) -> None:
    check_cron(cron)


def test_reads_are_repeated_and_writes_are_not(backend: Backend, server: PipelinesServer, package: Path) -> None:
    server.failures = [httpx.Response(503)]
    submitting.place(backend, "train", package)
    assert server.calls[:2] == ["GET /pipelines", "GET /pipelines"]
    server.calls.clear()
    server.failures = [httpx.Response(503)]
    with pytest.raises(RetryableError, match="503"):
        backend.create_run({})
    assert server.calls == ["POST /runs"]


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, PermanentError, "ds-pipeline-user-access-dspa"),
        (403, PermanentError, "ds-pipeline-user-access-dspa"),
        (400, InvalidInput, "400"),
        (409, PermanentError, "409"),
    ],
)
def test_refusals_say_what_to_do(
    backend: Backend, server: PipelinesServer, status: int, error: type[Exception], message: str
) -> None:
    server.failures = [httpx.Response(status, text="no")]
    with pytest.raises(error, match=message):
        backend.schedules()


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    settings = PipelineSettings.model_validate({"url": "https://dspa.example", "token_file": tmp_path / "absent"})
    with Backend(settings) as backend, pytest.raises(InvalidInput, match="absent"):
        backend.schedules()


def test_without_an_address_nothing_is_tried() -> None:
    with pytest.raises(InvalidInput, match=r"pipelines\.url"):
        Backend(PipelineSettings())


def test_who_loses_the_race_for_a_name_takes_what_the_winner_made(
    backend: Backend, server: PipelinesServer, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = submitting.place(backend, "train", package)
    real, looked = Backend.pipeline_by_name, []

    def too_early(self: Backend, name: str) -> Any:
        looked.append(name)
        return None if len(looked) == 1 else real(self, name)

    monkeypatch.setattr(Backend, "pipeline_by_name", too_early)
    assert submitting.place(backend, "train", package) == placed
    assert "POST /pipelines" in server.calls[-5:]
    assert (len(server.pipelines), len(server.versions)) == (1, 1)


def test_on_a_server_of_many_users_all_stays_in_the_profile(tmp_path: Path, package: Path) -> None:
    server = PipelinesServer(profile="team-a")
    token = tmp_path / "token"
    token.write_text(TOKEN)
    given = {"url": "https://kubeflow.example/pipeline", "token_file": token, "namespace": "team-a", "attempts": 1}
    with Backend(PipelineSettings.model_validate(given), transport=httpx.MockTransport(server)) as backend:
        first = submitting.submit(backend, "train", package, {})
        assert submitting.submit(backend, "train", package, {})["experiment_id"] == first["experiment_id"]
        wanted = Schedule(cron=DAILY, parameters={})
        assert [submitting.schedule(backend, "retrain", package, wanted)[1] for _ in range(2)] == [True, False]
        assert [run["run_id"] for run in backend.runs()]
    assert [e["display_name"] for e in server.experiments] == ["Default"]
    assert {p["namespace"] for p in server.pipelines} == {"team-a"}
    with (
        Backend(
            PipelineSettings.model_validate({**given, "namespace": None}), transport=httpx.MockTransport(server)
        ) as other,
        pytest.raises(InvalidInput, match="namespace"),
    ):
        submitting.submit(other, "train", package, {})


def test_runs_are_grouped_under_the_experiment_that_is_named(
    server: PipelinesServer, tmp_path: Path, package: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    given = {"url": "https://dspa.example", "token_file": token, "experiment": "self-healing"}
    with Backend(PipelineSettings.model_validate(given), transport=httpx.MockTransport(server)) as backend:
        run = submitting.submit(backend, "train", package, {})
    assert run["experiment_id"] == server.experiments[0]["experiment_id"]


def test_runs_older_than_the_schedule_are_not_looked_through(
    backend: Backend, server: PipelinesServer, package: Path
) -> None:
    server.all_runs += [a_run(f"old-{n}", seconds=-n, state="SUCCEEDED") for n in range(20)]
    submitting.schedule(backend, "retrain", package, Schedule(cron=DAILY, parameters={}))
    server.calls.clear()
    submitting.schedule(backend, "retrain", package, Schedule(cron="0 0 4 * * *", parameters={}))
    assert server.calls.count("GET /runs") == 1


def test_what_an_upload_is_refused_for_is_said(backend: Backend, server: PipelinesServer, tmp_path: Path) -> None:
    odd = tmp_path / "train.txt"
    odd.write_text("pipelineInfo: {name: train}\n")
    with pytest.raises(InvalidInput, match=r"400 .* Unexpected pipeline file format; Error details"):
        submitting.place(backend, "train", odd)


@pytest.mark.parametrize(
    "page",
    [httpx.Response(200, html="<html>Log in"), httpx.Response(302, headers={"location": "https://login.example"})],
    ids=["page", "redirect"],
)
def test_a_log_in_page_is_no_answer(backend: Backend, server: PipelinesServer, page: httpx.Response) -> None:
    server.failures = [page]
    with pytest.raises(PermanentError, match="log-in page"):
        backend.schedules()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("V2beta1RecurringRun", {"max_concurrency": 1}),
        ("V2beta1RecurringRun", {"mode": "ENABLED"}),
        ("V2beta1RecurringRun", {"trigger": {"cron_schedule": {"cron": DAILY, "timezone": "UTC"}}}),
        ("V2beta1Run", {"pipeline_version_reference": {"version_id": "1"}}),
        ("V2beta1Run", {"created_at": "yesterday"}),
        ("V2beta1ListRunsResponse", {"runs": [{"state": "DONE"}]}),
    ],
)
def test_the_tests_server_refuses_what_the_api_has_no_place_for(kind: str, value: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        check_both(kind, value)


def test_the_states_of_a_run_under_way_are_the_apis() -> None:
    from clusterheal_pipelines.backend import RUNNING

    for shapes in (installed_shapes(), recorded_shapes()):
        known = set(shapes["V2beta1RuntimeState"])
        assert known >= RUNNING
        assert known - RUNNING == {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}
