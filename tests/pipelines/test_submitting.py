"""Submitting and scheduling against a server that accepts only what Kubeflow Pipelines' own API models know."""

from __future__ import annotations

import itertools
import json
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

DAILY = "0 0 3 * * *"


def known_fields(model: Any, body: dict[str, Any]) -> None:
    """Refuse what the generated model of the real API does not have."""
    fields = set(model.attribute_map.values())
    assert set(body) <= fields, f"{model.__name__} has no {set(body) - fields}"


class Server:
    """The pipelines, versions, runs and schedules of one API server, in memory."""

    def __init__(self) -> None:
        self.pipelines: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.all_runs: list[dict[str, Any]] = []
        self.schedules: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.failures: list[httpx.Response] = []
        self._ids = (f"id-{n}" for n in itertools.count(1))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/apis/v2beta1")
        self.calls.append(f"{request.method} {path}")
        assert request.headers["Authorization"] == "Bearer secret"
        if self.failures:
            return self.failures.pop(0)
        if request.method == "GET":
            return httpx.Response(200, json=self._get(path, request))
        if path.startswith("/pipelines/upload"):
            return httpx.Response(200, json=self._upload(path, request))
        if request.method == "DELETE":
            self.schedules = [s for s in self.schedules if not path.endswith(s["recurring_run_id"])]
            return httpx.Response(200, json={})
        if path.startswith("/recurringruns/"):
            found, _, action = path.removeprefix("/recurringruns/").partition(":")
            entry = next(s for s in self.schedules if s["recurring_run_id"] == found)
            entry["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[action]
            return httpx.Response(200, json={})
        return httpx.Response(200, json=self._create(path, json.loads(request.content)))

    def _get(self, path: str, request: httpx.Request) -> dict[str, Any]:
        if path.startswith("/runs/"):
            return next(r for r in self.all_runs if path.endswith(r["run_id"]))
        if path.endswith("/versions"):
            own = [v for v in self.versions if v["pipeline_id"] == path.split("/")[2]]
            return {"pipeline_versions": own}
        key = {"/pipelines": "pipelines", "/runs": "runs", "/recurringruns": "recurringRuns"}[path]
        entries = {"pipelines": self.pipelines, "runs": self.all_runs, "recurringRuns": self.schedules}[key]
        start = int(request.url.params.get("page_token") or 0)
        page = entries[start : start + 2]
        return {key: page, "next_page_token": str(start + 2) if start + 2 < len(entries) else ""}

    def _upload(self, path: str, request: httpx.Request) -> dict[str, Any]:
        assert b"pipelineInfo" in request.content
        name = request.url.params["name"]
        if path.endswith("upload_version"):
            version = {"pipeline_id": request.url.params["pipelineid"], "display_name": name}
            version["pipeline_version_id"] = next(self._ids)
            self.versions.append(version)
            return version
        self.pipelines.append({"pipeline_id": next(self._ids), "display_name": name})
        return self.pipelines[-1]

    def _create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        import kfp_server_api as api

        known_fields(api.V2beta1PipelineVersionReference, body["pipeline_version_reference"])
        known_fields(api.V2beta1RuntimeConfig, body["runtime_config"])
        if path == "/runs":
            known_fields(api.V2beta1Run, body)
            self.all_runs.insert(0, {**body, "run_id": next(self._ids), "state": "PENDING"})
            return self.all_runs[0]
        assert path == "/recurringruns"
        known_fields(api.V2beta1RecurringRun, body)
        known_fields(api.V2beta1Trigger, body["trigger"])
        known_fields(api.V2beta1CronSchedule, body["trigger"]["cron_schedule"])
        assert body["mode"] in (api.RecurringRunMode.ENABLE, api.RecurringRunMode.DISABLE)
        self.schedules.append({**body, "recurring_run_id": next(self._ids), "status": f"{body['mode']}D"})
        return self.schedules[-1]


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
def server() -> Server:
    return Server()


@pytest.fixture
def backend(server: Server, tmp_path: Path) -> Iterator[Backend]:
    token = tmp_path / "token"
    token.write_text("secret\n")
    settings = PipelineSettings.model_validate({"url": "https://dspa.example", "token_file": token, "attempts": 2})
    with Backend(settings, transport=httpx.MockTransport(server)) as made:
        yield made


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text("pipelineInfo: {name: train}\n")
    return path


def test_a_run_names_the_version_with_this_very_content(backend: Backend, server: Server, package: Path) -> None:
    run = submitting.submit(backend, "train", package, {"days": 3.0}, account="pipeline-runner-dspa")
    assert run["runtime_config"] == {"parameters": {"days": 3.0}}
    assert run["service_account"] == "pipeline-runner-dspa"
    assert run["pipeline_version_reference"]["pipeline_version_id"] == server.versions[0]["pipeline_version_id"]


def test_the_same_content_is_uploaded_once_and_another_once_more(
    backend: Backend, server: Server, package: Path
) -> None:
    for _ in range(2):
        submitting.submit(backend, "train", package, {})
    assert (len(server.pipelines), len(server.versions), len(server.all_runs)) == (1, 1, 2)
    package.write_text("pipelineInfo: {name: train, description: changed}\n")
    submitting.submit(backend, "train", package, {})
    assert (len(server.pipelines), len(server.versions)) == (1, 2)


def test_scheduling_twice_changes_nothing(backend: Backend, server: Server, package: Path) -> None:
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
    backend: Backend, server: Server, package: Path
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


def test_another_cron_replaces_the_schedule(backend: Backend, server: Server, package: Path) -> None:
    old, _ = submitting.schedule(backend, "retrain", package, Schedule(cron=DAILY, parameters={}))
    made, new = submitting.schedule(backend, "retrain", package, Schedule(cron="0 0 4 * * *", parameters={}))
    assert new
    assert [s["recurring_run_id"] for s in server.schedules] == [made["recurring_run_id"]]
    assert made["recurring_run_id"] != old["recurring_run_id"]


def test_a_running_job_is_waited_for_before_its_schedule_is_replaced(
    backend: Backend, server: Server, package: Path
) -> None:
    old, _ = submitting.schedule(backend, "retrain", package, Schedule(cron=DAILY, parameters={}))
    running = {"run_id": "r", "recurring_run_id": old["recurring_run_id"], "state": "RUNNING"}
    server.all_runs += [{"run_id": f"other-{n}", "state": "RUNNING"} for n in range(3)] + [running]
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


def test_a_job_that_does_not_end_keeps_its_schedule(backend: Backend, server: Server, package: Path) -> None:
    old, _ = submitting.schedule(backend, "retrain", package, Schedule(cron=DAILY, parameters={}))
    server.all_runs.append({"run_id": "r", "recurring_run_id": old["recurring_run_id"], "state": "RUNNING"})
    wanted = Schedule(cron="0 0 4 * * *", parameters={})
    with pytest.raises(PermanentError, match=r"run r .* still under way"):
        submitting.schedule(backend, "retrain", package, wanted, wait=timedelta(minutes=1), clock=Ticking())
    assert [s["recurring_run_id"] for s in server.schedules] == [old["recurring_run_id"]]


def test_two_schedules_of_one_name_become_one(backend: Backend, server: Server, package: Path) -> None:
    wanted = Schedule(cron=DAILY, parameters={})
    made, _ = submitting.schedule(backend, "retrain", package, wanted)
    server.schedules.insert(0, {**made, "recurring_run_id": "by-hand", "description": "made by hand"})
    submitting.schedule(backend, "retrain", package, wanted)
    assert [s["recurring_run_id"] for s in server.schedules] == [made["recurring_run_id"]]


def test_a_disabled_schedule_is_enabled_again(backend: Backend, server: Server, package: Path) -> None:
    off = Schedule(cron=DAILY, parameters={}, enabled=False)
    submitting.schedule(backend, "retrain", package, off)
    server.schedules[0].pop("mode")  # a server answers with the status, not with the wish
    _, new = submitting.schedule(backend, "retrain", package, Schedule(cron=DAILY, parameters={}))
    assert (new, server.schedules[0]["status"]) == (False, "ENABLED")


@pytest.mark.parametrize(
    "cron", ["0 3 * * *", "* * * *", "0 0 3 * * * *", "61 * * * * *", "0 0 3 32 * *", "a * * * * *"]
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


def test_reads_are_repeated_and_writes_are_not(backend: Backend, server: Server, package: Path) -> None:
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
    backend: Backend, server: Server, status: int, error: type[Exception], message: str
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


@pytest.mark.parametrize(
    ("model", "read"),
    [
        ("V2beta1ListPipelinesResponse", {"pipelines", "next_page_token"}),
        ("V2beta1ListPipelineVersionsResponse", {"pipeline_versions", "next_page_token"}),
        ("V2beta1ListRunsResponse", {"runs", "next_page_token"}),
        ("V2beta1ListRecurringRunsResponse", {"recurringRuns", "next_page_token"}),
        ("V2beta1Pipeline", {"pipeline_id", "display_name"}),
        ("V2beta1PipelineVersion", {"pipeline_version_id", "pipeline_id", "display_name"}),
        ("V2beta1Run", {"run_id", "recurring_run_id", "state", "created_at", "display_name", "error"}),
        ("V2beta1RecurringRun", {"recurring_run_id", "display_name", "description", "mode", "status"}),
    ],
)
def test_answers_are_read_by_the_names_that_the_api_gives_them(model: str, read: set[str]) -> None:
    import kfp_server_api as api

    assert read <= set(getattr(api, model).attribute_map.values())


def test_the_states_of_a_run_under_way_are_the_apis() -> None:
    import kfp_server_api as api
    from clusterheal_pipelines.backend import RUNNING

    known = set(api.V2beta1RuntimeState.allowable_values)
    assert known >= RUNNING
    assert known - RUNNING == {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}
