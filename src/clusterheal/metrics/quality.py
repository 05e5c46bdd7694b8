"""How good collected data are, and what of it stops the pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from clusterheal.metrics.findings import Finding


@dataclass(frozen=True, kw_only=True)
class FeatureQuality:
    """One feature over all its entities.

    `coverage`: share of samples present between an entity's first and last sample of any feature; `None` without.
    `gaps`, `longest_gap_steps`: missing stretches between two samples. `constant`: entities whose value never
    changed; `dead`: entities that never had one. `out_of_range`, `infinite`: samples. `low`, `high`: seen extremes.
    """

    name: str
    kind: str
    unit: str
    entities: int
    samples: int
    coverage: float | None
    gaps: int
    longest_gap_steps: int
    constant: int
    dead: int
    out_of_range: int
    infinite: int
    low: float | None
    high: float | None
    counter_resets: int | None = None


@dataclass(frozen=True, kw_only=True)
class ServerQuality:
    """What was measured on the server itself; `None` where it could not be.

    `jitter`: largest deviation of a scrape from its interval, as a share of the interval, 95th percentile.
    """

    clock_skew_seconds: float | None = None
    scrape_interval_seconds: float | None = None
    jitter: float | None = None


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """For the gate as JSON, for people as HTML.

    `timeline`: by feature, per stretch of time, `coverage`, `low`, `mean` and `high` over all entities.
    """

    start: datetime
    end: datetime
    step: timedelta
    contract_sha256: str
    coverage: float | None
    features: tuple[FeatureQuality, ...]
    server: ServerQuality
    findings: tuple[Finding, ...]
    bucket_starts: tuple[datetime, ...] = ()
    timeline: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was found that has to stop the pipeline."""
        return not any(f.severity == "error" for f in self.findings)

    def to_json(self) -> str:
        data = asdict(self) | {"step": self.step.total_seconds(), "ok": self.ok}
        return json.dumps(data, default=_plain, indent=1, allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What stops the pipeline; shares in [0, 1]."""

    min_coverage: float
    max_out_of_range: float
    max_clock_skew: timedelta


def judge(
    features: Sequence[FeatureQuality],
    coverage: float | None,
    server: ServerQuality,
    limits: Thresholds,
    step: timedelta,
) -> list[Finding]:
    """What the counts say; an `error` stops the pipeline."""
    found: list[Finding] = []

    def note(code: str, severity: Any, subject: str, detail: str) -> None:
        found.append(Finding(code=code, severity=severity, subject=subject, detail=detail))

    if coverage is not None and coverage < limits.min_coverage:
        note("coverage-low", "error", "dataset", f"{coverage:.1%} of samples present, {limits.min_coverage:.0%} needed")
    for f in features:
        share = f.out_of_range / f.samples if f.samples else 0.0
        if share > limits.max_out_of_range:
            note("out-of-range", "error", f.name, f"{share:.1%} of samples are outside the plausible range")
        elif f.out_of_range:
            note("out-of-range", "warning", f.name, f"{f.out_of_range} samples are outside the plausible range")
        if f.infinite:
            note("infinite", "warning", f.name, f"{f.infinite} samples are infinite")
        if not f.samples:
            note("feature-dead", "warning", f.name, "no sample in this run")
        elif f.constant == f.entities:
            note("constant", "info", f.name, f"all {f.entities} series never change")
    skew = server.clock_skew_seconds
    if skew is not None and abs(skew) > limits.max_clock_skew.total_seconds():
        note("clock-skew", "error", "server", f"its clock is {skew:+.1f} s from ours; set both by NTP")
    interval = server.scrape_interval_seconds
    if interval is not None and interval > step.total_seconds() * 1.5:
        note("step-too-fine", "warning", "server", f"scrapes are {interval:.0f} s apart, the step is {step}")
    if server.jitter is not None and server.jitter > 0.5:
        note("jitter", "warning", "server", f"scrapes are up to {server.jitter:.0%} of their interval late or early")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(f"{type(value).__name__} in a quality report")
