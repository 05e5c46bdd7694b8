"""The report's plots, made with plotly."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from clusterheal.local.report_record import RunRecord

BLUE, RED, GREEN, GREY = "#2b6cb0", "#c0392b", "#0b6e3b", "#8a97a5"
BAND, FORECAST_BAND = "rgba(43,108,176,0.22)", "rgba(192,119,43,0.26)"
FORECAST = "#c0772b"
TOP_MARGIN = 84  # pixels: room for a subplot's title and, above it, three rows of marks
MARK_ROWS = 3  # marks often lie seconds apart: their names take turns in height


def library() -> str:
    """plotly.js, to be put into the page once."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _html(figure: Any, *, height: int) -> str:
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": TOP_MARGIN, "b": 40},
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    figure.update_xaxes(showgrid=True, gridcolor="#e4e9ee")
    figure.update_yaxes(showgrid=True, gridcolor="#e4e9ee", zeroline=False)
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}))


def incident(record: RunRecord) -> str:
    """The leading features with their expected bands and forecasts, and the detector's score below."""
    from plotly import graph_objects as go
    from plotly.subplots import make_subplots

    scores = record.scores or {}
    features: list[str] = scores["features"]
    titles = [f"{name} ({scores['units'].get(name, '')})" for name in features] + [
        "anomaly score (-log10 of the chance)"
    ]
    figure = make_subplots(rows=len(titles), cols=1, shared_xaxes=True, vertical_spacing=0.07, subplot_titles=titles)
    for row, name in enumerate(features, start=1):
        first = row == 1
        _band(
            go, figure, row, scores["times"], scores["low"][name], scores["high"][name], BAND, "expected, 80 %", first
        )
        _forecast(go, figure, row, _from_origin(scores, name), first)
        line = {"color": BLUE, "width": 2}
        figure.add_trace(
            go.Scatter(x=scores["times"], y=scores["observed"][name], name="observed", line=line, showlegend=first),
            row=row,
            col=1,
        )
    bottom = len(titles)
    height = 190 * len(titles) + TOP_MARGIN + 60
    colours = [RED if alarm else GREY for alarm in scores["alarm"]]
    figure.add_trace(
        go.Bar(x=scores["times"], y=scores["score"], marker_color=colours, name="score (red: alarm)"), row=bottom, col=1
    )
    for number, (at, text, colour) in enumerate(_marks(record)):
        figure.add_vline(x=at, line={"color": colour, "dash": "dot", "width": 1.5})
        figure.add_annotation(
            x=at,
            y=1.0,
            yref="paper",
            yshift=24 + 14 * (number % MARK_ROWS),
            text=text,
            showarrow=False,
            font={"color": colour, "size": 11},
            xanchor="left",
            yanchor="bottom",
        )
    figure.update_layout(legend={"orientation": "h", "yanchor": "top", "y": -60 / height, "x": 0})
    figure.update_xaxes(range=[scores["times"][0], _right_edge(scores)])
    return (
        f"<h2>What the models saw: {html.escape(scores['entity'])}</h2>"
        "<p class='muted'>Scores, expected bands and the forecast come from the served models over HTTP. The forecast "
        "begins where the fault was caused: it is what the model expected before it knew.</p>"
        + _html(figure, height=height)
    )


def _right_edge(scores: Mapping[str, Any]) -> str:
    """A few steps of the forecast are enough to see where it goes; all of it would squeeze the incident."""
    times: list[str] = next((f["times"] for f in scores["forecast"].values()), [])
    shown = [t for t in times if t > scores["times"][-1]][:3]
    return str(shown[-1] if shown else scores["times"][-1])


def _band(
    go: Any,
    figure: Any,
    row: int,
    times: Sequence[str],
    low: Sequence[float],
    high: Sequence[float],
    colour: str,
    name: str,
    legend: bool,
) -> None:
    around = {"x": [*times, *reversed(times)], "y": [*high, *reversed(low)], "hoverinfo": "skip"}
    figure.add_trace(
        go.Scatter(
            **around, fill="toself", fillcolor=colour, line={"width": 1, "color": colour}, name=name, showlegend=legend
        ),
        row=row,
        col=1,
    )


def _from_origin(scores: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The forecast with its origin in front, where all paths leave from the value that was observed then."""
    forecast: Mapping[str, Any] | None = scores["forecast"].get(name)
    if not forecast or not scores["forecast_origin"]:
        return forecast
    origin = datetime.fromisoformat(scores["forecast_origin"])
    known = zip(scores["times"], scores["observed"][name], strict=True)
    before = [value for time, value in known if value is not None and datetime.fromisoformat(time) <= origin]
    if not before:
        return forecast
    paths = {path: [before[-1], *forecast[path]] for path in ("low", "median", "high")}
    return {"times": [scores["forecast_origin"], *forecast["times"]], **paths}


def _forecast(go: Any, figure: Any, row: int, forecast: Mapping[str, Any] | None, legend: bool) -> None:
    if not forecast:
        return
    times = forecast["times"]
    _band(go, figure, row, times, forecast["low"], forecast["high"], FORECAST_BAND, "forecast, 80 %", legend)
    line = {"color": FORECAST, "dash": "dash"}
    figure.add_trace(
        go.Scatter(x=times, y=forecast["median"], name="forecast", line=line, showlegend=legend), row=row, col=1
    )


def _marks(record: RunRecord) -> list[tuple[str, str, str]]:
    """The fault, the first signal, the action and the end, where they are known."""
    marks = []
    for kind, text, colour in (
        ("fault", "fault", RED),
        ("signal", "noticed", "#9a7b00"),
        ("act", "acting", BLUE),
        ("good", "resolved", GREEN),
    ):
        events = [e for e in record.events if e["kind"] == kind and e["stage"] == "incident"]
        if events:
            marks.append((events[0]["at"], text, colour))
    return marks


def peers(models: Sequence[Mapping[str, Any]]) -> str:
    """Each model's deciding figure beside its naive peers'."""
    from plotly import graph_objects as go
    from plotly.subplots import make_subplots

    judged = [m for m in models if (m.get("evaluation") or {}).get("peers")]
    if not judged:
        return ""
    titles = [f"{m['name']}: {m['evaluation']['primary']}, lower is better" for m in judged]
    figure = make_subplots(rows=1, cols=len(judged), subplot_titles=titles)
    for col, model in enumerate(judged, start=1):
        evaluation = model["evaluation"]
        bars = [("this model", evaluation["score"]), *sorted(evaluation["peers"].items())]
        colours = [BLUE, *([GREY] * (len(bars) - 1))]
        figure.add_trace(
            go.Bar(x=[b[0] for b in bars], y=[b[1] for b in bars], marker_color=colours, showlegend=False),
            row=1,
            col=col,
        )
    return _html(figure, height=330)


def stages(records: Sequence[Mapping[str, Any]]) -> str:
    """Time per stage."""
    from plotly import graph_objects as go

    names = [r["name"] for r in records]
    seconds = [round(r["seconds"], 1) for r in records]
    bar = go.Bar(y=names, x=seconds, orientation="h", marker_color=BLUE, text=[f"{s:g} s" for s in seconds])
    figure = go.Figure(bar)
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="seconds")
    return _html(figure, height=90 + 34 * max(1, len(names)))


__all__ = ["incident", "library", "peers", "stages"]
