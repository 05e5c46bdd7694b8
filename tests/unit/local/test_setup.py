"""What the set-up script says where it cannot go on. What it does where it can is what every test here runs in."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[3]
OLDEST_PYTHON = "3.11.2"  # Debian 12's
TOOLS = ("bash", "cat", "dirname", "env", "grep", "id", "sha256sum")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without a virtual environment, and a PATH with little on it."""
    for name in ("scripts", "bin"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def set_up(checkout: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / "scripts" / "setup.sh")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": str(checkout / "bin"), **env},
    )


def program(checkout: Path, name: str, text: str = "") -> None:
    path = checkout / "bin" / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def test_without_apt_get_it_says_what_is_needed(checkout: Path) -> None:
    done = set_up(checkout, PYTHON="/bin/false")
    assert done.returncode == 1
    assert done.stderr.startswith("setup: prometheus prometheus-alertmanager absent and there is no apt-get; install")
    assert not (checkout / ".venv").exists()


def test_a_user_who_may_not_install_is_told_what_to_ask_for(checkout: Path) -> None:
    program(checkout, "apt-get", "exit 1")
    (checkout / "bin" / "id").unlink()
    program(checkout, "id", "echo 1000")
    done = set_up(checkout, PYTHON="/bin/false")
    assert done.returncode == 1
    assert "this user may not install them. Ask an administrator to run:" in done.stderr
    assert "apt-get install --no-install-recommends prometheus prometheus-alertmanager" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_that_will_not_do_is_refused(checkout: Path) -> None:
    for name in ("prometheus", "promtool", "prometheus-alertmanager"):
        program(checkout, name)
    done = set_up(checkout, PYTHON="/bin/false")
    assert done.returncode == 1
    assert done.stderr == "setup: Python >= 3.11 with venv is needed; set PYTHON=/path/to/python3.11\n"


def test_a_second_run_installs_nothing(checkout: Path) -> None:
    for name in ("prometheus", "promtool", "prometheus-alertmanager", "python3"):
        program(checkout, name)
    venv = checkout / ".venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "clusterheal").symlink_to("/bin/true")
    (venv / "python").symlink_to("/bin/false")  # would fail if it were asked for anything
    wanted = subprocess.run(
        "cat pyproject.toml constraints.txt | sha256sum",
        shell=True, cwd=checkout, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (checkout / ".venv" / ".installed").write_text(wanted.stdout.strip())
    done = set_up(checkout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_locked_dependency_takes_the_oldest_python() -> None:
    """pip looks for a way around one that does not for hours, and finds none."""
    needs = {d.name: d.metadata.get("Requires-Python") for d in distributions()}
    assert len(needs) > 100
    assert [name for name, need in needs.items() if need and OLDEST_PYTHON not in SpecifierSet(need)] == []
