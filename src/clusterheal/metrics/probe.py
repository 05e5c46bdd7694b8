"""Which features a server has series for, and how many."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from clusterheal.metrics.catalogue import Catalogue
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.tasks import gather
from clusterheal.metrics.windows import from_ms

PROBES = 48
"""Times over the window at which the number of series of a feature is asked for."""


async def count_series(
    client: PrometheusClient, catalogue: Catalogue, *, start_ms: int, end_ms: int, step_ms: int
) -> dict[str, int]:
    """The most series that each feature has at one time, looked up now and then over `start_ms <= t < end_ms`.

    Raises:
        InvalidInput, RetryableError, PermanentError: as `PrometheusClient.query_range`.
    """
    last = end_ms - step_ms
    width = max(step_ms, (last - start_ms) // PROBES // step_ms * step_ms)
    steps = (last - start_ms) // width

    async def most(promql: str) -> int:
        frame = await client.query_range(
            f"count({promql}\n)",
            start=from_ms(last - steps * width),
            end=from_ms(last),
            step=timedelta(milliseconds=width),
        )
        return int(np.nanmax(frame.values)) if frame.labels else 0

    counts = await gather([most(f.spec.promql) for f in catalogue.features])
    return {f.name: n for f, n in zip(catalogue.features, counts, strict=True)}
