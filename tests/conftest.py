"""Shared fixtures: where the recorded telemetry is, and skipping with a reason."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent))  # for demo_kit
NEEDED_TOOLS = {
    "local": ("prometheus", "promtool", "prometheus-alertmanager"),
    "manifests": ("kubectl", "promtool"),
}


SLOW_FIRST = (
    "tests/e2e/test_generated.py",
    "tests/pipelines/test_on_one_machine.py",
    "tests/e2e/test_recorded.py",
    "tests/local/",
)
"""Minutes long, some in a test or two: begun last, one of them would leave the other workers without work."""


def _shared() -> Path:
    return Path(os.environ.get("CLUSTERHEAL_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with recorded telemetry and CRD schemas; skips the test where it is absent."""
    path = _shared()
    if not (path / "data" / "README.md").is_file():
        pytest.skip(f"recorded telemetry not found at {path}; set CLUSTERHEAL_SHARED")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
    for item in items:
        for marker, tools in NEEDED_TOOLS.items():
            absent = [tool for tool in tools if shutil.which(tool) is None]
            if item.get_closest_marker(marker) and absent:
                item.add_marker(pytest.mark.skip(reason=f"{marker} tier needs {', '.join(absent)} on PATH"))
        if item.get_closest_marker("gpu") and not _cuda():
            item.add_marker(pytest.mark.skip(reason="gpu tier needs a CUDA device"))


def _place(item: pytest.Item) -> int:
    """How early it begins; equal ones stay in the order in which they were collected."""
    for place, slow in enumerate(SLOW_FIRST):
        if item.nodeid.startswith(slow):
            return place
    return len(SLOW_FIRST)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
