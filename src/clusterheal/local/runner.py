"""Run a compiled pipeline on this machine with `kfp.local`, in a process group of its own.

The same package that a cluster gets is executed, step by step, by KFP's SubprocessRunner. kfp.local keeps its settings
in globals, replaces `print` and logging while it runs, and leaves its children alone on a signal: a child process takes
all of that, and ends with everything it started when the caller is done, fails or is interrupted.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from clusterheal.clock import Clock, SystemClock
from clusterheal.errors import InvalidInput, PermanentError

Status = Literal["running", "succeeded", "failed"]

_LINE = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} - [A-Z]+ - (.*)$")
_STARTED = re.compile(r"^Executing task '([^']+)'")
_ENDED = re.compile(r"^Task '([^']+)' finished with status (SUCCESS|FAILURE)")
_ANSI = re.compile(r"\x1b\[\d+m")
_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception|Mismatch|Input|Invalid|Rejected))\b:? ?(.*)$"
)


@dataclass(kw_only=True)
class Step:
    """One executed task. `seconds` is wall time, including the start of its process."""

    task: str
    title: str
    status: Status
    started: datetime
    seconds: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None


@dataclass(kw_only=True)
class PipelineRun:
    """What came of a run. `outputs` are the pipeline's own output parameters."""

    pipeline: str
    run_id: str
    status: Status
    started: datetime
    seconds: float
    arguments: dict[str, Any]
    steps: list[Step]
    outputs: dict[str, Any]
    out: Path
    error: str | None = None

    def step(self, task: str) -> Step:
        """The step of that task name.

        Raises:
            InvalidInput: it did not run.
        """
        for step in self.steps:
            if step.task == task:
                return step
        raise InvalidInput(f"no step {task!r} ran in {self.pipeline}; ran: {[s.task for s in self.steps]}")

    def save(self) -> Path:
        """Write `run.json` into the run's folder, by way of a rename."""
        data = asdict(self) | {"out": str(self.out)}
        target = self.out / "run.json"
        aside = target.with_suffix(".tmp")
        aside.write_text(json.dumps(data, indent=1, default=str, sort_keys=True))
        aside.rename(target)
        return target


def run_pipeline(
    package: Path,
    arguments: Mapping[str, Any],
    *,
    out: Path,
    env: Mapping[str, str] | None = None,
    on_step: Callable[[Step], None] | None = None,
    timeout: timedelta | None = None,
    clock: Clock | None = None,
) -> PipelineRun:
    """Run the compiled `package`; artifacts, logs and `run.json` stay below `out/<pipeline>-<time>`.

    `env` is added to the environment of every step: addresses and credentials. `on_step` hears of every start and end.
    A failing step is an answer (`status == "failed"`, `error` says why), not an exception.

    Raises:
        InvalidInput: no such package, or an argument that the pipeline does not have.
        PermanentError: the runner itself could not start.
    """
    clock = clock or SystemClock()
    spec = read_spec(package)
    name = str(spec["pipelineInfo"]["name"])
    _check_arguments(spec, arguments)
    started = clock.now()
    folder = out.absolute() / f"{name}-{started:%Y%m%dT%H%M%S%f}"
    folder.mkdir(parents=True)
    run = PipelineRun(
        pipeline=name,
        run_id=folder.name,
        status="running",
        started=started,
        seconds=0.0,
        arguments=dict(arguments),
        steps=[],
        outputs={},
        out=folder,
    )
    begin = clock.monotonic()
    with _child(package.absolute(), arguments, folder, env or {}, timeout) as (process, lines):
        follower = _Follower(run, _titles(spec), clock, on_step or (lambda step: None))
        for line in lines:
            follower.feed(line)
        code = process.wait()
    run.seconds = clock.monotonic() - begin
    _finish(run, code, follower)
    run.save()
    return run


def read_spec(package: Path) -> dict[str, Any]:
    """The first YAML document of a compiled pipeline.

    Raises:
        InvalidInput: not a file, not YAML, or no pipeline.
    """
    import yaml

    try:
        documents = list(yaml.safe_load_all(package.read_text()))
    except OSError as exc:
        raise InvalidInput(f"cannot read the pipeline package {package}: {exc.strerror}") from exc
    except yaml.YAMLError as exc:
        raise InvalidInput(f"{package} is not YAML: {exc}") from exc
    spec = documents[0] if documents else None
    if not isinstance(spec, dict) or "pipelineInfo" not in spec:
        raise InvalidInput(f"{package} is no compiled pipeline: expected pipelineInfo at its top")
    return spec


