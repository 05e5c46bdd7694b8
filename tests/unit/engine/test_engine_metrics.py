"""What the engine tells Prometheus: from zero on, unknown as NaN, and each thing once."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from datetime import timedelta

import numpy as np
import orjson
import pytest
from engine_kit import AUTO, CART, NOW, action, diagnosis, past, plan, record, signal, world
from prometheus_client import generate_latest

from clusterheal.clock import SystemClock
from clusterheal.contracts import (
    Band,
    Detection,
    EntityKind,
    FeatureContract,
    FeatureSpec,
    GuardVerdict,
    IncidentState,
    ModelInputs,
    Verdict,
    WindowSpec,
)
from clusterheal.engine.audit import Reporter
from clusterheal.engine.metrics import EngineMetrics
from clusterheal.engine.signals.models import ModelVerdicts
from clusterheal.engine.signals.window_quality import WindowQuality, share_in_band, window_quality
from clusterheal.telemetry import JsonFormatter

CONTRACT = FeatureContract(
    entity_kinds=(EntityKind(name="node", labels=("node",)), EntityKind(name="workload", labels=("namespace", "w"))),
    features=(
        FeatureSpec(name="busy", promql="up", unit="ratio", entity_kind="node", low=0.0, high=1.0),
        FeatureSpec(name="memory", promql="up", unit="bytes", entity_kind="workload", low=0.0),
    ),
    step=timedelta(seconds=60),
    window=WindowSpec(
        recent_steps=6, season_steps=24, season_lags=(), seasonal_before=0, seasonal_steps=0, horizon_steps=2
    ),
)


@pytest.fixture
def reporter() -> Reporter:
    return Reporter(EngineMetrics(), SystemClock())


def value(reporter: Reporter, name: str, **labels: str) -> float | None:
    return reporter.metrics.registry.get_sample_value(name, labels)


def inputs(node: list[float], workload: list[float]) -> ModelInputs:
    recent = np.full((2, 6, 2), np.nan, np.float32)
    recent[0, :, 0], recent[1, :, 1] = node, workload
    return ModelInputs(
        recent=recent,
        seasonal=np.empty((2, 0, 0, 2), np.float32),
        timestamp=np.zeros(2, np.int64),
        entity=("node/a", "workload/shop/cart"),
    )


def detection(low: float, high: float, observed: float | None) -> Detection:
    return Detection(
        entity="node/a",
        time=NOW,
        score=1.0,
        tail_probability=0.1,
        alarm=False,
        confidence=0.0,
        contributions={},
        expected={"busy": Band(low=low, median=(low + high) / 2, high=high, observed=observed)},
        model_version="v000001",
        contract_sha256="x",
    )


def test_counters_exist_before_their_first_event(reporter: Reporter) -> None:
    assert value(reporter, "clusterheal_outcomes_total", action="restart", verdict="harmed") == 0
    assert value(reporter, "clusterheal_guard_verdicts_total", guard="rate", allowed="false") == 0
    assert value(reporter, "clusterheal_incidents_ended_total", state="Escalated") == 0
    assert value(reporter, "clusterheal_actions_failed_total", action="drain") == 0


def test_what_is_not_known_yet_is_nan_and_not_zero(reporter: Reporter) -> None:
    reporter.world(world(models=ModelVerdicts(problem="no models are connected")))
    assert math.isnan(value(reporter, "clusterheal_live_entities") or math.nan)
    assert b"clusterheal_live_entities NaN" in generate_latest(reporter.metrics.registry)


def test_incidents_that_were_there_before_this_replica_led_are_not_new(reporter: Reporter) -> None:
    old, new = record(), record(sequence=2)
    reporter.world(world(old))
    reporter.world(world(old, new))
    reporter.world(world(old, new))
    assert value(reporter, "clusterheal_incidents_opened_total", kind="Deployment") == 1


def test_a_harm_shows_as_demotion_until_it_is_forgiven(reporter: Reporter) -> None:
    harmed = past(Verdict.HARMED)
    reporter.world(world(harmed))
    assert value(reporter, "clusterheal_autonomy_demoted", action="restart", kind=CART.kind) == 1
    assert harmed.outcome is not None
    later = harmed.outcome.finished_at + timedelta(minutes=1)
    reporter.world(world(harmed, policy=replace(AUTO, autonomy=replace(AUTO.autonomy, forgive_before=later))))
    assert value(reporter, "clusterheal_autonomy_demoted", action="restart", kind=CART.kind) is None


def test_an_audit_line_has_the_inputs_the_guards_and_the_models_of_a_decision(
    reporter: Reporter, caplog: pytest.LogCaptureFixture
) -> None:
    judged = ModelVerdicts(detections={"node/a": detection(0.0, 1.0, 0.5)}, contract_sha256="c" * 64)
    before = record(signal(details={"model_version": "v000001"}))
    denied = GuardVerdict(guard="rate", allowed=False, reason="3 of 3 in this hour")
    after = replace(before, state=IncidentState.PLANNED, plan=plan(), diagnosis=diagnosis(), guards=(denied,))
    with caplog.at_level(logging.INFO, logger="clusterheal.audit"):
        reporter.world(world(before, models=judged))
        reporter.step(before, after)
    lines = [orjson.loads(JsonFormatter().format(logged)) for logged in caplog.records]
    assert len(lines) == 1
    assert lines[0]["models"] == {"versions": ["v000001"], "contract_sha256": "c" * 64, "problem": None}
    assert lines[0]["status"]["guards"] == [{"guard": "rate", "allowed": False, "reason": "3 of 3 in this hour"}]
    assert (lines[0]["from_state"], lines[0]["to_state"]) == ("Open", "Planned")
    (told,) = lines[0]["signals"]
    assert (told["fingerprint"], told["details"]["model_version"]) == ("alert-memory-leak", "v000001")


def test_a_refused_action_and_a_finished_round_are_counted(reporter: Reporter) -> None:
    reporter.refused(record(action=action(), state=IncidentState.ACTING))
    reporter.round_done()
    assert value(reporter, "clusterheal_actions_failed_total", action="restart") == 1
    assert value(reporter, "clusterheal_rounds_total") == 1


def test_a_window_without_gaps_is_good() -> None:
    found = window_quality(inputs([0.5] * 6, [1e9] * 6), CONTRACT, [])
    assert found == WindowQuality(entities=2, series=2, silent=0.0, implausible=0.0, in_band=None)


def test_a_series_that_fell_silent_is_seen_and_features_of_other_kinds_are_not() -> None:
    found = window_quality(inputs([0.5] * 6, [1e9, 1e9, 1e9, np.nan, np.nan, np.nan]), CONTRACT, [])
    assert (found.series, found.silent) == (2, 0.5)


def test_a_value_outside_its_range_is_implausible() -> None:
    found = window_quality(inputs([0.5, 0.5, 0.5, 0.5, 55.0, np.nan], [1e9] * 6), CONTRACT, [])
    assert found.implausible == 0.5


def test_the_band_is_judged_by_what_was_observed_in_it() -> None:
    seen = [detection(0.2, 0.8, 0.5), detection(0.2, 0.8, 0.9), detection(0.2, 0.8, None)]
    assert share_in_band(seen) == 0.5
    assert share_in_band([]) is None


def test_model_figures_reach_the_gauges(reporter: Reporter) -> None:
    quality = WindowQuality(entities=3, series=9, silent=0.1, implausible=0.0, in_band=0.75)
    reporter.world(world(models=ModelVerdicts(data_at=NOW, quality=quality, contract_sha256="x")))
    assert value(reporter, "clusterheal_live_entities") == 3
    assert value(reporter, "clusterheal_live_data_timestamp_seconds") == NOW.timestamp()
    assert value(reporter, "clusterheal_detector_in_band_ratio") == 0.75
    assert value(reporter, "clusterheal_anomalies") == 0
