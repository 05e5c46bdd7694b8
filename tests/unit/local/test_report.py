from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from clusterheal.errors import InvalidInput
from clusterheal.local import report_plots as plots
from clusterheal.local.report import render, write_report
from clusterheal.local.report_record import RunRecord

BEGAN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    return (BEGAN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def record() -> RunRecord:
    return RunRecord(
        source="a generated OpenShift cluster",
        notes=["one note"],
        seed=7,
        fault={"kind": "memory-leak", "namespace": "shop", "workload": "cart"},
        began=at(0),
        result="healed",
        stages=[{"name": "metrics", "seconds": 12.5, "peak_rss_bytes": 300 * 2**20, "summary": "done", "ok": True}],
        events=[
            {"at": at(1), "stage": "incident", "text": "fault memory-leak", "kind": "fault"},
            {"at": at(20), "stage": "incident", "text": "alert says <script>alert(1)</script>", "kind": "signal"},
        ],
        pipeline={"steps": [{"title": "Train detector", "seconds": 7.0, "status": "succeeded"}]},
        models=[
            {
                "name": "anomaly-detector",
                "version": "v000001",
                "verdict": "passed",
                "why": "beats all peers",
                "card": "# Card\n\nWhat it is for & what not.",
                "evaluation": {"primary": "loss", "score": 0.5, "peers": {"zscore": 0.9}, "figures": {"alarms": 3}},
            }
        ],
        incident={
            "spec": {"target": {"kind": "Deployment", "namespace": "shop", "name": "cart"}},
            "status": {
                "state": "Resolved",
                "diagnosis": {"cause": "memory-leak", "origin": "rule", "confidence": 1.0, "explanation": "It leaks."},
                "plan": {"playbook": "predicted-memory-leak", "action": "restart", "expectedEffect": "falls back"},
                "guards": [{"guard": "budget", "allowed": True, "reason": "1 of 3"}],
                "outcome": {"verdict": "helped", "observed": 0.5, "counterfactual": 1.4, "explanation": "It fell."},
            },
        },
        scores={
            "entity": "workload/shop/cart",
            "times": [at(0), at(5)],
            "score": [0.2, 6.0],
            "alarm": [False, True],
            "confidence": [0.1, 0.97],
            "features": ["workload_memory_of_limit"],
            "units": {"workload_memory_of_limit": "ratio"},
            "observed": {"workload_memory_of_limit": [0.5, None]},
            "low": {"workload_memory_of_limit": [0.4, 0.4]},
            "median": {"workload_memory_of_limit": [0.5, 0.5]},
            "high": {"workload_memory_of_limit": [0.6, 0.6]},
            "forecast_origin": at(0),
            "forecast": {
                "workload_memory_of_limit": {"times": [at(60)], "low": [0.4], "median": [0.5], "high": [0.6]},
            },
        },
    )


def test_the_page_opens_offline() -> None:
    page = render(record())
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?:https?:)?//""", markup)
    assert page.count("Plotly.newPlot") >= 3
    assert "plotly.js v" in page


def test_the_page_tells_the_incident_the_outcome_and_the_peers() -> None:
    page = render(record())
    for text in (
        "healed: memory-leak on shop/cart",
        "2026-03-01 12:00 UTC, source: a generated OpenShift cluster",
        "Incident: Deployment shop/cart",
        "predicted-memory-leak: restart, expecting that falls back",
        "helped: It fell.",
        "0.5, 1.4",
        "beats all peers",
        "zscore",
        "Train detector",
        "12.5",
        "300",
        "What it is for &amp; what not.",
    ):
        assert text in page, text


def test_the_forecast_leaves_from_what_was_observed_at_its_origin() -> None:
    known = record().scores
    assert known is not None
    path = plots._from_origin(known, "workload_memory_of_limit")
    assert path == {"times": [at(0), at(60)], "low": [0.5, 0.4], "median": [0.5, 0.5], "high": [0.5, 0.6]}
    unseen = {**known, "observed": {"workload_memory_of_limit": [None, 0.5]}}
    assert plots._from_origin(unseen, "workload_memory_of_limit") == known["forecast"]["workload_memory_of_limit"]


def test_text_from_outside_cannot_become_markup() -> None:
    page = render(record())
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_run_that_failed_early_still_has_a_page() -> None:
    page = render(RunRecord(source="x", notes=[], seed=1, result="failed", error="port 9090 is taken"))
    assert "port 9090 is taken" in page
    assert "opened no incident" in page


def test_a_record_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    saved = record()
    saved.save(tmp_path)
    assert RunRecord.load(tmp_path) == saved
    assert write_report(saved, tmp_path).read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "run.json"]


def test_no_record_and_a_broken_one_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"run\.json not found; expected the folder that `clusterheal demo --out`"):
        RunRecord.load(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InvalidInput, match="is no record of a run"):
        RunRecord.load(tmp_path)
    (tmp_path / "run.json").write_text('{"colour": "red"}')
    with pytest.raises(InvalidInput, match="is no record of a run"):
        RunRecord.load(tmp_path)
