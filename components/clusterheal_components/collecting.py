"""What the collecting components do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from clusterheal.clock import Clock, SystemClock
from clusterheal.errors import InvalidInput
from clusterheal.settings import load_settings

log = logging.getLogger(__name__)

NOW = "now"
MAX_SHARDS = 64

LogMetric = Callable[[str, float], None]


class Range(NamedTuple):
    """Begin and end, ISO 8601 UTC."""

    start: str
    end: str


def collect_range(
    *, days: float, log_metric: LogMetric, end: str = NOW, shard: str = "0/1", clock: Clock | None = None
) -> Range:
    """Collect `days` up to `end` into the dataset that the settings name.

    Raises:
        InvalidInput: `days` is not positive, `end` is no time with a zone, or `shard` is no index/count.
        RetryableError, PermanentError: from the collection itself.
    """
    from clusterheal.metrics.collect import collect
    from clusterheal.metrics.shards import Shard

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not days > 0:
        raise InvalidInput(f"days must be positive, got {days}")
    settings = load_settings()
    step = settings.dataset.step
    until = _on_grid((clock or SystemClock()).now() if end == NOW else _time(end), step)
    report = collect(settings, start=until - timedelta(days=days), end=until, progress=_say, shard=Shard.parse(shard))
    for name in ("samples", "parts_written", "parts_present", "bytes_written", "seconds"):
        log_metric(name, float(getattr(report, name)))
    for kind, count in report.entities.items():
        log_metric(f"entities.{kind}", float(count))
    for finding in report.findings:
        log.warning("%s: %s: %s", finding.severity, finding.subject, finding.detail)
    return Range(start=report.start.isoformat(), end=report.end.isoformat())


def plan_shards(end: str, count: int) -> list[dict[str, str]]:
    """`0/4` to `3/4`, each with the common end: under kfp.local an item has to carry all that a step's output fed in.

    Raises:
        InvalidInput: fewer than one shard, more than a Prometheus should serve, or no time with a zone.
    """
    if not 1 <= count <= MAX_SHARDS:
        raise InvalidInput(f"expected 1 to {MAX_SHARDS} shards, got {count}")
    until = _time(end).isoformat()
    return [{"shard": f"{index}/{count}", "end": until} for index in range(count)]


def freeze_range(start: str, end: str, directory: Path, train: float, calibration: float) -> dict[str, Any]:
    """Freeze a range of the dataset into `directory`; returns what describes it.

    Raises:
        DataQualityError: nothing there to train on.
    """
    from clusterheal.metrics.dataset import Dataset
    from clusterheal_components.snapshot import PANEL, freeze

    settings = load_settings()
    dataset = Dataset.open(settings.dataset.path, settings.dataset)
    panel = dataset.panel(start_ns=_ns(start), end_ns=_ns(end), file=directory / PANEL)
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
