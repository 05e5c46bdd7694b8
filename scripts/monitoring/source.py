"""The dashboards' one source: `dashboards/*.yaml`, from which both of their forms and the pictures are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

SOURCES = Path(__file__).with_name("dashboards")
COLUMNS = 12
Kind = Literal["stat", "graph", "table"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """PromQL, with `$namespace` for the platform's namespace, and what a series is called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """`unit` is Grafana's name of it; `span` of 12 columns; `bad` colours a stat red above (or below) that value."""

    title: str
    kind: Kind
    unit: str
    span: int
    queries: tuple[Query, ...]
    text: str = ""
    stack: bool = False
    decimals: int | None = None
    bad_above: float | None = None
    bad_below: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """`name` is its identifier; `hours` the time it shows at first."""

    name: str
    title: str
    text: str
    hours: float
    rows: tuple[Row, ...]

    @property
    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]


def load_all() -> list[Dashboard]:
    """Every dashboard, by name.

    Raises:
        ValueError: a row that is wider than 12 columns.
    """
    return [load(path) for path in sorted(SOURCES.glob("*.yaml"))]


def load(path: Path) -> Dashboard:
    data: dict[str, Any] = yaml.safe_load(path.read_text())
    rows = tuple(Row(title=row["title"], panels=tuple(_panel(p) for p in row["panels"])) for row in data["rows"])
    for row in rows:
        if sum(p.span for p in row.panels) % COLUMNS:
            raise ValueError(f"{path.name}: the panels of row {row.title!r} do not fill its {COLUMNS} columns")
    return Dashboard(name=path.stem, title=data["title"], text=data["text"], hours=float(data["hours"]), rows=rows)


def _panel(data: dict[str, Any]) -> Panel:
    queries = tuple(Query(**query) for query in data.pop("queries"))
    return Panel(queries=queries, **data)
