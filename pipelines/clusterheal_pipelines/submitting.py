"""Put pipelines on a server, run them there, and keep their schedules as they should be."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

from clusterheal.clock import Clock, SystemClock
from clusterheal.errors import InvalidInput, PermanentError
from clusterheal.local.runner import checked_arguments, read_spec
from clusterheal_pipelines.backend import RUNNING, Backend, Conflict, Json

log = logging.getLogger(__name__)

PREFIX = "clusterheal-"
DEFAULT_EXPERIMENT = "Default"
HASH = re.compile(r"spec sha256:([0-9a-f]{64})")
POLL_SECONDS = 10.0
CRON_ENTRY = re.compile(r"(?:[*?]|(?P<first>\d+)(?:-(?P<last>\d+))?)(?:/(?P<step>\d+))?")
CRON_LIMITS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))  # the server knows Sunday as 0, not as 7


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A pipeline on the server and the version with this very content."""

    pipeline_id: str
    version_id: str
    version_name: str


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What a schedule should be. `cron` has six fields, seconds first; `pinned` keeps it on one version."""

    cron: str
    parameters: Mapping[str, Any]
    pinned: bool = False
    enabled: bool = True

    def __post_init__(self) -> None:
        check_cron(self.cron)


def check_cron(cron: str) -> None:
    """Raises:
    InvalidInput: not six fields of digits, `*`, `?`, `/`, `,` and `-`, or a number out of its field's range.
    """
    fields = cron.split()
    if len(fields) == 5:
        raise InvalidInput(f"cron {cron!r} has five fields; Kubeflow Pipelines wants six, seconds first: '0 {cron}'")
    if len(fields) != 6:
        raise InvalidInput(f"cron {cron!r} has {len(fields)} fields; expected six, from second to weekday")
    for field, limits in zip(fields, CRON_LIMITS, strict=True):
        for entry in field.split(","):
            if problem := _entry_problem(entry, *limits):
                raise InvalidInput(f"cron {cron!r}: {entry!r} {problem}")


def _entry_problem(entry: str, low: int, high: int) -> str | None:
    """What the server's parser would refuse in one entry of a field; None for a good one."""
    match = CRON_ENTRY.fullmatch(entry)
    if match is None:
        return "is no number, range or step"
    first, last, step = (None if part is None else int(part) for part in match.group("first", "last", "step"))
    if any(n is not None and not low <= n <= high for n in (first, last)):
        return f"is outside {low}..{high}"
    if first is not None and last is not None and first > last:
        return "is a range that ends before it begins"
    return "has a step of 0" if step == 0 else None


