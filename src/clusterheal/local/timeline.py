"""What a run prints while it goes on: stages with their times, events, and progress on anything longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

QUIET_SECONDS = 5.0  # between two progress lines when the output is no terminal


@dataclass(kw_only=True)
class StageRecord:
    """One stage as it went. `seconds` of wall time; `peak_rss_bytes` over the whole process tree while it ran."""

    name: str
    began: datetime
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    summary: str = ""
    ok: bool = False


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened, for the timeline of the report."""

    at: datetime
    stage: str
    text: str
    kind: str = "info"


@dataclass(kw_only=True)
class Timeline:
    """Prints a run as it unfolds and keeps what it printed.

    On a terminal the line of the running stage is live; elsewhere it is plain lines, one at most every few seconds.
    """

    console: Console = field(default_factory=Console)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    stages: list[StageRecord] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    _began: float = field(init=False)
    _live: Live | None = None
    _doing: str = ""
    _quiet_until: float = 0.0

    def __post_init__(self) -> None:
        self._began = self.monotonic()

    @property
    def elapsed_seconds(self) -> float:
        return self.monotonic() - self._began

    @contextmanager
    def stage(self, name: str) -> Iterator[StageRecord]:
        """A stage: its line appears at once and ends with its time, or with what went wrong."""
        record = StageRecord(name=name, began=self.now())
        self.stages.append(record)
        begin = self.monotonic()
        self._doing, self._quiet_until = "", begin + 2.0
        with self._shown(name):
            try:
                yield record
                record.ok = True
            finally:
                record.seconds = self.monotonic() - begin
                self._doing = ""
        self._print(name, f"{record.summary or 'done'} ({record.seconds:.1f} s)", style="bold green")

    def progress(self, text: str) -> None:
        """How far the running stage is; printed sparsely where lines stay."""
        self._doing = text
        self.tick()

    def tick(self) -> None:
        """Time has passed; call it now and then, so that a stage that has nothing to say is seen to go on."""
        if self._live is None and self._doing and self.monotonic() >= self._quiet_until:
            self._quiet_until = self.monotonic() + QUIET_SECONDS
            self._print(self._stage_name(), f"... {self._doing}", style="dim")

    def event(self, text: str, *, kind: str = "info") -> None:
        """Something worth keeping, printed at once; `kind` is info, fault, signal, act, good or bad."""
        name = self._stage_name()
        self.events.append(Event(at=self.now(), stage=name, text=text, kind=kind))
        styles = {"fault": "bold red", "signal": "yellow", "act": "bold cyan", "good": "bold green", "bad": "bold red"}
        self._print(name, text, style=styles.get(kind, ""))

    def note(self, text: str, *, style: str = "") -> None:
        """A line that is no part of the timeline."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    @contextmanager
    def _shown(self, name: str) -> Iterator[None]:
        if not self.console.is_terminal:
            self._print(name, "begins", style="dim")
            yield
            return
        spinner = Spinner("dots")

        def line() -> Spinner:
            spinner.update(text=Text(f"{self.elapsed_seconds:6.1f} s  {name:<10} {self._doing}"))
            return spinner

        with Live(get_renderable=line, console=self.console, transient=True, refresh_per_second=8) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def _stage_name(self) -> str:
        return self.stages[-1].name if self.stages else ""

    def _print(self, stage: str, text: str, *, style: str) -> None:
        line = Text(f"{self.elapsed_seconds:6.1f} s  {stage:<10} ")
        line.append(text, style=style)
        self.console.print(line, soft_wrap=True)


__all__ = ["Event", "StageRecord", "Timeline"]
