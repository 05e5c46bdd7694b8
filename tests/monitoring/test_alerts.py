"""Every alert fires when it should and is silent when it should be, rests on metrics that exist, and has a runbook."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
RULES = (
    *sorted((ROOT / "manifests/base/monitoring").glob("rules-*.yaml")),
    ROOT / "manifests/cluster/monitoring/alerting-rules.yaml",
)
SUITES = sorted(HERE.glob("*.yaml"))
RUNBOOKS = ROOT / "docs/runbooks"
HEADINGS = ("Meaning", "Impact", "Diagnosis", "Mitigation", "What the engine does", "How to stop it")
ENGINE_LABELS = {
    "model_name",
    "deployment",
    "statefulset",
    "daemonset",
    "workload",
    "persistentvolumeclaim",
    "job_name",
    "pod",
    "node",
}
SEVERITIES = {"critical", "warning", "info"}

pytestmark = pytest.mark.manifests
Rule = dict[str, Any]


def spec(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text())["spec"])


def rules(path: Path) -> Iterator[Rule]:
    for group in spec(path)["groups"]:
        yield from group["rules"]


def alerts() -> list[Rule]:
    return [rule for path in RULES for rule in rules(path) if "alert" in rule]


def names() -> list[str]:
    return sorted({rule["alert"] for rule in alerts()})


def promtool(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the `.spec` of every rule object and with every suite: promtool knows nothing of Kubernetes."""
    folder = tmp_path_factory.mktemp("rules")
    for path in RULES:
        (folder / path.name).write_text(yaml.safe_dump(spec(path)))
    for suite in SUITES:
        (folder / f"test-{suite.name}").write_text(suite.read_text())
    return folder


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.name)
def test_rules_are_sound(path: Path, extracted: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", path.name, cwd=extracted)


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.stem)
def test_alerts_fire_and_do_not_fire(suite: Path, extracted: Path) -> None:
    promtool("test", "rules", f"test-{suite.name}", cwd=extracted)


def test_every_alert_is_seen_firing_and_silent() -> None:
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for suite in SUITES:
        for group in yaml.safe_load(suite.read_text())["tests"]:
            for check in group["promql_expr_test"]:
                (name,) = re.findall(r'alertname="(\w+)"', check["expr"])
                seen[bool(check["exp_samples"])].add(name)
    assert sorted(seen[True]) == names()
    assert sorted(seen[False]) == names()


def test_every_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in SEVERITIES
        assert rule["labels"]["component"]
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{rule['alert']}.md")
    assert {rule["labels"]["severity"] for rule in alerts()} == SEVERITIES


def test_there_is_one_runbook_per_alert_and_no_other() -> None:
    assert sorted(path.stem for path in RUNBOOKS.glob("*.md")) == names()


@pytest.mark.parametrize("name", names())
def test_a_runbook_answers_what_a_person_asks(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert tuple(re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE)) == HEADINGS
    diagnosis = text.split("**Diagnosis.**")[1].split("**Mitigation.**")[0]
    assert "```sh\n" in diagnosis, "a diagnosis needs exact commands"


def test_alerts_that_people_alone_can_judge_stay_away_from_the_engine() -> None:
    """The webhook is told of objects; an alert about the engine itself names none, so it cannot feed on its own."""
    for suite in SUITES:
        for group in yaml.safe_load(suite.read_text())["tests"]:
            for sample in (s for check in group["promql_expr_test"] for s in check["exp_samples"]):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))
                if labels["component"] == "coordination-engine":
                    assert not ENGINE_LABELS & labels.keys(), labels
                if labels.get("clusterheal_io_symptom"):
                    assert ENGINE_LABELS & labels.keys(), labels