def checked_parameters(package: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in the types that the pipeline declares; the server itself takes them as they are.

    Raises:
        InvalidInput: a parameter that the pipeline does not have, or of another type.
    """
    return checked_arguments(read_spec(package), parameters)


def place(backend: Backend, name: str, package: Path) -> Placed:
    """The pipeline and a version with the package's content; uploaded only where they are missing."""
    digest = hashlib.sha256(package.read_bytes()).hexdigest()[:12]
    pipeline_name, version_name = f"{PREFIX}{name}", f"{PREFIX}{name}-{digest}"
    pipeline = _found_or_made(
        lambda: backend.pipeline_by_name(pipeline_name),
        lambda: backend.create_pipeline(name=pipeline_name, description=f"clusterheal pipeline {name}"),
    )
    pipeline_id = str(pipeline["pipeline_id"])
    version = _found_or_made(
        lambda: backend.version_by_name(pipeline_id, version_name),
        lambda: backend.upload_version(package, name=version_name, pipeline_id=pipeline_id),
    )
    return Placed(pipeline_id=pipeline_id, version_id=str(version["pipeline_version_id"]), version_name=version_name)


def _found_or_made(find: Callable[[], Json | None], make: Callable[[], Json]) -> Json:
    """What is there already, or made now; who lost a race for the name takes the winner's."""
    found = find()
    if found is not None:
        return found
    try:
        return make()
    except Conflict:
        found = find()
        if found is None:
            raise
        return found


def submit(
    backend: Backend, name: str, package: Path, parameters: Mapping[str, Any], *, account: str | None = None
) -> Json:
    """Start a run of this very package."""
    placed = place(backend, name, package)
    body: Json = {
        "display_name": f"{PREFIX}{name}",
        "pipeline_version_reference": {"pipeline_id": placed.pipeline_id, "pipeline_version_id": placed.version_id},
        "runtime_config": {"parameters": dict(parameters)},
        **_experiment(backend),
    }
    if account is not None:
        body["service_account"] = account
    return backend.create_run(body)


def schedule(
    backend: Backend,
    name: str,
    package: Path,
    wanted: Schedule,
    *,
    account: str | None = None,
    wait: timedelta = timedelta(hours=1),
    clock: Clock | None = None,
) -> tuple[Json, bool]:
    """Have exactly one schedule of that name, as wanted; returns it and whether it was made anew.

    One that is as wanted is left alone. Another is replaced once none of its runs is under way, since a replaced
    schedule loses its runs from sight.

    Raises:
        PermanentError: a run of the old schedule is still under way after `wait`.
    """
    placed = place(backend, name, package)
    body = _body(name, placed, wanted, account, _experiment(backend))
    existing = [s for s in backend.schedules() if s.get("display_name") == body["display_name"]]
    same = [s for s in existing if _hash_of(s) == _hash_of(body)]
    if same:
        kept, spare = same[0], [s for s in existing if s is not same[0]]
    else:
        kept, spare = None, existing
    for old in spare:
        backend.set_schedule_enabled(old["recurring_run_id"], enabled=False)
        _wait_for_runs(backend, old, wait, clock or SystemClock())
        backend.delete_schedule(old["recurring_run_id"])
    if kept is None:
        return backend.create_schedule(body), True
    on = kept.get("mode") != "DISABLE" and kept.get("status") != "DISABLED"
    if on is not wanted.enabled:
        backend.set_schedule_enabled(kept["recurring_run_id"], enabled=wanted.enabled)
    return kept, False


def _experiment(backend: Backend) -> Json:
    """The field that groups a run, made when it is missing. On a server of many users there is no default one."""
    settings = backend.settings
    name = settings.experiment or (None if settings.namespace is None else DEFAULT_EXPERIMENT)
    if name is None:
        return {}
    found = _found_or_made(lambda: backend.experiment_by_name(name), lambda: backend.create_experiment(name=name))
    return {"experiment_id": found["experiment_id"]}


def _body(name: str, placed: Placed, wanted: Schedule, account: str | None, experiment: Json) -> Json:
    reference = {"pipeline_id": placed.pipeline_id}
    if wanted.pinned:
        reference["pipeline_version_id"] = placed.version_id
    body: Json = {
        "display_name": f"{PREFIX}{name}",
        "pipeline_version_reference": reference,
        "runtime_config": {"parameters": dict(wanted.parameters)},
        "trigger": {"cron_schedule": {"cron": wanted.cron}},
        "max_concurrency": "1",
        "no_catchup": True,
        "mode": "ENABLE" if wanted.enabled else "DISABLE",
        **experiment,
    }
    if account is not None:
        body["service_account"] = account
    hashed = {key: value for key, value in body.items() if key != "mode"}
    digest = hashlib.sha256(json.dumps(hashed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    body["description"] = f"spec sha256:{digest}"
    return body


def _hash_of(entry: Mapping[str, Any]) -> str | None:
    match = HASH.search(str(entry.get("description") or ""))
    return match.group(1) if match else None


def _wait_for_runs(backend: Backend, old: Mapping[str, Any], wait: timedelta, clock: Clock) -> None:
    until = clock.monotonic() + wait.total_seconds()
    since = str(old.get("created_at") or "")  # all times are the server's, in one form, and so is their order
    while True:
        busy = [
            run["run_id"]
            for run in takewhile(lambda run: str(run.get("created_at") or since) >= since, backend.runs())
            if run.get("recurring_run_id") == old["recurring_run_id"] and run.get("state", "RUNNING") in RUNNING
        ]
        if not busy:
            return
        if clock.monotonic() >= until:
            raise PermanentError(
                f"run {busy[0]} of the schedule to be replaced is still under way after {wait}; "
                "the schedule is disabled, call again when the run is over"
            )
        log.info("waiting for a running job", extra={"run": busy[0]})
        asyncio.run(_sleep(clock))


async def _sleep(clock: Clock) -> None:
    await clock.sleep(POLL_SECONDS)
