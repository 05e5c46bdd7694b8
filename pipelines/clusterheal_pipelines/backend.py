"""The Kubeflow Pipelines REST API (v2beta1), as far as submitting and scheduling need it.

Not the SDK's client: that one wants a version for every schedule, and so cannot follow the latest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import stamina

from clusterheal.errors import InvalidInput, PermanentError, RetryableError
from clusterheal.settings import PipelineSettings

API = "/apis/v2beta1"
PAGE = 100
MOST_SAID = 500  # characters of a refusal: some carry a stack trace
RUNNING = frozenset({"PENDING", "RUNNING", "CANCELING", "PAUSED", "RUNTIME_STATE_UNSPECIFIED"})

Json = dict[str, Any]


class Conflict(PermanentError):
    """The server answered 409: the name is taken."""


class Backend:
    """One pipelines server. Reads are retried; a write is sent once, its callers look before they repeat it.

    Raises, from every method:
        InvalidInput: 400 and 404.
        Conflict: 409.
        PermanentError: 401, 403, a bad certificate, an answer that is not the API's.
        RetryableError: no answer, 429 or 5xx.
    """

    def __init__(self, settings: PipelineSettings, *, transport: httpx.BaseTransport | None = None) -> None:
        import ssl

        if settings.url is None:
            raise InvalidInput("pipelines.url is not set; give the address of the Data Science Pipelines API")
        self._settings = settings
        self._url = str(settings.url).rstrip("/")
        try:
            verify = ssl.create_default_context(cafile=str(settings.ca_file)) if settings.ca_file else True
        except OSError as exc:
            raise InvalidInput(f"pipelines.ca_file {settings.ca_file} cannot be read: {exc}") from exc
        seconds = settings.timeout.total_seconds()
        self._http = httpx.Client(base_url=self._url + API, timeout=seconds, verify=verify, transport=transport)

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def pipeline_by_name(self, name: str) -> Json | None:
        """The pipeline of that name, None when there is none."""
        return next((p for p in self._all("/pipelines", "pipelines", **self._here) if name in _names(p)), None)

    def version_by_name(self, pipeline_id: str, name: str) -> Json | None:
        """The pipeline's version of that name, None when there is none."""
        path = f"/pipelines/{pipeline_id}/versions"
        newest_first = self._all(path, "pipeline_versions", sort_by="created_at desc")
        return next((v for v in newest_first if name in _names(v)), None)

    def create_pipeline(self, *, name: str, description: str) -> Json:
        """A new pipeline without a version: an upload would make one, under the pipeline's name."""
        body = {"name": name, "display_name": name, "description": description, **self._here}
        return self._send("POST", "/pipelines", json=body)

    def upload_version(self, package: Path, *, name: str, pipeline_id: str) -> Json:
        query = {"name": name, "pipelineid": pipeline_id}
        with package.open("rb") as file:
            files = {"uploadfile": (package.name, file, "text/yaml")}
            return self._send("POST", "/pipelines/upload_version", params=query, files=files)

    def experiment_by_name(self, name: str) -> Json | None:
        """The experiment of that name, None when there is none."""
        return next((e for e in self._all("/experiments", "experiments", **self._here) if name in _names(e)), None)

    def create_experiment(self, *, name: str) -> Json:
        return self._send("POST", "/experiments", json={"display_name": name, **self._here})

    def create_run(self, body: Mapping[str, Any]) -> Json:
        return self._send("POST", "/runs", json=body)

    def run(self, run_id: str) -> Json:
        return self._read(f"/runs/{run_id}", {})

    def runs(self) -> Iterator[Json]:
        """Newest first."""
        return self._all("/runs", "runs", sort_by="created_at desc", **self._here)

    def schedules(self) -> list[Json]:
        return list(self._all("/recurringruns", "recurringRuns", "recurring_runs", **self._here))

    def create_schedule(self, body: Mapping[str, Any]) -> Json:
        return self._send("POST", "/recurringruns", json=body)

    def set_schedule_enabled(self, schedule_id: str, *, enabled: bool) -> None:
        self._send("POST", f"/recurringruns/{schedule_id}:{'enable' if enabled else 'disable'}")

    def delete_schedule(self, schedule_id: str) -> None:
        self._send("DELETE", f"/recurringruns/{schedule_id}")

    @property
    def settings(self) -> PipelineSettings:
        return self._settings

    @property
    def _here(self) -> dict[str, str]:
        """What names the profile on a server of many users; a server of one namespace refuses to be told."""
        return {} if self._settings.namespace is None else {"namespace": self._settings.namespace}

    def _all(self, path: str, *keys: str, **query: str) -> Iterator[Json]:
        token = ""
        while True:
            answer = self._read(path, {"page_size": str(PAGE), "page_token": token, **query})
            yield from next((answer[key] for key in keys if answer.get(key)), [])
            token = answer.get("next_page_token") or ""
            if not token:
                return

    def _read(self, path: str, query: Mapping[str, str]) -> Json:
        for attempt in stamina.retry_context(
            on=RetryableError, attempts=self._settings.attempts, timeout=None, wait_initial=0.2, wait_max=5.0
        ):
            with attempt:
                return self._send("GET", path, params={k: v for k, v in query.items() if v})
        raise AssertionError("unreachable: the retry context returns or raises")

    def _send(self, method: str, path: str, **content: Any) -> Json:
        try:
            answer = self._http.request(method, path, headers=self._headers(), **content)
        except httpx.TransportError as exc:
            if "CERTIFICATE_VERIFY_FAILED" in str(exc):
                raise PermanentError(f"{self._url}: its certificate is not trusted; set pipelines.ca_file") from exc
            raise RetryableError(f"{self._url} does not answer ({exc}); is pipelines.url right?") from exc
        if not answer.is_success:
            raise _failure(self._url, method, path, answer)
        if not answer.content:
            return {}
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            kind = answer.headers.get("content-type")
            raise PermanentError(
                f"{self._url} answered {answer.status_code} to {method} {path} with {kind}, expected JSON: "
                "a log-in page, or pipelines.url is not the API's root"
            )
        return body

    def _headers(self) -> dict[str, str]:
        path = self._settings.token_file
        if path is None:
            return {}
        try:
            return {"Authorization": f"Bearer {path.read_text().strip()}"}
        except OSError as exc:
            raise InvalidInput(f"pipelines.token_file {path} cannot be read: {exc}") from exc


