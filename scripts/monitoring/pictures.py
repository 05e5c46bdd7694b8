"""Pictures of the dashboards for the docs: `python -m scripts.monitoring.pictures OUT_FOLDER`, about nine minutes.

They are drawn here from the answers to the dashboards' own queries; they are not screenshots of Grafana or the console.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
from matplotlib import dates
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter
from PIL import Image

from clusterheal.local.demo_incident import cause
from clusterheal.local.demo_platform import Platform
from clusterheal.local.faults import KINDS
from scripts.monitoring.ask import Line, ask
from scripts.monitoring.filled import NAMESPACE, filled_prometheus
from scripts.monitoring.source import COLUMNS, Dashboard, Panel, Row, load_all

# With the seconds to watch each; the second leak meets the cooldown of the first.
FAULTS = (("memory-leak", 80.0), ("bad-rollout", 80.0), ("memory-leak", 110.0), ("cpu-saturation", 130.0))
HEIGHTS = {"stat": 0.75, "graph": 2.3, "table": 0.9}  # inches
TITLE = 0.35
GAPS = {"stat": 0.15, "graph": 0.85, "table": 0.3}  # below: time axis and legend
GOOD, BAD, PLAIN = "#2a9d4a", "#c0392b", "#1f2d3d"
LEGEND_ENTRIES, LEGEND_COLUMNS, LETTER = 9, 3, 4.2  # pixels a letter
A_RUN = 3600.0  # seconds; dashboards that show more than a run show the cluster's history
LATE = 0.8  # of the time shown: series that begin later are shown from there on
COLOURS = 96  # of the PNG's palette
mpl.use("Agg")
plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True})
plt.rcParams.update({"grid.color": "#e5e8eb", "axes.edgecolor": "#9aa5b1", "figure.facecolor": "white"})
plt.rcParams["axes.prop_cycle"] = mpl.cycler(color=plt.get_cmap("tab10").colors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for what the run writes")
    parser.add_argument("--to", type=Path, default=Path("docs/dashboards"), help="folder of the pictures")
    arguments = parser.parse_args()
    asyncio.run(_run(arguments.out, arguments.to))


async def _run(out: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    async with filled_prometheus(out, days=1.5) as platform:
        began = time.time() - 20
        await platform.supervisor.guard(_trouble(platform))
        with httpx.Client(base_url=f"http://127.0.0.1:{platform.ports.prometheus}", timeout=60) as client:
            for board in load_all():
                end = time.time()
                start = end - board.hours * 3600 if board.hours >= 24 else began
                path = to / f"{board.name}.png"
                draw(client, board, start=start, end=end, path=path)
                print(path, path.stat().st_size)


async def _trouble(platform: Platform) -> None:
    """One fault after the other; the engine is left to it."""
    await asyncio.sleep(45)
    async with platform.cluster() as cluster:
        for name, seconds in FAULTS:
            await cause(platform, KINDS[name], cluster)
            await asyncio.sleep(seconds)


def draw(client: httpx.Client, board: Dashboard, *, start: float, end: float, path: Path) -> None:
    """Draw one dashboard and write it as PNG."""
    lines_of_panels = [_lines(row) for row in board.rows]
    height = 0.7 + sum(TITLE + sum(_height(line) + _gap(line) for line in lines) for lines in lines_of_panels)
    figure = plt.figure(figsize=(14, height), dpi=80)
    figure.text(0.02, 1 - 0.25 / height, board.title, fontsize=14, weight="bold", color=PLAIN, va="center")
    figure.text(0.02, 1 - 0.52 / height, board.text, fontsize=9, color="#5c6b7a", va="center")
    top = height - 0.7
    for row, lines in zip(board.rows, lines_of_panels, strict=True):
        figure.text(0.02, (top - TITLE / 2) / height, row.title, fontsize=10, weight="bold", color="#34495e")
        top -= TITLE
        for line in lines:
            tall, left = _height(line), 0
            for panel in line:
                box = _box(left, panel.span, top, tall, height)
                answers, first = _answers(client, panel, start, end)
                axes = figure.add_axes(box)
                _panel(axes, panel, answers)
                if panel.kind == "graph":
                    axes.set_xlim(datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(end, UTC))
                left += panel.span
            top -= tall + _gap(line)
    figure.savefig(path)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def _answers(client: httpx.Client, panel: Panel, start: float, end: float) -> tuple[list[list[Line]], float]:
    """The panel's series, and from when on to show them: our processes may be minutes old, the cluster a day."""
    found = ask(client, panel, namespace=NAMESPACE, start=start, end=end)
    begun = min((line.points[0][0] for answer in found for line in answer), default=start)
    if panel.kind == "graph" and end - start > A_RUN and begun > start + LATE * (end - start):
        began = end - (end - start) * (1 - LATE)
        close = ask(client, panel, namespace=NAMESPACE, start=began, end=end)
        first = min(line.points[0][0] for answer in close for line in answer)
        return ask(client, panel, namespace=NAMESPACE, start=first, end=end), first
    return found, start


def _lines(row: Row) -> list[list[Panel]]:
    """The row's panels, cut where 12 columns are full."""
    lines: list[list[Panel]] = [[]]
    for panel in row.panels:
        if sum(p.span for p in lines[-1]) + panel.span > COLUMNS:
            lines.append([])
        lines[-1].append(panel)
    return lines


