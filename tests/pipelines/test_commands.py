"""The commands around pipelines and models: what they print, and how they end."""

from __future__ import annotations

from pathlib import Path

import pytest
from clusterheal_models.serving.toy import toy_detector
from typer.testing import CliRunner

from clusterheal.cli import build_app
from clusterheal.commands.pipeline import parse_parameters
from clusterheal.commands.register import parse_properties
from clusterheal.contracts import DETECTOR, EntityKind, FeatureContract, FeatureSpec, default_window
from clusterheal.errors import InvalidInput
from clusterheal.local.registry.server import create_app, now_ms, running
from clusterheal.local.registry.store import ResourceStore
from clusterheal.local.runner import checked_arguments


@pytest.fixture(scope="module")
def runner() -> CliRunner:
    return CliRunner()


@pytest.mark.parametrize(
    "command",
    [
        ["train"], ["register"], ["models", "list"], ["models", "retain"], ["pipeline", "compile"], ["pipeline", "run"],
        ["pipeline", "submit"], ["pipeline", "schedule"], ["pipeline", "status"],
    ],
)  # fmt: skip
def test_every_help_shows_an_example(runner: CliRunner, command: list[str]) -> None:
    shown = runner.invoke(build_app(), [*command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: clusterheal {' '.join(command)}" in " ".join(shown.stdout.split())


def test_register_list_and_retain_by_command(runner: CliRunner, tmp_path: Path) -> None:
    from datetime import timedelta

    step = timedelta(minutes=5)
    contract = FeatureContract(
        entity_kinds=(EntityKind(name="node", labels=("node",)),),
        features=(FeatureSpec(name="load", promql="node_load1", unit="1", entity_kind="node"),),
        step=step,
        window=default_window(step),
    )
    package = toy_detector(tmp_path / "package", contract)
    store = ResourceStore(None, now_ms=now_ms)
    with running(create_app(store)) as url:
        where = ["--registry-url", url]
        arguments = ["--package", str(package.path), *where, "--storage", str(tmp_path / "models"), "--rejected"]
        made = runner.invoke(build_app(), ["register", *arguments, "--property", "git_commit=abc"])
        assert made.stdout.startswith(f"{DETECTOR} v000001 rejected file://")
        listed = runner.invoke(build_app(), ["models", "list", *where])
        assert f"{DETECTOR}       v000001 rejected" in listed.stdout
        retain = ["models", "retain", *where, "--keep", "0", "--days", "0"]
        assert f"would archive {DETECTOR} v000001" in runner.invoke(build_app(), retain).stdout
        assert "rejected" in runner.invoke(build_app(), ["models", "list", *where]).stdout
        assert f"archived {DETECTOR} v000001" in runner.invoke(build_app(), [*retain, "--apply"]).stdout
        assert "archived" in runner.invoke(build_app(), ["models", "list", *where]).stdout
        assert runner.invoke(build_app(), retain).stdout == ""
    store.close()


def test_parameters_are_json_where_they_can_be() -> None:
    given = ["days=7", "when=always", "list=[1, 2]", "flag=true", "empty=", "equation=a=b"]
    assert parse_parameters(given) == {
        "days": 7, "when": "always", "list": [1, 2], "flag": True, "empty": "", "equation": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize("given", ["days", "=7", ""])
def test_what_is_no_assignment_is_refused(given: str) -> None:
    with pytest.raises(InvalidInput, match="NAME=VALUE"):
        parse_parameters([given])
    with pytest.raises(InvalidInput, match="NAME=VALUE"):
        parse_properties([given])


def test_properties_take_the_type_they_look_like() -> None:
    assert parse_properties(["a=1", "b=0.5", "c=true", "d=text"]) == {"a": 1, "b": 0.5, "c": True, "d": "text"}


def _spec(**types: str) -> dict[str, object]:
    parameters = {name: {"parameterType": wanted, "defaultValue": 0} for name, wanted in types.items()}
    return {"pipelineInfo": {"name": "p"}, "root": {"inputDefinitions": {"parameters": parameters}}}


def test_arguments_take_the_type_that_the_pipeline_declares() -> None:
    spec = _spec(days="NUMBER_DOUBLE", seed="NUMBER_INTEGER", accelerators="STRING")
    checked = checked_arguments(spec, {"days": 7, "seed": 3.0, "accelerators": 1})
    assert checked == {"days": 7.0, "seed": 3, "accelerators": "1"}
    assert [type(value) for value in checked.values()] == [float, int, str]


@pytest.mark.parametrize(
    ("wanted", "value"),
    [("NUMBER_DOUBLE", "many"), ("NUMBER_INTEGER", 1.5), ("NUMBER_INTEGER", True), ("BOOLEAN", 1), ("LIST", {})],
)
def test_arguments_of_another_type_are_refused(wanted: str, value: object) -> None:
    with pytest.raises(InvalidInput, match="parameter x: expected"):
        checked_arguments(_spec(x=wanted), {"x": value})