def _names(pipeline: Mapping[str, Any]) -> set[str]:
    """`name` is the object's own; where people made a pipeline in the dashboard, only the display name may be known."""
    return {str(pipeline[key]) for key in ("name", "display_name") if pipeline.get(key)}


def _failure(url: str, method: str, path: str, answer: httpx.Response) -> Exception:
    said = f"{url} answered {answer.status_code} to {method} {path}: {_message(answer)}"
    if answer.status_code in (401, 403):
        return PermanentError(f"{said}; the account needs a RoleBinding to ds-pipeline-user-access-dspa")
    if answer.is_redirect:
        return PermanentError(f"{said}; a log-in page, perhaps: set pipelines.token_file")
    if answer.status_code in (400, 404, 422):
        return InvalidInput(said)
    if answer.status_code == 409:
        return Conflict(said)
    if answer.status_code == 429 or answer.status_code >= 500:
        return RetryableError(said)
    return PermanentError(said)


def _message(answer: httpx.Response) -> str:
    """What the server says is wrong: `message` from the API, `error_message` and `error_details` from uploads."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        parts = [str(body[key]) for key in ("message", "error_message", "error_details") if body.get(key)]
        if parts:
            return "; ".join(dict.fromkeys(parts))[:MOST_SAID]
    return answer.text[:MOST_SAID]
