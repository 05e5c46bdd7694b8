"""What is generated is what is committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.monitoring.__main__ import rendered


@pytest.mark.parametrize("path", rendered(), ids=lambda p: p.name)
def test_the_committed_file_is_the_generated_one(path: Path) -> None:
    assert path.read_text() == rendered()[path], "run `make monitoring`"
