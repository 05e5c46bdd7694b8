"""No rule and no panel rests on a metric that nobody has: ours are read from the processes' registries, in full."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry

from clusterheal.clock import SystemClock
from clusterheal.engine.audit import Reporter
from clusterheal.engine.metrics import EngineMetrics
from clusterheal.engine.policy import Policy, PolicySet
from clusterheal.engine.views import Snapshot
from clusterheal.engine.world import World
from clusterheal.metrics.catalogue import load_catalogue
from clusterheal.metrics.promql import metric_names
from scripts.monitoring.source import load_all

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "manifests/base/monitoring"
CLUSTER = ROOT / "manifests/cluster/monitoring/alerting-rules.yaml"
LEAF = "openshift.io/prometheus-rule-evaluation-scope"
FREE = {"job", "instance", "namespace", "model_name"}  # labels that scrapes and deployments decide on
SELECTOR = re.compile(r"(clusterheal_\w+)\{([^}]*)\}")


def documents(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


def expressions(path: Path) -> list[str]:
    return [rule["expr"] for group in documents(path)["spec"]["groups"] for rule in group["rules"]]


RULE_FILES = sorted(BASE.glob("rules-*.yaml"))
RECORDED = {
    rule["record"]
    for path in RULE_FILES
    for group in documents(path)["spec"]["groups"]
    for rule in group["rules"]
    if "record" in rule
}
PANELS = [query.expr for board in load_all() for panel in board.panels for query in panel.queries]


@pytest.fixture(scope="session")
def engine() -> CollectorRegistry:
    metrics, clock = EngineMetrics(), SystemClock()
    Reporter(metrics, clock).world(
        World(
            now=clock.now(),
            snapshot=Snapshot(taken_at=clock.now()),
            policies=PolicySet(policies=(Policy(name="any", mode="auto"),)),
        )
    )
    return metrics.registry


@pytest.fixture(scope="session")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> CollectorRegistry:
    from clusterheal_models.serving.runtime import load_runtime
    from clusterheal_models.serving.server import import_adapter
    from clusterheal_models.serving.toy import toy_detector

    contract = load_catalogue("default").contract(timedelta(minutes=1))
    package = toy_detector(tmp_path_factory.mktemp("package"), contract)
    import_adapter().PackagedModel(load_runtime(package))
    return REGISTRY


def exposed(registry: CollectorRegistry) -> set[str]:
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {family.name + s for family in registry.collect() for s in suffixes.get(family.type, ("",))}


@pytest.fixture(scope="session")
def ours(engine: CollectorRegistry, model_server: CollectorRegistry) -> set[str]:
    return {name for name in exposed(engine) | exposed(model_server) if name.startswith("clusterheal_")}


@pytest.fixture(scope="session")
def platform() -> dict[str, str]:
    listed = documents(ROOT / "scripts/monitoring/platform-metrics.yaml")
    return {metric: scope for exporter in listed.values() for metric, scope in exporter.items()}


@pytest.fixture(scope="session")
def catalogued() -> set[str]:
    features = [f for name in ("default", "detailed") for f in load_catalogue(name).features]
    return {metric for feature in features for metric in metric_names(feature.spec.promql)}


@pytest.mark.parametrize("path", [*RULE_FILES, CLUSTER], ids=lambda p: p.name)
def test_rules_read_metrics_that_exist(
    path: Path, ours: set[str], platform: dict[str, str], catalogued: set[str]
) -> None:
    read = {name for expression in expressions(path) for name in metric_names(expression)}
    assert read - ours - set(platform) - catalogued - RECORDED == set()


def test_panels_read_metrics_that_exist(ours: set[str], platform: dict[str, str], catalogued: set[str]) -> None:
    read = {name for expression in PANELS for name in metric_names(expression)}
    assert read - ours - set(platform) - catalogued - RECORDED == set()


def test_selected_label_values_exist(engine: CollectorRegistry, model_server: CollectorRegistry) -> None:
    """`guard="rate"` is no use when the guard is called otherwise; series start at zero, so they can be looked up."""
    samples = [s for registry in (engine, model_server) for family in registry.collect() for s in family.samples]
    everything = [e for path in RULE_FILES for e in expressions(path)] + PANELS
    for name, matchers in {m for e in everything for m in SELECTOR.findall(e)}:
        wanted = {k: v for k, v in re.findall(r'(\w+)="([^"]*)"', matchers) if k not in FREE}
        if wanted:
            assert any(s.name == name and wanted.items() <= s.labels.items() for s in samples), (name, wanted)


def test_rules_of_our_namespace_read_nothing_that_lies_outside_it(platform: dict[str, str]) -> None:
    for path in RULE_FILES:
        for expression in expressions(path):
            outside = {n for n in metric_names(expression) if platform.get(n) == "cluster"}
            assert outside == set(), f"{path.name}: {expression}"


def test_rules_evaluated_at_the_leaf_read_only_what_is_scraped_there(ours: set[str]) -> None:
    at_the_leaf = [p for p in RULE_FILES if LEAF in documents(p)["metadata"].get("labels", {})]
    assert len(at_the_leaf) == 3
    for path in at_the_leaf:
        for expression in expressions(path):
            assert metric_names(expression) <= ours | RECORDED | {"up"}, f"{path.name}: {expression}"


def test_the_list_of_platform_metrics_has_no_orphans(platform: dict[str, str]) -> None:
    everything = [e for path in (*RULE_FILES, CLUSTER) for e in expressions(path)] + PANELS
    assert set(platform) <= {name for expression in everything for name in metric_names(expression)}
