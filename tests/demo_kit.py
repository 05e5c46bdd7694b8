"""Runs of `clusterheal demo` as its user starts them, watched from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

CLI = (sys.executable, "-m", "clusterheal.cli", "demo")


def demo(out: Path, *options: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A run to its end, which comes soon."""
    command = [*CLI, "--out", str(out), *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env={**os.environ, **(env or {})}
    )


def require_complaint(code: int | None, errors: str) -> str:
    """The error: told in words, never as a traceback, with a status that says so."""
    assert code not in (0, None)
    assert "Traceback" not in errors
    assert re.search("^clusterheal: ", errors, re.M), errors
    return errors


def left_behind(out: Path) -> list[str]:
    """Processes that still name the run's folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(out) in line and process.pid != os.getpid():
            found.append(line)
    return found


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@dataclass(kw_only=True)
class DemoRun:
    """A run under way. `lines`: what it printed so far."""

    out: Path
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _reader: threading.Thread | None = None

    @classmethod
    def start(cls, out: Path, *options: str) -> DemoRun:
        process = subprocess.Popen(
            [*CLI, "--out", str(out), *options],
            stdout=subprocess.PIPE,
            stderr=(out.parent / f"{out.name}.stderr").open("w"),
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        run = cls(out=out, process=process)
        run._reader = threading.Thread(target=run._read, daemon=True)
        run._reader.start()
        return run

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines += (line.rstrip() for line in iter(self.process.stdout.readline, ""))

    def wait_for(self, text: str, *, seconds: float) -> str:
        """The first line with `text`."""
        deadline = time.monotonic() + seconds
        while True:
            found = [line for line in list(self.lines) if text in line]
            if found:
                return found[0]
            assert self.process.poll() is None, f"ended before {text!r}: {self.lines[-5:]} {self.errors}"
            assert time.monotonic() < deadline, f"no {text!r} within {seconds} s: {self.lines[-5:]}"
            time.sleep(0.05)

    def child(self, *words: str) -> psutil.Process:
        """The first process below this run that has all `words` in its command line."""
        return self.child_soon(*words, seconds=0)

    def child_soon(self, *words: str, seconds: float) -> psutil.Process:
        """The same, once it has been started."""
        deadline = time.monotonic() + seconds
        while True:
            below = psutil.Process(self.process.pid).children(recursive=True)
            lines = {process: _command_line(process) for process in below}
            found = [p for p, line in lines.items() if all(word in line for word in words)]
            if found:
                return found[0]
            assert time.monotonic() < deadline, f"no {words} among {list(lines.values())}"
            time.sleep(0.05)

    def end(self, *, seconds: float = 560) -> int:
        """The exit status, once it has ended."""
        code = self.process.wait(seconds)
        assert self._reader is not None
        self._reader.join(5)
        return code

    def close(self) -> None:
        """For a test that failed half-way."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    @property
    def errors(self) -> str:
        return (self.out.parent / f"{self.out.name}.stderr").read_text()

    @property
    def record(self) -> dict[str, Any]:
        """The run's own record."""
        data: dict[str, Any] = json.loads((self.out / "run.json").read_text())
        return data

    def require_ended(self) -> None:
        """Nothing is left running, and nothing is half-written."""
        assert left_behind(self.out) == []
        assert [p.name for p in self.out.rglob("*.tmp")] == []
        assert not self.out.with_name(self.out.name + ".lock").exists()


__all__ = ["CLI", "DemoRun", "demo", "left_behind", "require_complaint"]
