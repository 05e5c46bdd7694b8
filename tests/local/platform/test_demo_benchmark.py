from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.local, pytest.mark.timeout(120)]
ROOT = Path(__file__).resolve().parents[3]


def test_the_quick_benchmark_prints_a_table_and_leaves_its_figures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.demo", "--quick", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [s["stage"] for s in figures["stages"]] == ["kubernetes", "history", "exporter", "prometheus", "registry"]
    assert all(s["seconds"] > 0 and 20 < s["peak_mib"] < 4096 for s in figures["stages"])
    assert figures["seconds"] >= sum(s["seconds"] for s in figures["stages"]) - 0.1
    assert "peak MiB, all processes" in done.stdout