def _check_arguments(spec: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise InvalidInput(
            f"pipeline {spec['pipelineInfo']['name']} has no parameter {unknown}; it has {sorted(known)}"
        )
    required = {k for k, v in known.items() if "defaultValue" not in v and not v.get("isOptional")}
    if missing := sorted(required - set(arguments)):
        raise InvalidInput(f"pipeline {spec['pipelineInfo']['name']} needs the parameter {missing}")


def _titles(spec: Mapping[str, Any]) -> dict[str, str]:
    """Task name in the logs (its component's, without `comp-`) -> display name."""
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    return {
        task["componentRef"]["name"].removeprefix("comp-"): task["taskInfo"]["name"]
        for dag in dags
        for task in dag["tasks"].values()
    }


@contextmanager
def _child(
    package: Path, arguments: Mapping[str, Any], folder: Path, env: Mapping[str, str], timeout: timedelta | None
) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """The running child and its output, line by line; everything it started is gone afterwards."""
    job = {"package": str(package), "arguments": dict(arguments), "root": str(folder / "artifacts")}
    seconds = None if timeout is None else timeout.total_seconds()
    process = subprocess.Popen(
        [sys.executable, "-m", "clusterheal.local.runner", json.dumps(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, **env, "PYTHONUNBUFFERED": "1", "COLUMNS": "80"},
    )
    try:
        yield process, _tee(process, folder / "run.log", seconds)
    finally:
        _end_group(process)


def _tee(process: subprocess.Popen[str], log_file: Path, seconds: float | None) -> Iterator[str]:
    import threading

    watchdog = threading.Timer(seconds, _end_group, args=(process,)) if seconds is not None else None
    if watchdog is not None:
        watchdog.daemon = True
        watchdog.start()
    assert process.stdout is not None
    try:
        with log_file.open("w") as log:
            for line in process.stdout:
                plain = _ANSI.sub("", line.rstrip("\n"))
                log.write(plain + "\n")
                log.flush()
                yield plain
    finally:
        if watchdog is not None:
            watchdog.cancel()


def _end_group(process: subprocess.Popen[str]) -> None:
    """SIGTERM to the child's whole process group, SIGKILL when it lingers."""
    for sig, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


class _Follower:
    """Turns the runner's log lines into steps."""

    def __init__(
        self, run: PipelineRun, titles: Mapping[str, str], clock: Clock, on_step: Callable[[Step], None]
    ) -> None:
        self._run, self._titles, self._clock, self._on_step = run, titles, clock, on_step
        self._begun: dict[str, float] = {}
        self.last_error: str | None = None

    def feed(self, line: str) -> None:
        logged = _LINE.match(line)
        if logged is None:
            self._note_error(line)
            return
        if match := _STARTED.match(logged.group(1)):
            self._start(match.group(1))
        elif match := _ENDED.match(logged.group(1)):
            self._end(match.group(1), succeeded=match.group(2) == "SUCCESS")

    def _note_error(self, line: str) -> None:
        if match := _EXCEPTION.match(line.strip()):
            self.last_error = f"{match.group(1)}: {match.group(2)}"

    def _start(self, task: str) -> None:
        self.last_error = None
        self._begun[task] = self._clock.monotonic()
        title = self._titles.get(task, task)
        step = Step(task=task, title=title, status="running", started=self._clock.now())
        self._run.steps.append(step)
        self._on_step(step)

    def _end(self, task: str, *, succeeded: bool) -> None:
        step = next(s for s in reversed(self._run.steps) if s.task == task)  # a loop runs one task many times
        step.seconds = self._clock.monotonic() - self._begun[task]
        step.status = "succeeded" if succeeded else "failed"
        if succeeded:
            _read_outputs(step, self._run.out / "artifacts")
        else:
            step.error = self.last_error or f"see {self._run.out / 'run.log'}"
        self._on_step(step)


def _read_outputs(step: Step, root: Path) -> None:
    found = list(root.glob(f"*/{step.task}/executor_output.json"))
    if not found:
        return
    data = json.loads(found[0].read_text())
    step.parameters = data.get("parameterValues", {})
    for name, entry in data.get("artifacts", {}).items():
        for artifact in entry["artifacts"]:
            kind = artifact.get("type", {}).get("schemaTitle", "").removeprefix("system.")
            step.artifacts[name] = {"path": artifact["uri"], "metadata": artifact.get("metadata", {}), "type": kind}


def _finish(run: PipelineRun, code: int, follower: _Follower) -> None:
    outputs = run.out / "artifacts" / "outputs.json"
    if code == 0 and outputs.is_file():
        run.status, run.outputs = "succeeded", json.loads(outputs.read_text())
        return
    run.status = "failed"
    failed = next((s for s in run.steps if s.status == "failed"), None)
    if failed is not None:
        run.error = f"step {failed.title!r} failed: {failed.error}"
        return
    for step in run.steps:
        if step.status == "running":
            step.status, step.error = "failed", "ended from outside"
    where = f"see {run.out / 'run.log'}"
    run.error = f"the runner ended with status {code}: {follower.last_error or where}"
    if not run.steps and code > 0:
        raise PermanentError(f"the pipeline could not be started: {follower.last_error or where}")


def _execute(job: Mapping[str, Any]) -> None:
    """The child's part: hand the package to kfp.local."""
    import warnings

    warnings.filterwarnings("ignore", message=".*custom or non-Python base image.*")
    warnings.filterwarnings("ignore", category=FutureWarning)
    from kfp import components, local

    root = Path(job["root"])
    with tempfile.TemporaryDirectory() as workspace:
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(root),
            workspace_root=workspace,
            raise_on_error=True,
        )
        task = components.load_component_from_file(job["package"])(**job["arguments"])
    values = {k: v for k, v in task.outputs.items() if isinstance(v, str | int | float | bool | list | dict)}
    root.mkdir(parents=True, exist_ok=True)
    (root / "outputs.json").write_text(json.dumps(values))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _execute(json.loads(sys.argv[1]))
