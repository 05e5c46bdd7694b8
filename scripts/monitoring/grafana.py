"""A dashboard in Grafana's own JSON, inside the custom resources of the Grafana operator."""

from __future__ import annotations

import json
from typing import Any

from scripts.monitoring.source import COLUMNS, Dashboard, Panel

SELECTOR = {"matchLabels": {"dashboards": "self-healing-platform"}}
GRID = 24  # columns of Grafana's grid
SCHEMA_VERSION = 39
INPUT = "DS_PROMETHEUS"
DATASOURCE = "self-healing-prometheus"
FOLDER = "self-healing-platform"
HEIGHT = {"stat": 4, "graph": 8, "table": 6}


def resource(dashboard: Dashboard) -> dict[str, Any]:
    """The GrafanaDashboard."""
    return {
        "apiVersion": "grafana.integreatly.org/v1beta1",
        "kind": "GrafanaDashboard",
        "metadata": {"name": dashboard.name},
        "spec": {
            "instanceSelector": SELECTOR,
            "folderRef": FOLDER,
            "datasources": [{"inputName": INPUT, "datasourceName": DATASOURCE}],
            "json": json.dumps(model(dashboard), indent=1) + "\n",
        },
    }


def model(dashboard: Dashboard) -> dict[str, Any]:
    """Grafana's dashboard model."""
    return {
        "uid": f"shp-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.text,
        "tags": ["self-healing-platform"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "refresh": "30s",
        "time": {"from": f"now-{dashboard.hours:g}h", "to": "now"},
        "templating": {"list": [_namespace()]},
        "panels": _panels(dashboard),
    }


def _namespace() -> dict[str, Any]:
    query = "label_values(clusterheal_leader, namespace)"
    return {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": _source(),
        "definition": query,
        "query": {"query": query, "refId": "namespace"},
        "refresh": 2,
        "sort": 1,
    }


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": f"${{{INPUT}}}"}


def _panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    top = 0
    for row in dashboard.rows:
        place = {"h": 1, "w": GRID, "x": 0, "y": top}
        made.append({"id": len(made) + 1, "type": "row", "title": row.title, "gridPos": place, "collapsed": False})
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            width = panel.span * GRID // COLUMNS
            if left + width > GRID:
                top, left, height = top + height, 0, 0
            place = {"h": HEIGHT[panel.kind], "w": width, "x": left, "y": top}
            made.append({"id": len(made) + 1, "gridPos": place, **_panel(panel)})
            left, height = left + width, max(height, HEIGHT[panel.kind])
        top += height
    return made


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": {}}
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    body: dict[str, Any] = {
        "type": {"graph": "timeseries"}.get(panel.kind, panel.kind),
        "title": panel.title,
        "description": panel.text,
        "datasource": _source(),
        "targets": [_target(panel, index) for index in range(len(panel.queries))],
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }
    if panel.kind == "graph":
        defaults["custom"] = {"fillOpacity": 20 if panel.stack else 0, "stacking": {"mode": _stacking(panel)}}
        body["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    elif panel.kind == "stat":
        defaults["thresholds"] = {"mode": "absolute", "steps": _steps(panel)}
        body["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "none", "textMode": "value"}
    else:
        hidden = {"Time": True, "Value": True, "__name__": True, "container": True, "endpoint": True, "service": True}
        body["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    return body


def _stacking(panel: Panel) -> str:
    return "normal" if panel.stack else "none"


def _steps(panel: Panel) -> list[dict[str, Any]]:
    if panel.bad_above is not None:
        return [{"color": "green", "value": None}, {"color": "red", "value": panel.bad_above}]
    if panel.bad_below is not None:
        return [{"color": "red", "value": None}, {"color": "green", "value": panel.bad_below}]
    return [{"color": "text", "value": None}]


def _target(panel: Panel, index: int) -> dict[str, Any]:
    query = panel.queries[index]
    target: dict[str, Any] = {
        "refId": chr(ord("A") + index),
        "datasource": _source(),
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
    }
    if panel.kind == "table":
        target |= {"format": "table", "instant": True}
    elif panel.kind == "stat":
        target["instant"] = True
    return target


def folder() -> dict[str, Any]:
    return {
        "apiVersion": "grafana.integreatly.org/v1beta1",
        "kind": "GrafanaFolder",
        "metadata": {"name": FOLDER},
        "spec": {"instanceSelector": SELECTOR, "title": "Self-Healing Platform"},
    }


def datasource() -> dict[str, Any]:
    """The Thanos Querier: its token needs ClusterRole cluster-monitoring-view, its CA is the cluster's."""
    return {
        "apiVersion": "grafana.integreatly.org/v1beta1",
        "kind": "GrafanaDatasource",
        "metadata": {"name": DATASOURCE},
        "spec": {
            "instanceSelector": SELECTOR,
            "valuesFrom": [
                _value("secureJsonData.httpHeaderValue1", "secretKeyRef", "grafana-prometheus", "token"),
                _value("secureJsonData.tlsCACert", "configMapKeyRef", "openshift-service-ca.crt", "service-ca.crt"),
            ],
            "datasource": {
                "name": DATASOURCE,
                "type": "prometheus",
                "access": "proxy",
                "url": "https://thanos-querier.openshift-monitoring.svc:9091",
                "jsonData": {"httpHeaderName1": "Authorization", "httpMethod": "POST", "tlsAuthWithCACert": True},
                "secureJsonData": {"httpHeaderValue1": "Bearer ${token}", "tlsCACert": "${service-ca.crt}"},
            },
        },
    }


def _value(path: str, kind: str, name: str, key: str) -> dict[str, Any]:
    return {"targetPath": path, "valueFrom": {kind: {"name": name, "key": key}}}
