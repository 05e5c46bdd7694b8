"""The part of a Kubeflow Pipelines API server (v2beta1) that submitting and scheduling need, in memory.

Every request and every answer is held against the API's own models: those of the installed `kfp_server_api` and those
of release 2.14.3 (`kfp_server_api_2_14.json`), the oldest backend that is supported. Names that are taken, unknown ids,
page tokens of another query, uploads in another form and triggers that the server's parser refuses are refused here
with its codes and bodies.

What it leaves out, compared with a real server: no database and no Argo behind it, so that a run stays PENDING until a
test moves it and a schedule starts none; package contents are parsed as YAML, not compiled; an experiment is no more
than its name, and a server of many users has one profile; who may do what is one token.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from typing import Any

import httpx
import yaml

from .api_shapes import EXISTS, INVALID, NOT_FOUND, Refused, check_both

Body = dict[str, Any]

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = "secret"
STATUS = {NOT_FOUND: 404, EXISTS: 409, INVALID: 400}


class PipelinesServer:
    """Call it as the handler of an `httpx.MockTransport`."""

    def __init__(self, profile: str | None = None) -> None:
        """`profile` makes it a server of many users, one of whom it knows."""
        self.profile = profile
        self.experiments: list[Body] = []
        self.pipelines: list[Body] = []
        self.versions: list[Body] = []
        self.all_runs: list[Body] = []
        self.schedules: list[Body] = []
        self.calls: list[str] = []
        self.failures: list[httpx.Response] = []
        self.page = 2
        self._ids = itertools.count(1)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.partition("/apis/v2beta1")[2]
        self.calls.append(f"{request.method} {path}")
        if self.failures:
            return self.failures.pop(0)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return httpx.Response(401, text="Unauthorized")
        try:
            kind, answer = self._answer(request, path)
        except Refused as exc:
            return _refusal(exc, upload="/upload" in path)
        if kind is not None:
            check_both(kind, answer)
        return httpx.Response(200, json=answer)

    def _answer(self, request: httpx.Request, path: str) -> tuple[str | None, Body]:
        """The answer and the model that it is one of; None: an empty message."""
        versions = re.fullmatch(r"/pipelines/([^/]+)/versions", path)
        schedule = re.fullmatch(r"/recurringruns/([^/:]+)(?::(enable|disable))?", path)
        if request.method == "GET":
            if run := re.fullmatch(r"/runs/([^/]+)", path):
                return "V2beta1Run", self._known(self.all_runs, "run_id", run.group(1))
            if versions:
                self._known(self.pipelines, "pipeline_id", versions.group(1))
                own = [v for v in self.versions if v["pipeline_id"] == versions.group(1)]
                return self._listed("V2beta1ListPipelineVersionsResponse", "pipeline_versions", own, request)
            if path == "/experiments":
                return self._listed("V2beta1ListExperimentsResponse", "experiments", self.experiments, request)
            if path == "/pipelines":
                return self._listed("V2beta1ListPipelinesResponse", "pipelines", self.pipelines, request)
            if path == "/runs":
                return self._listed("V2beta1ListRunsResponse", "runs", self.all_runs, request)
            if path == "/recurringruns":
                return self._listed("V2beta1ListRecurringRunsResponse", "recurringRuns", self.schedules, request)
        if request.method == "POST" and path == "/pipelines/upload_version":
            return "V2beta1PipelineVersion", self._upload_version(request)
        if request.method == "POST" and path == "/pipelines":
            return "V2beta1Pipeline", self._create_pipeline(json.loads(request.content))
        if request.method == "POST" and path == "/experiments":
            return "V2beta1Experiment", self._create_experiment(json.loads(request.content))
        if request.method == "POST" and path == "/runs":
            return "V2beta1Run", self._create_run(json.loads(request.content))
        if request.method == "POST" and path == "/recurringruns":
            return "V2beta1RecurringRun", self._create_schedule(json.loads(request.content))
        if schedule:
            entry = self._known(self.schedules, "recurring_run_id", schedule.group(1))
            if request.method == "DELETE":
                self.schedules.remove(entry)
                return None, {}
            if request.method == "POST" and schedule.group(2):
                self._switch(entry, on=schedule.group(2) == "enable")
                return None, {}
        raise Refused(NOT_FOUND, f"no such call: {request.method} {path}")

    def _listed(self, kind: str, key: str, entries: list[Body], request: httpx.Request) -> tuple[str, Body]:
        """One page. A token belongs to the order that it was given for, as on a real server."""
        query = request.url.params
        unknown = set(query) - {"page_token", "page_size", "sort_by", "filter", "namespace", "experiment_id"}
        if unknown or not re.fullmatch(r"|\w+( asc| desc)?", query.get("sort_by", "")):
            raise Refused(INVALID, f"invalid list options: {dict(query)}")
        if not request.url.path.endswith("/versions"):
            self._require_profile(query.get("namespace"))
        order, start = query.get("sort_by", ""), 0
        if token := query.get("page_token"):
            start, given_for = json.loads(base64.b64decode(token))
            if order and order != given_for:
                raise Refused(INVALID, "page token does not match the supplied sort by and/or filtering criteria")
        ordered = sorted(entries, key=lambda e: str(e["created_at"]), reverse=order.endswith(" desc"))
        page = ordered[start : start + self.page]
        answer: Body = {"total_size": len(entries)}
        if page:  # an empty list is left out
            answer[key] = page
        if start + self.page < len(entries):
            answer["next_page_token"] = base64.b64encode(json.dumps([start + self.page, order]).encode()).decode()
        return kind, answer

    def _create_pipeline(self, body: Body) -> Body:
        check_both("V2beta1Pipeline", body)
        self._require_profile(body.get("namespace"))
        name = body.get("name") or body.get("display_name")
        if not name:
            raise Refused(INVALID, "name is required")
        if any(p["name"] == name for p in self.pipelines):
            raise Refused(EXISTS, f"Already exist error: The name {name} already exist")
        made = {"display_name": name, **body, "name": name, **self._new("pipeline_id")}
        self.pipelines.append(made)
        return made

    def _create_experiment(self, body: Body) -> Body:
        check_both("V2beta1Experiment", body)
        self._require_profile(body.get("namespace"))
        name = body["display_name"]
        if any(e["display_name"] == name for e in self.experiments):
            raise Refused(EXISTS, f"Already exist error: Experiment {name} already exists")
        self.experiments.append({**body, **self._new("experiment_id")})
        return self.experiments[-1]

    def _require_profile(self, namespace: str | None) -> None:
        if namespace != self.profile:
            raise Refused(INVALID, f"Invalid input error: namespace {namespace!r}, expected {self.profile!r}")

    def _upload_version(self, request: httpx.Request) -> Body:
        query = request.url.params
        if unknown := set(query) - {"name", "display_name", "description", "pipelineid"}:
            raise Refused(INVALID, f"unknown query parameters {unknown}")
        package = _uploaded(request)
        pipeline_id = query["pipelineid"]
        self._known(self.pipelines, "pipeline_id", pipeline_id)
        name = query["name"]
        if any(v["name"] == name and v["pipeline_id"] == pipeline_id for v in self.versions):
            raise Refused(EXISTS, "Failed to create a pipeline version")
        made = {"pipeline_id": pipeline_id, "name": name, "display_name": name, **self._new("pipeline_version_id")}
        self.versions.append({**made, "pipeline_spec": package})
        return self.versions[-1]

    def _create_run(self, body: Body) -> Body:
        check_both("V2beta1Run", body)
        self._check_reference(body, version_required=True)
        made = {**body, **self._new("run_id"), "state": "PENDING", "storage_state": "AVAILABLE"}
        self.all_runs.append(made)
        return made

    def _create_schedule(self, body: Body) -> Body:
        check_both("V2beta1RecurringRun", body)
        self._check_reference(body, version_required=False)
        if not body.get("display_name"):
            raise Refused(INVALID, "The job name is empty. Please specify a valid name.")
        if not 1 <= int(body.get("max_concurrency", "0")) <= 10:
            raise Refused(INVALID, "The max concurrency of the job is out of range. Support 1-10.")
        if len(body["trigger"]["cron_schedule"]["cron"].split()) != 6:
            raise Refused(INVALID, "Schedule cron is not a supported format: Expected exactly 6 fields")
        made = {**body, **self._new("recurring_run_id")}
        self._switch(made, on=body.get("mode") == "ENABLE")
        self.schedules.append(made)
        return made

    def _check_reference(self, body: Body, *, version_required: bool) -> None:
        if self.profile is not None or "experiment_id" in body:
            self._known(self.experiments, "experiment_id", body.get("experiment_id"))
        reference = body.get("pipeline_version_reference") or {}
        self._known(self.pipelines, "pipeline_id", reference.get("pipeline_id"))
        version = reference.get("pipeline_version_id")
        if version is not None or version_required:
            self._known(self.versions, "pipeline_version_id", version)

    @staticmethod
    def _switch(entry: Body, *, on: bool) -> None:
        entry["mode"], entry["status"] = ("ENABLE", "ENABLED") if on else ("DISABLE", "DISABLED")

    @staticmethod
    def _known(entries: list[Body], key: str, value: str | None) -> Body:
        found = next((e for e in entries if e[key] == value), None)
        if found is None:
            raise Refused(NOT_FOUND, f"ResourceNotFoundError: {key} {value} not found")
        return found

    def _new(self, key: str) -> Body:
        number = next(self._ids)
        return {key: f"id-{number}", "created_at": f"{EPOCH + timedelta(seconds=number):%Y-%m-%dT%H:%M:%SZ}"}


def _uploaded(request: httpx.Request) -> Body:
    """The package in the multipart form's field `uploadfile`."""
    header = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    for part in message_from_bytes(header + request.content).walk():
        if part.get_param("name", header="Content-Disposition") != "uploadfile":
            continue
        if not str(part.get_filename()).endswith((".yaml", ".yml", ".zip", ".tar.gz")):
            raise Refused(INVALID, "Unexpected pipeline file format")
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        spec: Body = next(yaml.safe_load_all(payload))
        if "pipelineInfo" in spec:
            return spec
    raise Refused(INVALID, "Failed to read pipeline from file")


def _refusal(exc: Refused, *, upload: bool) -> httpx.Response:
    """An upload is answered by a handler of its own, with other names than the API's errors."""
    if upload:
        body: Body = {"error_message": str(exc), "error_details": f"Error details: {exc}"}
    else:
        body = {"error": str(exc), "code": exc.code, "message": str(exc), "details": []}
    return httpx.Response(STATUS[exc.code], json=body)
