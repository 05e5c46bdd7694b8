"""Line charts as SVG in one HTML file: they open in a dashboard that reaches no other network."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating] | Sequence[float]

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 34
TICKS = 5
BLUE, ORANGE, GREY = "#2b6cb0", "#c0772b", "#8a97a5"


@dataclass(frozen=True, kw_only=True)
class Line:
    """`y` over `x`; where one is not finite the line is broken."""

    label: str
    x: Numbers
    y: Numbers
    colour: str = BLUE
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Band:
    """The area from `low` to `high` over `x`."""

    label: str
    x: Numbers
    low: Numbers
    high: Numbers
    colour: str = ORANGE


def chart(
    title: str, lines: Sequence[Line], *, bands: Sequence[Band] = (), x_label: str = "", y_label: str = ""
) -> str:
    """An HTML fragment; empty data gives the title and a line that says so."""
    x = _finite(*(line.x for line in lines), *(band.x for band in bands))
    y = _finite(*(line.y for line in lines), *(values for band in bands for values in (band.low, band.high)))
    if not len(x) or not len(y):
        return f"<h2>{html.escape(title)}</h2><p>There is nothing to show.</p>"
    frame = _Frame(x=_range(x), y=_range(y))
    parts = [frame.grid(x_label, y_label)]
    parts += [_polygon(frame, band) for band in bands]
    parts += [_polyline(frame, line) for line in lines]
    shown: list[Line | Band] = [*lines, *bands]
    legend = " ".join(f"<span style='color:{item.colour}'>&#9632;</span> {html.escape(item.label)}" for item in shown)
    svg = f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' role='img'>{''.join(parts)}</svg>"
    return f"<h2>{html.escape(title)}</h2>{svg}<p>{legend}</p>"


def page(title: str, fragments: Sequence[str]) -> str:
    """A whole HTML file that loads nothing from elsewhere."""
    style = "body{font:14px sans-serif;margin:1.5em;color:#1b2733}h2{font-size:15px}text{font:11px sans-serif}"
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{style}</style>"
    return (
        f"<!doctype html><html><head>{head}</head><body><h1>{html.escape(title)}</h1>{''.join(fragments)}</body></html>"
    )


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The plotting area: from data to pixels."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> str:
        across = LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    def grid(self, x_label: str, y_label: str) -> str:
        parts = []
        for share in np.linspace(0, 1, TICKS):
            x, y = (low + share * (high - low) for low, high in (self.x, self.y))
            across, down = self.at(x, y).split(",")
            parts.append(f"<path d='M{LEFT} {down}H{WIDTH - RIGHT}' stroke='#e4e9ee'/>")
            parts.append(f"<text x='{LEFT - 6}' y='{down}' text-anchor='end'>{y:.4g}</text>")
            parts.append(f"<text x='{across}' y='{HEIGHT - BOTTOM + 14}' text-anchor='middle'>{x:.4g}</text>")
        middle = (LEFT + WIDTH - RIGHT) // 2
        parts.append(f"<text x='{middle}' y='{HEIGHT - 4}' text-anchor='middle'>{html.escape(x_label)}</text>")
        parts.append(f"<text x='4' y='{TOP - 2}'>{html.escape(y_label)}</text>")
        return "".join(parts)


def _polyline(frame: _Frame, line: Line) -> str:
    dash = " stroke-dasharray='5 4'" if line.dashed else ""
    runs: list[list[str]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            runs[-1].append(frame.at(float(x), float(y)))
        elif runs[-1]:
            runs.append([])
    style = f"fill='none' stroke='{line.colour}' stroke-width='1.6'{dash}"
    return "".join(f"<polyline points='{' '.join(run)}' {style}/>" for run in runs if run)


def _polygon(frame: _Frame, band: Band) -> str:
    known = [
        (float(x), float(low), float(high))
        for x, low, high in zip(band.x, band.low, band.high, strict=True)
        if math.isfinite(low) and math.isfinite(high)
    ]
    points = [frame.at(x, low) for x, low, _ in known] + [frame.at(x, high) for x, _, high in reversed(known)]
    return f"<polygon points='{' '.join(points)}' fill='{band.colour}' fill-opacity='0.18'/>"


def _finite(*columns: Numbers) -> npt.NDArray[np.float64]:
    if not columns:
        return np.empty(0)
    joined: npt.NDArray[np.float64] = np.concatenate([np.asarray(column, np.float64).ravel() for column in columns])
    return np.asarray(joined[np.isfinite(joined)])


def _range(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Never empty: a constant gets room on both sides."""
    low, high = float(values.min()), float(values.max())
    room = 0.5 * max(abs(low), 1.0) if low == high else 0.04 * (high - low)
    return low - room, high + room


__all__ = ["BLUE", "GREY", "ORANGE", "Band", "Line", "chart", "page"]
