"""Counts of data quality: right whatever the parts, and what they stop."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterheal.contracts import EntityKind, FeatureContract, FeatureSpec, default_window
from clusterheal.metrics.parts import Extent, Part
from clusterheal.metrics.quality import QualityReport, ServerQuality, Thresholds
from clusterheal.metrics.quality_meter import QualityMeter
from clusterheal.metrics.quality_report import render, write_report
from clusterheal.metrics.storage import Storage

STEP = timedelta(minutes=1)
BASE = 1_793_491_200_000
CONTRACT = FeatureContract(
    entity_kinds=(EntityKind(name="node", labels=("node",)),),
    features=(
        FeatureSpec(name="cpu", promql="cpu", unit="ratio", entity_kind="node", low=0, high=1),
        FeatureSpec(name="load", promql="load", unit="value", entity_kind="node"),
    ),
    step=STEP,
    window=default_window(STEP),
)
LIMITS = Thresholds(min_coverage=0.5, max_out_of_range=0.1, max_clock_skew=timedelta(seconds=60))
NAN = float("nan")


def measure(values: Any, cuts: tuple[int, ...] = (), server: ServerQuality | None = None) -> QualityReport:
    """`values` (n_features, n_entities, n_steps), in parts cut at `cuts`."""
    values = np.asarray(values, np.float32)
    n_steps = values.shape[2]
    meter = QualityMeter(CONTRACT, BASE, BASE + n_steps * 60_000)
    bounds = [0, *cuts, n_steps]
    for a, b in itertools.pairwise(bounds):
        extent = Extent(kind="node", start_ms=BASE + a * 60_000, end_ms=BASE + b * 60_000)
        entities = tuple(f"node/{i}" for i in range(values.shape[1]))
        meter.add(Part(extent=extent, entities=entities, values=values[:, :, a:b]))
    return meter.report(LIMITS, server=server or ServerQuality(), resets={"cpu": 3})


def slow_gaps(rows: Any) -> tuple[int, int]:
    """Missing stretches between samples, counted one by one."""
    lengths = []
    for row in rows:
        present = np.flatnonzero(~np.isnan(row))
        lengths += [b - a - 1 for a, b in itertools.pairwise(present) if b - a > 1]
    return len(lengths), max(lengths, default=0)


cells = st.sampled_from([NAN, NAN, 0.5, 0.25, 2.0, float("inf")])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(cells, min_size=12, max_size=12), min_size=2, max_size=6), st.sets(st.integers(1, 11)))
def test_counts_do_not_depend_on_the_parts(rows, cuts) -> None:
    rows = rows[: len(rows) // 2 * 2]
    values = np.array(rows, np.float32).reshape(2, len(rows) // 2, 12)
    report = measure(values, tuple(sorted(cuts)))
    assert report.features == measure(values).features
    assert report.coverage == measure(values).coverage
    assert report.findings == measure(values).findings
    for feature, own in zip(report.features, values, strict=True):
        assert (feature.gaps, feature.longest_gap_steps) == slow_gaps(own)
        assert feature.samples == np.count_nonzero(~np.isnan(own))
        assert feature.infinite == np.count_nonzero(np.isinf(own))
        assert feature.dead == sum(np.isnan(row).all() for row in own)
    assert report.features[0].out_of_range == np.count_nonzero(values[0] > 1)


def test_entities_that_come_late_or_leave_early_are_no_gap() -> None:
    late = [[NAN] * 6 + [0.1, 0.2, 0.3] + [NAN] * 3]
    report = measure([late, late])
    assert report.coverage == 1.0
    assert report.features[0].gaps == 0


def test_a_feature_that_stops_while_its_entity_lives_lowers_coverage() -> None:
    report = measure([[[0.5] * 4 + [NAN] * 8], [[1.0, 2.0, 3.0] * 4]])
    assert report.features[0].coverage == pytest.approx(4 / 12)
    assert report.coverage == pytest.approx(16 / 24)
    assert report.ok


@pytest.mark.parametrize(
    ("values", "server", "code"),
    [
        ([[[0.5, NAN, NAN, NAN, NAN, 0.5]], [[1.0, NAN, NAN, NAN, NAN, 1.0]]], {}, "coverage-low"),
        ([[[0.5, 80.0, 80.0]], [[1.0, 2.0, 3.0]]], {}, "out-of-range"),
        ([[[0.5] * 3], [[1.0] * 3]], {"clock_skew_seconds": -61.0}, "clock-skew"),
    ],
)
def test_thresholds_stop_with_a_reason(values, server, code) -> None:
    report = measure(values, server=ServerQuality(**server))
    assert not report.ok
    assert [f.code for f in report.findings if f.severity == "error"] == [code]


@pytest.mark.parametrize(
    ("values", "server", "code"),
    [
        ([[[NAN] * 3], [[1.0, 2.0, 3.0]]], {}, "feature-dead"),
        ([[[0.5] * 3], [[1.0, 2.0, 3.0]]], {}, "constant"),
        ([[[0.5, 0.6, 0.7]], [[1.0, float("inf"), 3.0]]], {}, "infinite"),
        ([[[0.5, 0.6, 0.7]], [[1.0, 2.0, 3.0]]], {"scrape_interval_seconds": 300.0}, "step-too-fine"),
        ([[[0.5, 0.6, 0.7]], [[1.0, 2.0, 3.0]]], {"jitter": 0.9}, "jitter"),
    ],
)
def test_oddities_are_told_and_stop_nothing(values, server, code) -> None:
    report = measure(values, server=ServerQuality(**server))
    assert report.ok
    assert code in [f.code for f in report.findings]


def test_rounding_at_a_bound_is_in_range() -> None:
    report = measure([[[np.float32(1.0000001), 1.0, 0.0]], [[1.0, 2.0, 3.0]]])
    assert report.features[0].out_of_range == 0


def test_the_report_is_json_for_the_gate_and_a_page_for_people(tmp_path) -> None:
    report = measure([[[0.5, NAN, 0.7]], [[1.0, float("inf"), 3.0]]], server=ServerQuality(clock_skew_seconds=0.2))
    where = write_report(Storage.open(tmp_path), report, html=True)
    data = json.loads((tmp_path / where).read_text())
    assert data["ok"] is True
    assert data["features"][0] | {"name": "cpu", "gaps": 1, "counter_resets": 3} == data["features"][0]
    assert data["step"] == 60
    page = (tmp_path / where.replace(".json", ".html")).read_text()
    assert "fit for training" in page
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page, "opens without a network"


def test_texts_of_the_server_do_not_become_markup() -> None:
    contract = FeatureContract(
        entity_kinds=CONTRACT.entity_kinds, features=CONTRACT.features[:1], step=STEP, window=CONTRACT.window
    )
    meter = QualityMeter(contract, BASE, BASE + 60_000)
    from clusterheal.metrics.findings import Finding

    evil = Finding(code="server-warning", severity="warning", subject="q", detail="<script>alert(1)</script>")
    report = meter.report(LIMITS, server=ServerQuality(), resets={}, findings=[evil])
    assert "<script>alert(1)" not in render(report)
