"""The query catalogue: what is packaged is right, and what users write wrong is named."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from clusterheal.errors import InvalidInput
from clusterheal.metrics.catalogue import PACKAGED, load_catalogue, recorded_catalogue
from clusterheal.metrics.catalogue_check import check_catalogue
from clusterheal.metrics.promql import metric_names

GOOD = """
version: 1
entity_kinds: {queue: {labels: [queue]}}
features:
  - {name: queue_length, kind: queue, unit: count, low: 0, high: null, why: backlog, promql: 'max by (queue) (q_len)'}
"""


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_catalogues_pass_their_own_check(name: str) -> None:
    catalogue = load_catalogue(name)
    assert [f for f in check_catalogue(catalogue) if f.severity == "error"] == []
    assert all(f.why for f in catalogue.features)
    for feature in catalogue.features:
        spec = feature.spec
        if spec.unit == "ratio":
            assert spec.low == 0
            assert spec.high is not None
        assert "{{" not in spec.promql


def test_the_kinds_people_ask_about_are_there() -> None:
    kinds = {k.name for k in load_catalogue("detailed").entity_kinds}
    assert {"node", "workload", "container", "deployment", "pvc", "gpu", "apiserver", "etcd"} <= kinds


def test_each_division_is_safe_from_zero() -> None:
    for feature in load_catalogue("detailed").features:
        text = feature.spec.promql
        if "/" in text and "/ 100" not in text:
            assert "> 0)" in text, feature.name


def test_rates_are_over_counters_and_name_them() -> None:
    for feature in load_catalogue("detailed").features:
        if "rate(" in feature.spec.promql or "increase(" in feature.spec.promql:
            assert feature.counters, feature.name


def test_users_extend_the_default_without_code(tmp_path: Path) -> None:
    catalogue = load_catalogue(_file(tmp_path, GOOD.replace("version: 1", "version: 1\nextends: default")))
    names = [f.name for f in catalogue.features]
    assert names[0] == "node_cpu_busy"
    assert names[-1] == "queue_length"
    assert catalogue.kind("queue").labels == ("queue",)


def test_equal_catalogues_give_equal_contracts(tmp_path: Path) -> None:
    minute = timedelta(minutes=1)
    own = load_catalogue(_file(tmp_path, GOOD)).contract(minute)
    assert own.sha256 == load_catalogue(_file(tmp_path, GOOD + "# said\n")).contract(minute).sha256
    assert own.sha256 != load_catalogue(_file(tmp_path, GOOD.replace("null", "9"))).contract(minute).sha256


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("unit: count, ", "", "unit.*missing"),
        ("low: 0, ", "", "low.*missing"),
        ("high: null, ", "", "high.*missing"),
        ("unit: count", "unit: furlongs", "unknown unit 'furlongs'"),
        ("high: null", "high: -1", "not below"),
        ("high: null", "high: .inf", "finite number"),
        ("kind: queue", "kind: cue", "unknown entity kind 'cue'"),
        ("name: queue_length", "name: Queue Length", "lower case"),
        ("why: backlog", "why: backlog, reason: x", "unknown keys.*reason"),
        ("max by (queue) (q_len)", "{{nothing}}", "no definition 'nothing'"),
        ("version: 1", "version: 2", "version: 1"),
        ("version: 1", "version: 1\nextends: world", "extends 'world'"),
        ("labels: [queue]", "labels: queue", "list of label names"),
        ("features:", "features: []\nrest:", "unknown keys"),
        ("labels: [queue]", "labels: [queue]}, a.b: {labels: [b]", "entity kind's name is lower case.*'a.b'"),
        ("why: backlog", "why: ''", "why is a non-empty text"),
        ("kind: queue", "kind: [queue]", "kind is a non-empty text"),
        ("version: 1", "version: 1\ndefinitions: [a]", "`definitions` is a mapping"),
        (GOOD, "version: 1\nfeatures: 5", "`features` is a list"),
        (GOOD, "version: 1\nentity_kinds: [node]", "`entity_kinds` is a mapping"),
        (GOOD, "- a", "expected a mapping"),
        (GOOD, "a: [", "not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(InvalidInput, match=says):
        load_catalogue(_file(tmp_path, GOOD.replace(old, new)))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_catalogue(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "metric", ["kube_pod_status_scheduled", "kube_job_created", "container_fs_inodes_free", "container_tasks_state"]
)
def test_denied_metrics_fail_the_check(tmp_path: Path, metric: str) -> None:
    findings = check_catalogue(load_catalogue(_file(tmp_path, GOOD.replace("q_len", f"rate({metric}[5m])"))))
    assert [(f.code, f.severity) for f in findings if metric in f.detail] == [("metric-denied", "error")]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on PATH")
@pytest.mark.parametrize(
    "promql", ["sum(q_len", "rate(q_len)", "sum by (queue q_len", "q_len[5m]", "bogus(q_len)", "1"]
)
def test_promql_that_does_not_work_fails_the_check(tmp_path: Path, promql: str) -> None:
    findings = check_catalogue(load_catalogue(_file(tmp_path, GOOD.replace("max by (queue) (q_len)", promql))))
    assert "error" in {f.severity for f in findings if f.subject == "queue_length"}


@pytest.mark.parametrize(
    ("promql", "names"),
    [
        ("sum by (a, b) (rate(x{c=\"d{e}f\"}[5m:1m])) / on (a) group_left (z) (y > 0)", {"x", "y"}),
        ("sum(x) by (le) or 0 * count without (i) (ns:rule:sum5m offset 1d)", {"x", "ns:rule:sum5m"}),
        ("{__name__=\"odd\",a=\"b\"} and on () vector(1) > bool 1e3 + Inf", {"odd"}),
        ("avg_over_time(x[1h] @ end()) unless ignoring (a) y # z", {"x", "y"}),
    ],
)  # fmt: skip
def test_metric_names_of_expressions(promql: str, names: set[str]) -> None:
    assert metric_names(promql) == names


def test_recordings_have_one_feature_a_metric() -> None:
    catalogue = recorded_catalogue(["m00", "m01"])
    assert [f.name for f in catalogue.features] == ["m00", "m01"]
    assert 'metric="m01"' in catalogue.features[1].spec.promql
    assert [k.name for k in catalogue.entity_kinds] == ["instance"]
    with pytest.raises(InvalidInput):
        recorded_catalogue([])
