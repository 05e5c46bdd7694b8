"""The charts: what is drawn where, and what happens when there is nothing to draw."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from clusterheal_components.charts import Band, Line, chart, page
from clusterheal_components.plots import roc


def _svg(text: str) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", text)
    assert found
    return ElementTree.fromstring(found.group(0))


def test_points_lie_inside_the_picture_and_in_order() -> None:
    drawn = _svg(chart("t", [Line(label="a", x=[0.0, 1.0, 2.0], y=[5.0, 7.0, 6.0])], y_label="GiB"))
    points = [tuple(map(float, p.split(","))) for p in drawn.find("polyline").attrib["points"].split()]  # type: ignore[union-attr]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[1][1] < points[2][1] < points[0][1]  # down is more in SVG
    assert all(0 <= x <= 640 and 0 <= y <= 240 for x, y in points)


def test_a_gap_breaks_the_line() -> None:
    drawn = _svg(chart("t", [Line(label="a", x=[0.0, 1.0, 2.0, 3.0], y=[1.0, np.nan, 2.0, 3.0])]))
    assert [len(line.attrib["points"].split()) for line in drawn.findall("polyline")] == [1, 2]


def test_a_constant_can_be_drawn() -> None:
    assert "nan" not in chart("t", [Line(label="a", x=[0.0, 1.0], y=[0.0, 0.0])])


def test_nothing_is_said_to_be_nothing() -> None:
    assert "nothing to show" in chart("t", [Line(label="a", x=[], y=[])])
    assert "nothing to show" in chart("t", [Line(label="a", x=[1.0], y=[np.nan])])


def test_names_cannot_break_out_of_the_page() -> None:
    made = page(
        "<b>",
        [
            chart(
                "<script>",
                [Line(label="<i>", x=[0.0, 1.0], y=[0.0, 1.0])],
                bands=[Band(label="&", x=[0.0, 1.0], low=[0.0, 0.0], high=[1.0, 1.0])],
            )
        ],
    )
    assert not re.search(r"<(b|script|i)>", made)


@pytest.mark.parametrize(
    ("untouched", "faulty", "area"),
    [([0.0, 1.0], [2.0, 3.0], 1.0), ([2.0, 3.0], [0.0, 1.0], 0.0), ([0.0, 1.0], [0.0, 1.0], 0.5), ([1.0], [1.0], 0.5)],
)
def test_the_area_under_a_curve(untouched: list[float], faulty: list[float], area: float) -> None:
    assert roc(np.array(untouched), np.array(faulty)).area == pytest.approx(area)


def test_a_curve_of_many_scores_is_thinned_but_keeps_its_ends() -> None:
    rng = np.random.default_rng(0)
    curve = roc(rng.normal(0, 1, 5000), rng.normal(1, 1, 5000))
    assert len(curve.thresholds) == 60
    assert (curve.false_positive[0], curve.true_positive[0]) == (0.0, 0.0)
    assert (curve.false_positive[-1], curve.true_positive[-1]) == (1.0, 1.0)
    assert curve.area == pytest.approx(0.76, abs=0.02)  # Phi(1 / sqrt 2)
