"""Quality reports on the dataset's storage: JSON for the gate, HTML with plots for people."""

from __future__ import annotations

from html import escape
from typing import Any

from clusterheal.errors import InvalidInput
from clusterheal.metrics.quality import FeatureQuality, QualityReport
from clusterheal.metrics.shards import WHOLE, Shard
from clusterheal.metrics.storage import Storage

FOLDER = "_reports"
COLUMNS = (
    "name",
    "kind",
    "unit",
    "entities",
    "samples",
    "coverage",
    "gaps",
    "longest_gap_steps",
    "constant",
    "dead",
    "out_of_range",
    "infinite",
    "counter_resets",
    "low",
    "high",
)
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}
th,td{padding:.25rem .6rem;border-bottom:1px solid #d7dbe0;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}.error{color:#a40e26}.warning{color:#8a5a00}
"""


def write_report(storage: Storage, report: QualityReport, shard: Shard = WHOLE, *, html: bool = False) -> str:
    """Write the run's report and return where its JSON lies. The HTML is beside it, with the same name.

    Raises:
        PermanentError, RetryableError: the storage refuses.
        InvalidInput: HTML was asked for and plotly is not installed.
    """
    suffix = "" if shard == WHOLE else f"-{shard.index}of{shard.count}"
    stem = f"{FOLDER}/quality-{report.start:%Y%m%dT%H%M%S}-{report.end:%Y%m%dT%H%M%S}{suffix}"
    storage.write(f"{stem}.json", report.to_json().encode())
    if html:
        storage.write(f"{stem}.html", render(report).encode())
    return storage.full(f"{stem}.json")


def render(report: QualityReport) -> str:
    """One self-contained page: verdict, table and plots; opens without a network.

    Raises:
        InvalidInput: plotly is not installed.
    """
    try:
        import plotly.io as pio
    except ImportError as exc:
        raise InvalidInput("an HTML report needs plotly; install self-healing-platform[train]") from exc
    figures = [_coverage_map(report), *(_band(report, f) for f in report.features if f.name in report.timeline)]
    plots = "".join(
        pio.to_html(figure, full_html=False, include_plotlyjs="inline" if i == 0 else False)
        for i, figure in enumerate(figures)
    )
    verdict = "fit for training" if report.ok else "not fit for training"
    coverage = "no samples" if report.coverage is None else f"{report.coverage:.2%} of samples present"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Data quality</title>'
        f"<style>{STYLE}</style></head><body><h1>Data quality: {verdict}</h1>"
        f"<p>{report.start:%Y-%m-%d %H:%M} to {report.end:%Y-%m-%d %H:%M} UTC, step {report.step}, {coverage}; "
        f"contract {report.contract_sha256[:12]}</p>{_server(report)}{_findings(report)}{_table(report)}{plots}"
        "</body></html>"
    )


def _server(report: QualityReport) -> str:
    server = report.server
    facts = {
        "clock ahead of ours by": (server.clock_skew_seconds, "s"),
        "scrapes every": (server.scrape_interval_seconds, "s"),
        "scrape jitter": (None if server.jitter is None else server.jitter * 100, "%"),
    }
    texts = [f"{what} {value:.2f} {unit}" for what, (value, unit) in facts.items() if value is not None]
    return f"<p>Server: {', '.join(texts) or 'not measured'}.</p>"


def _findings(report: QualityReport) -> str:
    rows = "".join(
        f'<li class="{f.severity}"><b>{escape(f.code)}</b> {escape(f.subject)}: {escape(f.detail)}</li>'
        for f in report.findings
    )
    return f"<h2>Findings</h2><ul>{rows}</ul>" if rows else "<h2>No findings</h2>"


def _table(report: QualityReport) -> str:
    head = "".join(f"<th>{c.replace('_', ' ')}</th>" for c in COLUMNS)
    body = "".join("<tr>" + "".join(f"<td>{_cell(f, c)}</td>" for c in COLUMNS) + "</tr>" for f in report.features)
    return f"<h2>Features</h2><table><tr>{head}</tr>{body}</table>"


def _cell(feature: FeatureQuality, column: str) -> str:
    value: Any = getattr(feature, column)
    if value is None:
        return ""
    if column == "coverage":
        return f"{value:.2%}"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _coverage_map(report: QualityReport) -> Any:
    import plotly.graph_objects as go

    names = [f.name for f in report.features if f.name in report.timeline]
    figure = go.Figure(
        go.Heatmap(
            z=[report.timeline[name]["coverage"] for name in names],
            x=list(report.bucket_starts),
            y=names,
            zmin=0,
            zmax=1,
            colorscale="Viridis",
            colorbar={"title": "present"},
        )
    )
    figure.update_layout(
        title="Samples present", height=180 + 22 * len(names), margin={"l": 220}, yaxis_autorange="reversed"
    )
    return figure


def _band(report: QualityReport, feature: FeatureQuality) -> Any:
    import plotly.graph_objects as go

    line, x = report.timeline[feature.name], list(report.bucket_starts)
    figure = go.Figure()
    figure.add_scatter(x=x, y=line["low"], line_width=0, showlegend=False, hoverinfo="skip")
    figure.add_scatter(x=x, y=line["high"], fill="tonexty", line_width=0, name="lowest to highest entity")
    figure.add_scatter(x=x, y=line["mean"], name="mean")
    figure.update_layout(title=f"{feature.name}, {feature.unit}", height=260, margin={"t": 40, "b": 30})
    return figure