def _height(line: list[Panel]) -> float:
    return max(HEIGHTS[panel.kind] for panel in line)


def _gap(line: list[Panel]) -> float:
    return max(GAPS[panel.kind] for panel in line)


def _box(left: int, span: int, top: float, tall: float, height: float) -> tuple[float, float, float, float]:
    column = 0.96 / COLUMNS
    margin = 0.035
    return 0.02 + left * column + margin, (top - tall) / height, span * column - margin - 0.008, (tall - 0.22) / height


def _panel(axes: Any, panel: Panel, answers: list[list[Line]]) -> None:
    axes.set_title(panel.title, fontsize=8.5, loc="left", color=PLAIN)
    lines = [line for answer in answers for line in answer]
    if panel.kind == "graph":
        _graph(axes, panel, lines)
        return
    axes.axis("off")
    if panel.kind == "table":
        columns = sorted({k for line in lines for k in line.labels if k != "__name__"})
        cells = [[line.labels.get(c, "")[:24] for c in columns] for line in lines]
        table = axes.table(cellText=cells, colLabels=columns, loc="upper left", cellLoc="left", edges="horizontal")
        table.auto_set_font_size(False)
        table.set_fontsize(8)
        table.scale(1, 1.25)
    else:
        value = lines[0].last if lines else None
        text = "no data" if value is None else formatted(value, panel.unit, panel.decimals)
        axes.text(
            0,
            0.75 if axes.bbox.height > 100 else 0.4,
            text,
            fontsize=20,
            weight="bold",
            color=_colour(panel, value),
            va="center",
        )


def _graph(axes: Any, panel: Panel, lines: list[Line]) -> None:
    shown = sorted(lines, key=lambda line: -max(v for _, v in line.points))
    if panel.stack:
        _stack(axes, shown)
    else:
        for line in shown:
            axes.plot(*_with_gaps(line), linewidth=1.1, label=line.name)
    values = [v for line in shown for _, v in line.points]
    if not values:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="#9aa5b1")
        axes.set_xticks([])
        axes.set_yticks([])
        return
    if min(values) >= 0 and (panel.unit == "none" or max(values) == 0):
        top = 1.1 * max(values) or 1
        axes.set_ylim(bottom=-0.02 * top, top=top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: formatted(v, panel.unit, None)))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=4, maxticks=7))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.tick_params(length=2, colors="#5c6b7a")
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > LEGEND_ENTRIES:
        labels = [*labels[: LEGEND_ENTRIES - 1], f"... {len(labels) - LEGEND_ENTRIES + 1} more"]
        handles = handles[:LEGEND_ENTRIES]
    widest = max(map(len, labels)) + 4
    columns = max(1, min(LEGEND_COLUMNS, int(axes.bbox.width / (widest * LETTER))))
    place = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.1), "ncols": columns}
    axes.legend(handles, labels, fontsize=6.5, frameon=False, handlelength=1, labelspacing=0.2, **place)


def _with_gaps(line: Line) -> tuple[list[datetime], list[float]]:
    """Points to draw, with a NaN where the series was away."""
    steps = [b[0] - a[0] for a, b in itertools.pairwise(line.points)]
    usual = min(steps, default=1.0)
    when, values = [datetime.fromtimestamp(line.points[0][0], UTC)], [line.points[0][1]]
    for (t, v), step in zip(line.points[1:], steps, strict=True):
        if step > 2.5 * usual:
            when.append(datetime.fromtimestamp(t - usual, UTC))
            values.append(math.nan)
        when.append(datetime.fromtimestamp(t, UTC))
        values.append(v)
    return when, values


def _stack(axes: Any, lines: list[Line]) -> None:
    """Areas on a common grid of times; a series without a point there counts as 0."""
    grid = sorted({t for line in lines for t, _ in line.points})
    values = [[dict(line.points).get(t, 0.0) for t in grid] for line in lines]
    if grid:
        when = [datetime.fromtimestamp(t, UTC) for t in grid]
        axes.stackplot(when, values, labels=[line.name for line in lines], alpha=0.75, step="post")


def _colour(panel: Panel, value: float | None) -> str:
    if value is None or (panel.bad_above is None and panel.bad_below is None):
        return PLAIN
    bad = (panel.bad_above is not None and value >= panel.bad_above) or (
        panel.bad_below is not None and value < panel.bad_below
    )
    return BAD if bad else GOOD


def formatted(value: float, unit: str, decimals: int | None) -> str:
    """A value with its unit, as Grafana would shorten it."""
    if unit == "percentunit":
        return f"{100 * value:.{decimals}f} %" if decimals is not None else f"{100 * value:.4g} %"
    if unit == "s":
        if abs(value) >= 120:
            return f"{value / 60:.0f} min"
        return (
            f"{value:.{decimals}f} s"
            if decimals is not None
            else (f"{value * 1e3:g} ms" if value < 1 else f"{value:g} s")
        )
    if unit in ("Bps", "bytes"):
        for power, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= power:
                return f"{value / power:g} {prefix}B{'/s' if unit == 'Bps' else ''}"
    names = {"percent": " %", "celsius": " °C", "d": " d", "reqps": "/s", "ops": "/s", "opm": "/min", "Bps": " B/s"}
    number = f"{value:.{decimals}f}" if decimals is not None else f"{value:.4g}"
    return number + names.get(unit, "")


if __name__ == "__main__":
    main()
