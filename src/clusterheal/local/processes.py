"""Child processes that cannot outlive us: own process group, death signal, captured log, marked environment."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from clusterheal.errors import PermanentError
from clusterheal.local.writing import writing

MARKER = "CLUSTERHEAL_SUPERVISOR"
"""Environment variable by which a supervisor knows its processes again, whoever their parent is."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ChildDied(PermanentError):
    """A child process that had to stay up ended, or a job ended with an error."""


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """What to start. `env` is added to our own environment; `name` also names the log file."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


@dataclass(kw_only=True)
class Child:
    """A started process and where its output goes."""

    spec: ChildSpec
    process: asyncio.subprocess.Process
    log_path: Path
    stopping: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def died(self) -> ChildDied:
        """The error that says how the process ended, with the last lines it wrote."""
        return ChildDied(
            f"{self.spec.name} {describe_exit(self.process.returncode)}; "
            f"log: {self.log_path}\n{log_tail(self.log_path)}".rstrip()
        )


def describe_exit(returncode: int | None) -> str:
    """`exited with code 2`, `was killed by SIGKILL`, in words."""
    if returncode is None:
        return "is still running"
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"exited with code {returncode}"


def log_tail(path: Path, *, lines: int = 8, max_bytes: int = 16_384) -> str:
    """The last lines of a log, indented; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - max_bytes))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def die_with_parent() -> Callable[[], None]:
    """A `preexec_fn`: the kernel kills the process when the thread that started it ends.

    So start processes from a thread that lives as long as they may.
    """
    parent = os.getpid()

    def in_child() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call above
            os._exit(1)

    return in_child


async def spawn(spec: ChildSpec, *, logs: Path, marker: str, capture: bool = False) -> Child:
    """Start a process in its own session, its output going to `logs/<name>.log`.

    With `capture`, stdout is a pipe for the caller and only stderr goes to the log.

    Raises:
        ChildDied: the program does not exist or may not be executed.
        PermanentError: its log cannot be written.
    """
    log_path = logs / f"{spec.name}.log"
    with writing(log_path):
        logs.mkdir(parents=True, exist_ok=True)
        log = log_path.open("ab")
    with log:
        try:
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if capture else log,
                stderr=log,
                env={**os.environ, **spec.env, MARKER: marker},
                cwd=spec.cwd,
                start_new_session=True,
                preexec_fn=die_with_parent(),
                limit=1 << 20,
            )
        except OSError as exc:
            raise ChildDied(
                f"{spec.name} could not be started: {exc}; expected {spec.argv[0]!r} to be a program"
            ) from exc
    return Child(spec=spec, process=process, log_path=log_path)


async def stop(child: Child, *, grace_seconds: float = 5.0) -> None:
    """End a process and its group: SIGTERM, then SIGKILL after `grace_seconds`. Never raises for one that is gone."""
    child.stopping = True
    for sig, wait_seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        _signal_group(child.pid, sig)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.process.wait(), wait_seconds)
            break
    _signal_group(child.pid, signal.SIGKILL)  # members of the group that outlived its leader


def _signal_group(pid: int, sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, sig)


def marked_processes(marker: str) -> list[psutil.Process]:
    """Every process that carries our marker, also those whose parent is gone; never ourselves."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARKER) == marker:
                found.append(process)
    return found


def kill_marked(marker: str, *, wait_seconds: float = 5.0) -> list[str]:
    """SIGKILL whatever still carries the marker; returns what was killed, for the log."""
    left = [p for p in marked_processes(marker) if _alive(p)]
    names = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            names.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
            process.kill()
    psutil.wait_procs(left, timeout=wait_seconds)
    return names


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def tree_rss_bytes() -> int:
    """Resident memory of this process and all its descendants, shared pages counted once per process."""
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


__all__ = [
    "MARKER",
    "Child",
    "ChildDied",
    "ChildSpec",
    "describe_exit",
    "die_with_parent",
    "kill_marked",
    "log_tail",
    "marked_processes",
    "spawn",
    "stop",
    "tree_rss_bytes",
]
