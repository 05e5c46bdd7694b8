"""One real Prometheus for all tests here; each test writes metrics of its own name."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.real_prometheus import RealPrometheus  # noqa: E402
from clusterheal.settings import Settings, load_settings  # noqa: E402

_numbers = itertools.count()


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPrometheus]:
    with RealPrometheus(tmp_path_factory.mktemp("prometheus"), any_order=True) as server:
        yield server


@pytest.fixture
def metric() -> str:
    """A metric name that no other test uses."""
    return f"hostile_{next(_numbers)}"


@pytest.fixture
def make_settings(prometheus: RealPrometheus, tmp_path: Path) -> Callable[..., Settings]:
    def make(**sections: dict[str, Any]) -> Settings:
        return load_settings(
            None,
            {
                "prometheus": {"url": prometheus.url, **sections.get("prometheus", {})},
                "dataset": {"path": str(tmp_path / "dataset"), **sections.get("dataset", {})},
            },
        )

    return make
