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
from datetime import timedelta
from pathlib import Path
from typing import Any

from clusterheal.clock import Clock, SystemClock
from clusterheal.errors import InvalidInput, PermanentError
from clusterheal.local.processes import die_with_parent
from clusterheal.local.runner_log import Follower, PipelineRun, Step, titles
from clusterheal.local.writing import write_whole, writing

_ANSI = re.compile(r"\x1b\[\d+m")


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
    A failing step is an answer (`status == "failed"`, `error` says why), not an exception; its outputs are removed.

    Raises:
        InvalidInput: no such package, or an argument that the pipeline does not have.
        PermanentError: the runner itself could not start, or what it leaves cannot be written.
    """
    clock = clock or SystemClock()
    spec = read_spec(package)
    name = str(spec["pipelineInfo"]["name"])
    arguments = checked_arguments(spec, arguments)
    started = clock.now()
    folder = out.absolute() / f"{name}-{started:%Y%m%dT%H%M%S%f}"
    with writing(folder):
        folder.mkdir(parents=True)
    run = PipelineRun(
        pipeline=name,
        run_id=folder.name,
        status="running",
        started=started,
        seconds=0.0,
        arguments=dict(arguments),
        steps=[],
        out=folder,
    )
    begin = clock.monotonic()
    follower = Follower(run, titles(spec), clock, on_step or (lambda step: None))
    try:
        with _child(package.absolute(), arguments, folder, env or {}, timeout) as (process, lines):
            for line in lines:
                follower.feed(line)
            code = process.wait()
    except PermanentError:
        if not any(step.status == "failed" for step in run.steps):
            raise
        code = 1  # the disk that was too small for a step's output is too small for the log as well: tell the cause
    run.seconds = clock.monotonic() - begin
    follower.finish(code, log=folder / "run.log")
    follower.discard_unfinished()
    if run.status == "failed" and timeout is not None and run.seconds >= timeout.total_seconds():
        run.error = f"the run did not end within {timeout.total_seconds():.0f} s: {run.error}"
    run.save()
    if not run.steps and code > 0:
        raise PermanentError(f"the pipeline could not be started: {run.error}")
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


def checked_arguments(spec: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in the types that the pipeline declares: 3 for a Float becomes 3.0, 1 for a String "1".

    Raises:
        InvalidInput: a parameter that the pipeline does not have, that is missing, or of another type.
    """
    name = spec["pipelineInfo"]["name"]
    known = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise InvalidInput(f"pipeline {name} has no parameter {unknown}; it has {sorted(known)}")
    required = {k for k, v in known.items() if "defaultValue" not in v and not v.get("isOptional")}
    if missing := sorted(required - set(arguments)):
        raise InvalidInput(f"pipeline {name} needs the parameter {missing}")
    return {key: _typed(key, value, known[key]["parameterType"]) for key, value in arguments.items()}


def _typed(key: str, value: Any, wanted: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if wanted == "NUMBER_DOUBLE" and number:
        return float(value)
    if wanted == "NUMBER_INTEGER" and number and float(value).is_integer():
        return int(value)
    if wanted == "STRING":
        return value if isinstance(value, str) else json.dumps(value)
    plain = {"BOOLEAN": bool, "LIST": list, "STRUCT": dict}
    if wanted in plain and isinstance(value, plain[wanted]):
        return value
    raise InvalidInput(f"parameter {key}: expected {wanted.replace('_', ' ').lower()}, got {value!r}")


@contextmanager
def _child(
    package: Path, arguments: Mapping[str, Any], folder: Path, env: Mapping[str, str], timeout: timedelta | None
) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """The running child and its output, line by line; everything it started is gone afterwards."""
    kept = write_whole(folder / "pipeline.yaml", package.read_bytes())
    job = {"package": str(kept), "arguments": dict(arguments)}
    job["root"] = str(folder / "artifacts")
    seconds = None if timeout is None else timeout.total_seconds()
    process = subprocess.Popen(
        [sys.executable, "-m", "clusterheal.local.runner", json.dumps(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=die_with_parent(),
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
        with writing(log_file), log_file.open("w") as log:
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
        components.load_component_from_file(job["package"])(**job["arguments"])


__all__ = ["PipelineRun", "Step", "checked_arguments", "read_spec", "run_pipeline"]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _execute(json.loads(sys.argv[1]))
