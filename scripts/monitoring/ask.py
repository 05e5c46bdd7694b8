"""A panel's queries, asked of a Prometheus as Grafana would ask them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import httpx

from scripts.monitoring.source import Panel

MAX_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series of a panel: what it is called, and its points `(seconds since the epoch, value)`, NaN left out."""

    name: str
    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]

    @property
    def last(self) -> float:
        return self.points[-1][1]


def ask(client: httpx.Client, panel: Panel, *, namespace: str, start: float, end: float) -> list[list[Line]]:
    """Per query of the panel, its series that have any point.

    Raises:
        httpx.HTTPError: Prometheus refused the query; the message has its words.
    """
    return [_query(client, panel, q.expr.replace("$namespace", namespace), q.legend, start, end) for q in panel.queries]


def _query(client: httpx.Client, panel: Panel, expr: str, legend: str, start: float, end: float) -> list[Line]:
    if panel.kind == "graph":
        step = max(1.0, (end - start) / MAX_POINTS)
        params = {"query": expr, "start": str(start), "end": str(end), "step": f"{step:.0f}"}
        answer = client.get("/api/v1/query_range", params=params)
    else:
        answer = client.get("/api/v1/query", params={"query": expr, "time": str(end)})
    if answer.is_error:
        raise httpx.HTTPError(f"{panel.title}: {answer.text[:300]} for {expr}")
    lines = []
    for found in answer.json()["data"]["result"]:
        pairs = found["values"] if "values" in found else [found["value"]]
        points = tuple((float(t), float(v)) for t, v in pairs if math.isfinite(float(v)))
        if points:
            lines.append(Line(name=named(legend, found["metric"]), labels=found["metric"], points=points))
    return lines


def named(legend: str, labels: dict[str, str]) -> str:
    """A legend with its `{{label}}` filled in; without one, the series' labels."""
    if not legend:
        return ", ".join(v for k, v in sorted(labels.items()) if k != "__name__")
    return re.sub(r"{{\s*(\w+)\s*}}", lambda m: labels.get(m.group(1), ""), legend)
