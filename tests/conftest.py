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
    for item in items:
        for marker, tools in NEEDED_TOOLS.items():
            absent = [tool for tool in tools if shutil.which(tool) is None]
            if item.get_closest_marker(marker) and absent:
                item.add_marker(pytest.mark.skip(reason=f"{marker} tier needs {', '.join(absent)} on PATH"))
        if item.get_closest_marker("gpu") and not _cuda():
            item.add_marker(pytest.mark.skip(reason="gpu tier needs a CUDA device"))


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
