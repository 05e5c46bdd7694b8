"""What the server itself tells about the data: its clock, its scrapes, resets of counters."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from clusterheal.clock import Clock
from clusterheal.errors import ClusterhealError
from clusterheal.metrics.catalogue import CatalogueFeature
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.quality import ServerQuality
from clusterheal.metrics.tasks import gather

log = logging.getLogger(__name__)

SCRAPES = "up[10m]"
LONGEST_RESETS = timedelta(hours=6)
"""Counting resets reads every raw sample; a quarter of a day shows the habit."""


async def check_server(client: PrometheusClient, clock: Clock) -> ServerQuality:
    """Clock skew and scrape timing. What the server does not answer stays `None`: it does not stop a collect."""
    skew = await _skew(client, clock)
    timing = await _timing(client)
    return ServerQuality(
        clock_skew_seconds=skew,
        scrape_interval_seconds=timing[0] if timing else None,
        jitter=timing[1] if timing else None,
    )


async def counter_resets(
    client: PrometheusClient, features: Sequence[CatalogueFeature], end: datetime, span: timedelta
) -> dict[str, int | None]:
    """Resets of the counters beneath each feature, over `span` but at most some hours, by feature name."""
    seconds = max(1, round(min(span, LONGEST_RESETS).total_seconds()))
    counters = sorted({c for f in features for c in f.counters})

    async def count(counter: str) -> int | None:
        try:
            samples = await client.query(f"sum(resets({counter}[{seconds}s]))", end)
        except ClusterhealError as exc:
            log.info("resets not counted", extra={"counter": counter, "why": str(exc)})
            return None
        return round(samples[0].value) if samples else None

    by_counter = dict(zip(counters, await gather([count(c) for c in counters]), strict=True))
    out: dict[str, int | None] = {}
    for feature in features:
        known = [n for c in feature.counters if (n := by_counter[c]) is not None]
        out[feature.name] = sum(known) if known else None
    return out


async def _skew(client: PrometheusClient, clock: Clock) -> float | None:
    """The server's clock less ours, seconds; half the round trip is its error."""
    before = clock.now()
    try:
        samples = await client.query("time()")
    except ClusterhealError as exc:
        log.info("clock not compared", extra={"why": str(exc)})
        return None
    middle = before + (clock.now() - before) / 2
    return samples[0].value - middle.timestamp() if samples else None


async def _timing(client: PrometheusClient) -> tuple[float, float] | None:
    """Median scrape interval in seconds, and the 95th percentile of deviations from each target's own interval."""
    try:
        data = await client.query_raw(SCRAPES)
    except ClusterhealError as exc:
        log.info("scrapes not timed", extra={"why": str(exc)})
        return None
    intervals, deviations = [], []
    for series in data.get("result") or ():
        times = np.array([float(time) for time, _ in series.get("values") or ()])
        if len(times) >= 3:
            gaps = np.diff(times)
            usual = float(np.median(gaps))
            intervals.append(usual)
            deviations.append(np.abs(gaps - usual) / usual)
    if not intervals:
        return None
    return float(np.median(intervals)), float(np.quantile(np.concatenate(deviations), 0.95))
