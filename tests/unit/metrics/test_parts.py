"""Parts as they are read: in the caller's thread."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from clusterheal.contracts import EntityKind, FeatureContract, FeatureSpec, default_window
from clusterheal.metrics.parts import Extent, Part, encode

STEP_MS = 60_000
READ = """
import os, sys
from pathlib import Path
from clusterheal.contracts import FeatureContract
from clusterheal.metrics.parts import Extent, decode

contract = FeatureContract.from_json(Path(sys.argv[1]).read_text())
part = decode(Path(sys.argv[2]).read_bytes(), Extent(start_ms=0, end_ms=60_000 * 64, kind="node"), contract, "part")
names = [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
print(part.values.shape, sum(not name.startswith("jemalloc") for name in names))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_reading_a_part_leaves_no_thread_that_could_outlive_the_interpreter(tmp_path: Path) -> None:
    """A step of a pipeline once died when all was written: a thread of Arrow's pool still held a Python file."""
    contract = FeatureContract(
        entity_kinds=(EntityKind(name="node", labels=("node",)),),
        features=tuple(FeatureSpec(name=f"f{i}", promql="up", unit="1", entity_kind="node") for i in range(4)),
        step=timedelta(milliseconds=STEP_MS),
        window=default_window(timedelta(milliseconds=STEP_MS)),
    )
    part = Part(
        extent=Extent(start_ms=0, end_ms=STEP_MS * 64, kind="node"),
        entities=("node/a", "node/b"),
        values=np.ones((4, 2, 64), np.float32),
    )
    (tmp_path / "contract.json").write_text(contract.to_json())
    (tmp_path / "part").write_bytes(encode(part, contract))
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "contract.json"), str(tmp_path / "part")],
        env={"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == "(4, 2, 64) 1"
