"""Commands of ours that runbooks tell people to type exist, with the options that they are given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from clusterheal.cli import build_app

RUNBOOKS = Path(__file__).resolve().parents[2] / "docs/runbooks"
OURS = re.compile(r"(?:^|`)clusterheal ([^`\n]+)", re.MULTILINE)
LINES = sorted({(path.stem, line) for path in RUNBOOKS.glob("*.md") for line in OURS.findall(path.read_text())})


@pytest.fixture(scope="session")
def cli() -> Any:
    return typer.main.get_command(build_app())


@pytest.mark.parametrize(("runbook", "line"), LINES)
def test_the_command_exists(runbook: str, line: str, cli: Any) -> None:
    words = shlex.split(line)
    command = cli
    while commands := getattr(command, "commands", None):
        assert words, f"{runbook}: clusterheal {line} needs a subcommand"
        assert words[0] in commands, f"{runbook}: clusterheal {line}"
        command = commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known, f"{runbook}: clusterheal {line}"


def test_there_are_some() -> None:
    assert len(LINES) > 10
