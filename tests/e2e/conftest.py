"""Runs of the demo that end whatever becomes of the test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from demo_kit import DemoRun

sys.path.insert(0, str(Path(__file__).parent))  # for e2e_kit


@pytest.fixture(scope="module")
def start_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., DemoRun]]:
    """Starts a run with the given options in a folder of its own."""
    runs: list[DemoRun] = []

    def start(*options: str) -> DemoRun:
        runs.append(DemoRun.start(tmp_path_factory.mktemp("demo") / "out", *options))
        return runs[-1]

    yield start
    for run in runs:
        run.close()
