"""What the collecting components do."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from clusterheal.clock import Clock, SystemClock
from clusterheal.errors import InvalidInput
from clusterheal.settings import load_settings

log = logging.getLogger(__name__)

NOW = "now"

LogMetric = Callable[[str, float], None]


class Range(NamedTuple):
    """Begin and end, ISO 8601 UTC."""

    start: str
    end: str


def collect_range(*, days: float, log_metric: LogMetric, end: str = NOW, clock: Clock | None = None) -> Range:
    """Collect `days` up to `end` into the dataset that the settings name.

    Raises:
        InvalidInput: `days` is not positive, or `end` is no time with a zone.
        RetryableError, PermanentError: from the collection itself.
    """
    from clusterheal.metrics.collect import collect

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not days > 0:
        raise InvalidInput(f"days must be positive, got {days}")
    settings = load_settings()
    step = settings.dataset.step
    until = _on_grid((clock or SystemClock()).now() if end == NOW else _time(end), step)
    report = collect(settings, start=until - timedelta(days=days), end=until, progress=_say)
    for name in ("samples", "parts_written", "parts_present", "bytes_written", "seconds"):
        log_metric(name, float(getattr(report, name)))
    for kind, count in report.entities.items():
        log_metric(f"entities.{kind}", float(count))
    for finding in report.findings:
        log.warning("%s: %s: %s", finding.severity, finding.subject, finding.detail)
    return Range(start=report.start.isoformat(), end=report.end.isoformat())


def shard_ends(end: str, *, days: float, shard_days: float) -> list[str]:
    """Ends of the shards before `end`, newest first; the shard after `end` counts towards `days`.

    Raises:
        InvalidInput: a length that is not positive, or nothing left to collect.
    """
    if not 0 < shard_days <= days:
        raise InvalidInput(f"expected 0 < shard_days <= days, got {shard_days} and {days}")
    count = max(1, math.ceil(round(days / shard_days, 6)) - 1)  # kfp.local cannot loop over nothing
    newest = _time(end).astimezone(UTC)
    return [(newest - i * timedelta(days=shard_days)).isoformat() for i in range(count)]


def freeze_range(start: str, end: str, directory: Path, train: float, calibration: float) -> dict[str, Any]:
    """Freeze a range of the dataset into `directory`; returns what describes it.

    Raises:
        DataQualityError: nothing there to train on.
    """
    from clusterheal.metrics.dataset import Dataset
    from clusterheal_components.snapshot import freeze

    settings = load_settings()
    dataset = Dataset.open(settings.dataset.path, settings.dataset)
    panel = dataset.panel(start_ns=_ns(start), end_ns=_ns(end))
    frozen = freeze(panel, directory, train=train, calibration=calibration)
    return {
        "sha256": frozen.sha256,
        "contract_sha256": panel.contract.sha256,
        "start": frozen.start.isoformat(),
        "end": frozen.end.isoformat(),
        "entities": len(panel.entities),
        "features": len(panel.contract.features),
        "steps": len(panel.timestamps),
    }


def _say(what: str, done: int, total: int) -> None:
    if done == total or done % max(1, total // 10) == 0:
        log.info("%s: %d of %d", what, done, total)


def _on_grid(time: datetime, step: timedelta) -> datetime:
    """The last step boundary at or before `time`, so that runs at different seconds share their samples."""
    return datetime.fromtimestamp(time.timestamp() // step.total_seconds() * step.total_seconds(), UTC)


def _ns(text: str) -> int:
    return round(_time(text).timestamp()) * 1_000_000_000


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidInput(f"expected a time in ISO 8601, got {text!r}") from exc
    if time.tzinfo is None:
        raise InvalidInput(f"expected a time with its zone, got {text!r}; add Z for UTC")
    return time
