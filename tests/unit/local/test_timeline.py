from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from clusterheal.local.timeline import Timeline


class Ticks:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(ticks: Ticks) -> tuple[Timeline, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=False, width=80)
    return Timeline(console=console, monotonic=ticks, now=lambda: datetime(2026, 3, 1, tzinfo=UTC)), out


def test_without_a_terminal_there_are_plain_lines() -> None:
    ticks = Ticks()
    timeline, out = make(ticks)
    with timeline.stage("metrics") as stage:
        ticks.now += 3.5
        stage.summary = "everything scraped"
    lines = out.getvalue().splitlines()
    assert lines == ["   0.0 s  metrics    begins", "   3.5 s  metrics    everything scraped (3.5 s)"]
    assert "\x1b" not in out.getvalue()
    assert (timeline.stages[0].seconds, timeline.stages[0].ok) == (3.5, True)


def test_long_lines_are_not_broken() -> None:
    timeline, out = make(Ticks())
    timeline.event("x" * 300)
    assert len(out.getvalue().splitlines()) == 1


def test_progress_is_sparse_and_silent_in_short_stages() -> None:
    ticks = Ticks()
    timeline, out = make(ticks)
    with timeline.stage("pipeline"):
        for _ in range(200):
            timeline.progress(f"at {ticks.now:.1f}")
            ticks.now += 0.1
    shown = [line for line in out.getvalue().splitlines() if "..." in line]
    assert 3 <= len(shown) <= 4
    assert shown[0].endswith(("at 102.0", "at 102.1"))


def test_a_long_step_without_news_is_seen_to_go_on() -> None:
    ticks = Ticks()
    timeline, out = make(ticks)
    with timeline.stage("pipeline"):
        timeline.progress("Train forecaster")
        for _ in range(200):
            ticks.now += 0.1
            timeline.tick()
    shown = [line for line in out.getvalue().splitlines() if "... Train forecaster" in line]
    assert 3 <= len(shown) <= 4


def test_what_a_stage_was_at_is_not_said_of_the_next() -> None:
    ticks = Ticks()
    timeline, out = make(ticks)
    with timeline.stage("pipeline"):
        timeline.progress("Train forecaster")
    with timeline.stage("engine"):
        ticks.now += 30
        timeline.tick()
    ticks.now += 30
    timeline.tick()
    assert "Train forecaster" not in out.getvalue()


def test_a_failed_stage_is_not_called_done() -> None:
    ticks = Ticks()
    timeline, out = make(ticks)

    def fail() -> None:
        with timeline.stage("engine"):
            ticks.now += 1.0
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert "done" not in out.getvalue()
    assert (timeline.stages[0].ok, timeline.stages[0].seconds) == (False, 1.0)


def test_events_keep_their_stage_time_and_kind() -> None:
    timeline, out = make(Ticks())
    with timeline.stage("incident"):
        timeline.event("memory rises", kind="signal")
    (event,) = timeline.events
    assert (event.stage, event.kind, event.text) == ("incident", "signal", "memory rises")
    assert event.at == datetime(2026, 3, 1, tzinfo=UTC)
    assert "memory rises" in out.getvalue()


def test_on_a_terminal_the_running_line_is_replaced() -> None:
    out = io.StringIO()
    timeline = Timeline(console=Console(file=out, force_terminal=True, width=80))
    with timeline.stage("metrics") as stage:
        timeline.progress("scraping")
        timeline.event("noticed")
        stage.summary = "fine"
    assert "\x1b" in out.getvalue()
    assert "begins" not in out.getvalue()
    assert "fine" in out.getvalue()
