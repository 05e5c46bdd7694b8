"""What a local pipeline run did, read from the log of KFP's runner and from what its steps left behind."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from clusterheal.clock import Clock
from clusterheal.errors import InvalidInput
from clusterheal.local.processes import describe_exit
from clusterheal.local.writing import write_whole

Status = Literal["running", "succeeded", "failed"]

_LINE = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} - [A-Z]+ - (.*)$")
_STARTED = re.compile(r"^Executing task '([^']+)'")
_ENDED = re.compile(r"^Task '([^']+)' finished with status (SUCCESS|FAILURE)")
OUTPUTS = "executor_output.json"
_TRACEBACK = "Traceback (most recent call last):"


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
    """What came of a run. Everything stays below `out`: `run.json`, `run.log`, `pipeline.yaml`, `artifacts/`."""

    pipeline: str
    run_id: str
    status: Status
    started: datetime
    seconds: float
    arguments: dict[str, Any]
    steps: list[Step]
    out: Path
    error: str | None = None

    def ran(self, title: str) -> bool:
        """Whether a step of that title was started."""
        return any(step.title == title for step in self.steps)

    def step(self, title: str) -> Step:
        """The last step of that title, such as `Gate detector`.

        Raises:
            InvalidInput: it did not run.
        """
        for step in reversed(self.steps):
            if step.title == title:
                return step
        raise InvalidInput(f"no step {title!r} ran in {self.pipeline}; ran: {[s.title for s in self.steps]}")

    def save(self) -> Path:
        """Write `run.json` into the run's folder.

        Raises:
            PermanentError: it cannot be written.
        """
        data = asdict(self) | {"out": str(self.out)}
        return write_whole(self.out / "run.json", json.dumps(data, indent=1, default=str, sort_keys=True).encode())


def titles(spec: Mapping[str, Any]) -> dict[str, str]:
    """Task name in the logs (its component's, without `comp-`) -> display name."""
    return {
        task["componentRef"]["name"].removeprefix("comp-"): task["taskInfo"]["name"]
        for dag in dags(spec)
        for task in dag["tasks"].values()
    }


def dags(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]


class Follower:
    """Turns the runner's log lines into steps."""

    def __init__(
        self, run: PipelineRun, titles: Mapping[str, str], clock: Clock, on_step: Callable[[Step], None]
    ) -> None:
        self._run, self._titles, self._clock, self._on_step = run, titles, clock, on_step
        self._begun: dict[int, float] = {}
        self._read: set[Path] = set()
        self._traceback_indent: int | None = None
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
        """The last line of a traceback: the first one that is not indented further than its head."""
        text = line.lstrip()
        if text == _TRACEBACK:
            self._traceback_indent = len(line) - len(text)
        elif self._traceback_indent is not None and text and len(line) - len(text) <= self._traceback_indent:
            self.last_error = text.removeprefix("clusterheal.errors.")
            self._traceback_indent = None

    def _start(self, task: str) -> None:
        self.last_error = None
        step = Step(task=task, title=self._titles.get(task, task), status="running", started=self._clock.now())
        self._begun[id(step)] = self._clock.monotonic()
        self._run.steps.append(step)
        self._on_step(step)

    def _end(self, task: str, *, succeeded: bool) -> None:
        step = next(s for s in self._run.steps if s.task == task and s.status == "running")
        step.seconds = self._clock.monotonic() - self._begun[id(step)]
        step.status = "succeeded" if succeeded else "failed"
        if succeeded:
            self._read_outputs(step)
        else:
            step.error = self.last_error or f"see {self._run.out / 'run.log'}"
        self._on_step(step)

    def _read_outputs(self, step: Step) -> bool:
        """The newest outputs of that task which no earlier step has claimed: a loop runs one task many times.

        False when there are none, as after a step that failed.
        """
        found = set((self._run.out / "artifacts").glob(f"**/{step.task}/{OUTPUTS}")) - self._read
        if not found:
            return False
        newest = max(found, key=lambda path: path.stat().st_mtime_ns)
        self._read.add(newest)
        data = _outputs(newest)
        if data is None:
            return False
        step.parameters = data.get("parameterValues", {})
        for name, entry in data.get("artifacts", {}).items():
            for artifact in entry["artifacts"]:
                step.artifacts[name] = {"path": artifact["uri"], "metadata": artifact.get("metadata", {})}
        return True

    def finish(self, code: int, *, log: Path) -> None:
        """Settle the run once the runner ended with `code`; loops lose some of their log lines, files do not lie."""
        run = self._run
        failed = next((s for s in run.steps if s.status == "failed"), None)  # the first cause; others follow from it
        for step in run.steps:
            if step.status == "running" and (self._read_outputs(step) or code == 0):
                step.status = "succeeded"
            elif step.status == "running":
                step.status, step.error = "failed", "ended from outside"
                failed = failed or step
        if code == 0:
            run.status = "succeeded"
            self._add_unlogged()
            return
        run.status = "failed"
        if failed is not None:
            run.error = f"step {failed.title!r} failed: {failed.error}"
        else:
            run.error = f"the runner {describe_exit(code)}: {self.last_error or f'see {log}'}"

    def discard_unfinished(self) -> None:
        """Remove what failed steps have written: it may be half of a file, and nothing may read it.

        An artifact of a finished step may have the name of a failed one; it stays.
        """
        for step in self._run.steps:
            if step.status == "failed":
                for folder in sorted((self._run.out / "artifacts").glob(f"**/{step.task}")):
                    finished = _outputs(folder / OUTPUTS) is not None
                    of_another = any((above / OUTPUTS).exists() for above in folder.parents)
                    if folder.is_dir() and not finished and not of_another:
                        shutil.rmtree(folder)

    def _add_unlogged(self) -> None:
        for path in sorted(set((self._run.out / "artifacts").glob(f"**/{OUTPUTS}")) - self._read):
            task = path.parent.name
            when = datetime.fromtimestamp(path.stat().st_mtime, self._run.started.tzinfo)
            step = Step(task=task, title=self._titles.get(task, task), status="succeeded", started=when)
            self._run.steps.append(step)
            self._read_outputs(step)


def _outputs(file: Path) -> dict[str, Any] | None:
    """What a step said at its end; None where it did not get there, or was cut short, as on a full disk."""
    try:
        data: dict[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return data
