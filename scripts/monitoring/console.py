"""A dashboard as the OpenShift console reads it: Grafana's schema of long ago, with rows, in a labelled ConfigMap.

The console knows the panel types `graph`, `singlestat` and `table` (and two that are not used here), takes a graph's
unit from `yaxes[0].format`, and a query's name from `legendFormat`.
"""

from __future__ import annotations

import json
from typing import Any

from scripts.monitoring.source import Dashboard, Panel

TYPES = {"stat": "singlestat", "graph": "graph", "table": "table"}


def resource(dashboard: Dashboard) -> dict[str, Any]:
    """The ConfigMap; only an administrator may write to its namespace."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"grafana-dashboard-self-healing-{dashboard.name}",
            "namespace": "openshift-config-managed",
            "labels": {"console.openshift.io/dashboard": "true"},
        },
        "data": {f"{dashboard.name}.json": json.dumps(model(dashboard), indent=1) + "\n"},
    }


def model(dashboard: Dashboard) -> dict[str, Any]:
    ids = iter(range(1, 1000))
    return {
        "title": dashboard.title,
        "tags": ["self-healing-platform"],
        "time": {"from": f"now-{dashboard.hours:g}h", "to": "now"},
        "refresh": "30s",
        "templating": {
            "list": [
                {
                    "name": "namespace",
                    "label": "Namespace",
                    "type": "query",
                    "query": "label_values(clusterheal_leader, namespace)",
                    "hide": 0,
                    "includeAll": False,
                }
            ]
        },
        "rows": [
            {
                "title": row.title,
                "showTitle": True,
                "collapse": False,
                "panels": [{"id": next(ids), **_panel(panel)} for panel in row.panels],
            }
            for row in dashboard.rows
        ],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": TYPES[panel.kind],
        "title": panel.title,
        "description": panel.text,
        "span": panel.span,
        "targets": [_target(panel, index) for index in range(len(panel.queries))],
    }
    if panel.kind == "graph":
        body |= {"yaxes": [{"format": panel.unit}], "stack": panel.stack, "legend": {"show": True}}
    elif panel.kind == "stat":
        body |= {"format": panel.unit, "decimals": panel.decimals or 0, "postfix": ""}
    else:
        hidden = ("Time", "Value", "__name__", "container", "endpoint", "service", "prometheus")
        body["styles"] = [{"pattern": name, "type": "hidden"} for name in hidden]
    return body


def _target(panel: Panel, index: int) -> dict[str, Any]:
    query = panel.queries[index]
    return {
        "refId": chr(ord("A") + index),
        "expr": query.expr,
        "legendFormat": query.legend,
        "format": "table" if panel.kind == "table" else "time_series",
        "instant": panel.kind != "graph",
    }
