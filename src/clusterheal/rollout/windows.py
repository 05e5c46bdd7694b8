"""What candidate and incumbent are asked in a rollout: windows of a stored dataset, and the newest one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from clusterheal.clock import Clock
from clusterheal.contracts import FeatureContract, ModelInputs, model_inputs
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.live import LiveWindow
from clusterheal.rollout.asking import Live
from clusterheal.settings import Settings

REPLAYED = 24  # an hour apart over a day: every hour's load is seen once


def replay_windows(dataset: str, count: int, settings: Settings) -> list[ModelInputs]:
    """`count` windows over the dataset's last day, all entities each, oldest first.

    Raises:
        InvalidInput: no such dataset.
        DataQualityError: nothing in it, or a part is corrupt.
        RetryableError, PermanentError: its storage cannot be read.
    """
    from clusterheal.metrics.dataset import Dataset

    opened = Dataset.open(dataset, settings.dataset)
    window = opened.contract.window
    ends = [extent.end_ms for extent in opened.extents()]
    looked_at = (window.history_steps + window.season_steps) * opened.contract.step_ns
    panel = opened.panel(start_ns=max(ends) * 1_000_000 - looked_at if ends else None)
    last = len(panel.timestamps) - 1
    reach = min(window.season_steps, max(last - window.recent_steps, 0))
    steps = sorted({last - round(reach * i / count) for i in range(count)})
    return [model_inputs(panel, origin=origin) for origin in steps]


@asynccontextmanager
async def live_windows(settings: Settings, clock: Clock) -> AsyncIterator[Live]:
    """The newest window as the metrics are now, whenever it is asked for."""
    # A rollout watches meanwhile: it goes on without this window rather than wait for a server that is slow.
    impatient = settings.prometheus.model_copy(update={"attempts": 1, "timeout": timedelta(seconds=10)})
    async with PrometheusClient(impatient, clock=clock) as client:
        windows: dict[str, LiveWindow] = {}

        async def newest(contract: FeatureContract) -> ModelInputs:
            window = windows.setdefault(contract.sha256, LiveWindow(client, contract))
            return await window.inputs(clock.now())

        yield newest
