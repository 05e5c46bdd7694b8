"""The model card of a detector package."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from clusterheal.contracts import FeaturePanel, TimeSplit
from clusterheal_models.cards import NOT_EVALUATED

_TEMPLATE = """# anomaly-detector

**Use.** Scores how unusual each workload, node or instance is right now, and names the metrics that show it.
A score is -log10 of the chance of a state at least this odd under normal operation, and more while an event is
under way; of an odd state some is left in the steps after it. `alarm` is raised where events pass {ratio:.2f} times
what is rare for the entity, or the score passes {threshold:.1f}; it is meant for {budget:g} false alarms per entity
and day. Where more than {most:g} alarms a day begin for longer, real or false, the threshold rises until they do not.
`confidence` is the calibrated chance that an alarm is real.

**Out of scope.** Root causes, security incidents, and metrics that the feature contract does not list. A
metric that never moved in training is judged only by the typical spread of the others.

**Data.** {entities} entities, {features} features every {step:g} s; trained on samples from {start} to
{train_end}, calibrated on the later slice until {calibration_end}; no labels. Entities that are not in
`calibration.json` are judged by the global row, scaled by their own window.

**How the threshold was set.** Without labels. What is usual for a metric is the median over stretches of a day or
more of the known time, so that a few bad days do not count; what is rare for an entity's events is exceeded by two per
cent of them. The multiple that makes an alarm was found on recorded telemetry and is the same for all entities. On the
calibration slice {rate:.3f} steps per entity and day alarmed ({days:.1f} entity-days).

**Results.** On recorded telemetry with labels, beside its peers: `docs/models/anomaly-benchmark.md`. On this data:
{results}

**Confidence.** Bayes' rule with a prior of {prior:g} real events per window, the tail probability for false
ones and, for real ones, the share of injected faults that reach the score: {found}.

**Limits.** Trouble that lasted through most of training looks normal. Gaps weaken a verdict: a metric without
a sample in the newest steps contributes nothing. A request without `memory` is judged by itself: an entity that has
settled elsewhere alarms more often than stated until `memory_after` has been handed back for some hundred steps, or
until the next training. A slow, small ramp is found late or not at all.
"""


def model_card(
    panel: FeaturePanel, split: TimeSplit, calibration: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    """Markdown; every figure comes from the fitted package."""
    found = ", ".join(f"{share:.2f} at {score}" for score, share in enumerate(calibration["found_share_at_score"]))
    return _TEMPLATE.format(
        results=NOT_EVALUATED,
        ratio=calibration["alarm_ratio"],
        threshold=calibration["alarm_score"],
        budget=calibration["false_alarms_per_entity_day"],
        most=calibration["most_alarms_begun_per_entity_day"],
        prior=calibration["event_prior"],
        entities=len(panel.entities),
        features=len(panel.contract.features),
        step=panel.contract.step.total_seconds(),
        start=_time(int(panel.timestamps[0])),
        train_end=_time(split.train_end_ns),
        calibration_end=_time(split.calibration_end_ns),
        rate=metrics["calibration_alarm_steps_per_entity_day"],
        days=metrics["calibration_entity_days"],
        found=found,
    )


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
