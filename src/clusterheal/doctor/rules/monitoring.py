"""Rules, monitors, Alertmanager, dashboards and who may ask Thanos."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from clusterheal.doctor.rule import Problem, RuleBook, Severity
from clusterheal.doctor.scene import FieldPath, Object, Scene, mappings
from clusterheal.errors import InvalidInput
from clusterheal.metrics.catalogue_check import denied_metrics
from clusterheal.metrics.promql import metric_names

BOOK = RuleBook()
CONSOLE = "console.openshift.io/dashboard"
CONSOLE_NAMESPACE = "openshift-config-managed"
THANOS = "thanos-querier.openshift-monitoring.svc"
_CLUSTER_WIDE = re.compile(
    r"(node_|kube_node_|kube_namespace_|machine_|mcd_|mco_|mcc_|etcd_|apiserver_|cluster_operator_|cluster_version|cluster:|"
    r"instance:node|DCGM_|kubelet_running_|workqueue_).*"
)


def _expressions(scene: Scene) -> Iterator[tuple[Object, FieldPath, Mapping[str, Any]]]:
    """Every rule of PrometheusRules and AlertingRules."""
    for o in scene.of("PrometheusRule", "AlertingRule"):
        for i, group in mappings(o.at("spec", "groups")):
            for j, rule in mappings(group.get("rules")):
                yield o, ("spec", "groups", i, "rules", j), rule


def _names(expression: object) -> frozenset[str]:
    try:
        return metric_names(str(expression))
    except InvalidInput:
        return frozenset()


@BOOK.add(
    "CH401",
    "namespace-enforced",
    Severity.ERROR,
    why='user workload monitoring forces namespace="<own>" on every selector: an expression over nodes, the '
    "control plane or operators returns nothing, and its alert never fires.",
    fix="an AlertingRule in openshift-monitoring, or namespacesWithoutLabelEnforcement",
)
def namespace_enforced(scene: Scene) -> Iterator[Problem]:
    if not scene.openshift:
        return
    for o, path, rule in _expressions(scene):
        if o.kind != "PrometheusRule" or str(o.namespace).startswith("openshift-"):
            continue
        outside = sorted(n for n in _names(rule.get("expr")) if _CLUSTER_WIDE.fullmatch(n))
        if outside:
            said = f"{rule.get('alert') or rule.get('record')} reads {', '.join(outside)} from namespace {o.namespace}"
            yield Problem(obj=o, path=(*path, "expr"), said=said)


@BOOK.add(
    "CH402",
    "metric-not-there",
    Severity.ERROR,
    why="OpenShift drops these metrics before they are stored, or no exporter has them: the expression is always "
    "empty.",
    fix="see why each is denied in the message; take a metric that exists",
)
def metric_not_there(scene: Scene) -> Iterator[Problem]:
    denied = denied_metrics()
    for o, path, rule in _expressions(scene):
        for name in sorted(_names(rule.get("expr"))):
            for pattern, why in denied:
                if scene.openshift and pattern.fullmatch(name):
                    yield Problem(obj=o, path=(*path, "expr"), said=f"{name}: {why}")


@BOOK.add(
    "CH403",
    "promql-unreadable",
    Severity.ERROR,
    why="one expression that does not parse makes the operator reject the whole file of rules.",
    fix="check with `promtool check rules` on the object's spec",
)
def promql_unreadable(scene: Scene) -> Iterator[Problem]:
    for o, path, rule in _expressions(scene):
        try:
            metric_names(str(rule.get("expr", "")))
        except InvalidInput as exc:
            yield Problem(obj=o, path=(*path, "expr"), said=str(exc))


@BOOK.add(
    "CH404",
    "monitor-fields-refused",
    Severity.ERROR,
    why="in user workload monitoring a monitor with namespaceSelector, caFile, certFile, keyFile or bearerTokenFile is "
    "refused: nothing is scraped.",
    fix="tlsConfig.ca.configMap {name: openshift-service-ca.crt, key: service-ca.crt} and authorization.credentials",
)
def monitor_fields(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("ServiceMonitor", "PodMonitor"):
        if not scene.openshift or str(o.namespace).startswith("openshift-"):
            continue
        if o.at("spec", "namespaceSelector"):
            yield Problem(obj=o, path=("spec", "namespaceSelector"), said="namespaceSelector")
        for path, endpoint in _endpoints(o):
            used = [k for k in ("bearerTokenFile",) if endpoint.get(k)]
            used += [k for k in ("caFile", "certFile", "keyFile") if (endpoint.get("tlsConfig") or {}).get(k)]
            for key in used:
                yield Problem(obj=o, path=path, said=key)


def _endpoints(o: Object) -> Iterator[tuple[FieldPath, Mapping[str, Any]]]:
    key = "endpoints" if o.kind == "ServiceMonitor" else "podMetricsEndpoints"
    for i, endpoint in mappings(o.at("spec", key)):
        yield ("spec", key, i), endpoint


@BOOK.add(
    "CH405",
    "monitor-without-ca",
    Severity.ERROR,
    why="https without the service CA fails with x509, or, with insecureSkipVerify, talks to anybody.",
    fix="tlsConfig.ca.configMap of openshift-service-ca.crt and serverName: <service>.<namespace>.svc",
)
def monitor_without_ca(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("ServiceMonitor", "PodMonitor"):
        for path, endpoint in _endpoints(o):
            tls = endpoint.get("tlsConfig") or {}
            if endpoint.get("scheme") != "https":
                continue
            if tls.get("insecureSkipVerify"):
                if scene.openshift:  # elsewhere kubelets sign their own certificates
                    yield Problem(obj=o, path=(*path, "tlsConfig"), said="insecureSkipVerify")
            elif not tls.get("ca") and not tls.get("caFile"):
                yield Problem(obj=o, path=path, said="https without a CA")
            elif o.kind == "ServiceMonitor" and not tls.get("serverName"):
                yield Problem(obj=o, path=(*path, "tlsConfig"), said="a serving certificate without serverName")


@BOOK.add(
    "CH406",
    "platform-alerts-do-not-arrive",
    Severity.WARNING,
    why="an AlertmanagerConfig gets a matcher on its own namespace: alerts of the platform never reach its receivers.",
    fix='poll ALERTS{alertstate="firing"} from Thanos for these, or route them in alertmanager-main',
)
def platform_alerts(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("AlertmanagerConfig"):
        for path, matcher in _matchers(o):
            value = str(matcher.get("value", ""))
            if matcher.get("name") == "namespace" and "openshift-" in value and scene.openshift:
                yield Problem(obj=o, path=path, said=f"a route for namespace {value}")


def _matchers(o: Object) -> Iterator[tuple[FieldPath, Mapping[str, Any]]]:
    pending: list[FieldPath] = [("spec", "route")]
    while pending:
        path = pending.pop()
        for i, matcher in mappings(o.at(*path, "matchers")):
            yield (*path, "matchers", i), matcher
        pending += [(*path, "routes", i) for i, _ in mappings(o.at(*path, "routes"))]


@BOOK.add(
    "CH407",
    "alert-without-help",
    Severity.WARNING,
    why="whoever is woken by it needs a severity to be routed by and a page that says what to do.",
    fix="labels.severity (critical, warning, info) and annotations.runbook_url",
)
def alert_without_help(scene: Scene) -> Iterator[Problem]:
    for o, path, rule in _expressions(scene):
        if "alert" not in rule:
            continue
        severity = (rule.get("labels") or {}).get("severity")
        if severity not in ("critical", "warning", "info", "none"):
            yield Problem(obj=o, path=path, said=f"{rule['alert']}: severity {severity!r}")
        if not (rule.get("annotations") or {}).get("runbook_url"):
            yield Problem(obj=o, path=path, said=f"{rule['alert']}: no runbook_url")


@BOOK.add(
    "CH408",
    "console-dashboard",
    Severity.ERROR,
    why="the console reads dashboards only from openshift-config-managed, and only in Grafana's old form with rows.",
    fix=f"namespace {CONSOLE_NAMESPACE}, and panels inside rows",
)
def console_dashboard(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("ConfigMap"):
        if o.labels.get(CONSOLE) != "true" or not scene.openshift:
            continue
        if o.namespace != CONSOLE_NAMESPACE:
            yield Problem(obj=o, path=("metadata", "namespace"), said=f"in namespace {o.namespace}")
        for key, text in (o.at("data", default={}) or {}).items():
            try:
                rows = json.loads(text).get("rows")
            except (ValueError, AttributeError):
                yield Problem(obj=o, path=("data", key), said=f"{key} is not a JSON object")
                continue
            if not rows:
                yield Problem(obj=o, path=("data", key), said=f"{key} has no rows")


@BOOK.add(
    "CH409",
    "thanos-tenant",
    Severity.ERROR,
    why="port 9092 answers only with ?namespace= and with rights in that namespace; port 9091 answers 403 without "
    "cluster-monitoring-view.",
    fix="?namespace=<own> on 9092; on 9091 a ClusterRoleBinding of the account to cluster-monitoring-view",
)
def thanos_tenant(scene: Scene) -> Iterator[Problem]:
    bound = {
        (s.get("namespace"), s.get("name"))
        for o in scene.of("ClusterRoleBinding")
        if o.at("roleRef", "name") == "cluster-monitoring-view"
        for _, s in mappings(o.at("subjects"))
    }
    for pod in scene.pods():
        variables = {name: value for _, name, value in pod.env()}
        for path, name, value in pod.env():
            account = (pod.owner.namespace, pod.spec.get("serviceAccountName", "default"))
            tenant = "namespace=" in value or any(n.endswith("PROMETHEUS__NAMESPACE") for n in variables)
            if f"{THANOS}:9092" in value.replace(".svc.cluster.local", ".svc") and not tenant:
                yield Problem(obj=pod.owner, path=path, said=f"{name}: port 9092 without a namespace")
            if f"{THANOS}:9091" in value.replace(".svc.cluster.local", ".svc") and account not in bound:
                said = f"{name}: port 9091, and {account[1]} is not bound to cluster-monitoring-view"
                yield Problem(obj=pod.owner, path=path, said=said)


@BOOK.add(
    "CH410",
    "thanos-without-ca",
    Severity.ERROR,
    why="Thanos Querier has a certificate of the service CA: without it every query ends in x509, and after that "
    "in 401.",
    fix="mount the ConfigMap openshift-service-ca.crt and point the client at service-ca.crt",
)
def thanos_without_ca(scene: Scene) -> Iterator[Problem]:
    injected = {
        o.name
        for o in scene.of("ConfigMap")
        if o.annotations.get("service.beta.openshift.io/inject-cabundle") == "true"
    } | {"openshift-service-ca.crt"}
    for pod in scene.pods():
        volumes = [v for _, v in mappings(pod.spec.get("volumes"))]
        mounted = {str((v.get("configMap") or {}).get("name")) for v in volumes}
        for v in volumes:
            sources = mappings((v.get("projected") or {}).get("sources"))
            mounted |= {str((s.get("configMap") or {}).get("name")) for _, s in sources}
        for path, name, value in pod.env():
            if value.startswith("https://thanos-querier.") and not mounted & injected:
                yield Problem(obj=pod.owner, path=path, said=f"{name}: no service CA is mounted")


@BOOK.add(
    "CH411",
    "grafana-selects-nothing",
    Severity.ERROR,
    why="Grafana resources without instanceSelector are adopted by no Grafana.",
    fix="spec.instanceSelector.matchLabels of the Grafana instance",
)
def grafana_selector(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("GrafanaDashboard", "GrafanaDatasource", "GrafanaFolder"):
        if not o.at("spec", "instanceSelector"):
            yield Problem(obj=o, path=("spec",), said="no instanceSelector")


@BOOK.add(
    "CH412",
    "xid-as-a-state",
    Severity.ERROR,
    why="DCGM_FI_DEV_XID_ERRORS holds the last XID until the node restarts: comparing its value fires for ever "
    "after the first error, recovered or not.",
    fix="act on transitions: changes(DCGM_FI_DEV_XID_ERRORS[5m]) > 0",
)
def xid_as_a_state(scene: Scene) -> Iterator[Problem]:
    for o, path, rule in _expressions(scene):
        expression = str(rule.get("expr", ""))
        if "DCGM_FI_DEV_XID_ERRORS" in expression and not re.search(r"\b(changes|delta|idelta|offset)\b", expression):
            yield Problem(
                obj=o, path=(*path, "expr"), said=f"{rule.get('alert') or rule.get('record')} compares the gauge"
            )
