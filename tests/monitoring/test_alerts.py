"""Every alert fires when it should and is silent when it should be, rests on metrics that exist, and has a runbook."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusterheal.metrics.promql import metric_names

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


@pytest.mark.parametrize("suite", [s for s in SUITES if s.stem != "cluster"], ids=lambda p: p.stem)
def test_alerts_fire_with_the_namespace_forced_on_them(suite: Path, extracted: Path) -> None:
    """As user workload monitoring rewrites them; the same figures of another namespace must make no difference."""
    data = yaml.safe_load(suite.read_text())
    (rule_file,) = data["rule_files"]
    enforced = yaml.safe_load((extracted / rule_file).read_text())
    for rule in (rule for group in enforced["groups"] for rule in group["rules"]):
        rule["expr"] = in_namespace(rule["expr"], "ours")
        rule["labels"] = {**rule.get("labels", {}), "namespace": "ours"}
    (extracted / f"enforced-{rule_file}").write_text(yaml.safe_dump(enforced))
    data["rule_files"] = [f"enforced-{rule_file}"]
    data["tests"] = [group for group in data["tests"] if "namespace=" not in str(group)]  # has its own already
    for group in data["tests"]:
        for series in list(group["input_series"]):
            other = in_namespace(series["series"], "theirs")
            group["input_series"].append({"series": other, "values": "0+1000x1000"})
            series["series"] = in_namespace(series["series"], "ours")
        for sample in (s for check in group["promql_expr_test"] for s in check["exp_samples"]):
            sample["labels"] = in_namespace(sample["labels"], "ours")
    (extracted / f"enforced-{suite.name}").write_text(yaml.safe_dump(data))
    promtool("test", "rules", f"enforced-{suite.name}", cwd=extracted)


def in_namespace(promql: str, namespace: str) -> str:
    """The expression with a matcher for the namespace on each of its selectors."""
    for name in sorted(metric_names(promql), key=len, reverse=True):
        promql = re.sub(
            rf"(?<![\w:]){re.escape(name)}(?![\w:(])(\{{)?",
            lambda m, n=name: f'{n}{{namespace="{namespace}"' + ("," if m.group(1) else "}"),
            promql,
        )
    return promql


def test_annotations_can_be_written(extracted: Path) -> None:
    """promtool says what it got when told to expect nothing: with a template that fails, that is an error's text."""
    told: list[str] = []
    for suite in SUITES:
        data = yaml.safe_load(suite.read_text())
        for group in data["tests"]:
            checks = [check for check in group.pop("promql_expr_test") if check["exp_samples"]]
            group["alert_rule_test"] = [
                {
                    "eval_time": c["eval_time"],
                    "alertname": re.findall(r'alertname="(\w+)"', c["expr"])[0],
                    "exp_alerts": [],
                }
                for c in checks
            ]
        path = extracted / f"annotations-{suite.name}"
        path.write_text(yaml.safe_dump(data))
        done = subprocess.run(["promtool", "test", "rules", path.name], capture_output=True, text=True, cwd=extracted)
        told.append(done.stdout + done.stderr)
    text = "\n".join(told)
    seen = set(re.findall(r'runbook_url="[^"]*/(\w+)\.md"', text))
    assert sorted(seen) == names()
    assert "<error" not in text
    assert "<no value>" not in text
    assert "%!" not in text


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
