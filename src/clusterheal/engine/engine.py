"""One replica of the engine, put together: caches, lease, loop. `app` gives it an HTTP face."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, replace
from datetime import timedelta

from clusterheal.clock import Clock
from clusterheal.engine.audit import Reporter
from clusterheal.engine.cache import Cache
from clusterheal.engine.events import write_event
from clusterheal.engine.lease import Elector, LeaseTimes
from clusterheal.engine.measure import Measurements
from clusterheal.engine.metrics import EngineMetrics
from clusterheal.engine.observe import PollingObserver
from clusterheal.engine.reconcile import Reconciler
from clusterheal.engine.signals.live import Scorer
from clusterheal.engine.signals.prometheus import Queries
from clusterheal.engine.silence_reader import SilenceReader
from clusterheal.engine.store import IncidentStore
from clusterheal.engine.world import Config, World
from clusterheal.errors import ClusterhealError
from clusterheal.kube.ports import Cluster, Resource
from clusterheal.kube.resources import INCIDENTS

log = logging.getLogger(__name__)

RETAIN_EVERY = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What an engine is made of; the simulation gives its own clock, cluster and scorer."""

    cluster: Cluster
    clock: Clock
    rng: random.Random
    namespace: str
    identity: str
    config: Config
    interval: timedelta
    lease: LeaseTimes = LeaseTimes()  # noqa: RUF009 - frozen
    request_timeout: timedelta = timedelta(seconds=4)
    retention: timedelta = timedelta(days=30)
    scorer: Scorer | None = None
    alarm_rounds: int = 1
    prometheus: Queries | None = None
    silences: SilenceReader | None = None


class Engine:
    """Start it with `run`; read through `cache`, `store` and `reconciler`."""

    def __init__(self, parts: Parts, metrics: EngineMetrics | None = None) -> None:
        self.parts = parts
        self.metrics = metrics or EngineMetrics()
        self.cache = Cache(parts.cluster, parts.clock, namespace=parts.namespace, rng=parts.rng)
        self.store = IncidentStore(
            parts.cluster,
            self.cache,
            parts.clock,
            namespace=parts.namespace,
            linger=parts.config.linger,
            request_timeout=parts.request_timeout,
        )
        self.elector = Elector(
            parts.cluster, parts.clock, namespace=parts.namespace, identity=parts.identity, times=parts.lease
        )
        self.reporter = Reporter(self.metrics, parts.clock)
        self.observer = PollingObserver(
            self.store,
            parts.clock,
            self.metrics,
            scorer=parts.scorer,
            alarm_rounds=parts.alarm_rounds,
            prometheus=parts.prometheus,
        )
        self._measurements = None if parts.prometheus is None else Measurements(parts.prometheus)
        self.reconciler = Reconciler(
            cluster=parts.cluster,
            cache=self.cache,
            store=self.store,
            elector=self.elector,
            clock=parts.clock,
            config=parts.config,
            observer=self.observer,
            reporter=self.reporter,
            interval=parts.interval,
            request_timeout=parts.request_timeout,
            enrich=self._enriched,
        )
        self.cache.changed = self._changed

    def _changed(self, resource: Resource) -> None:
        if resource == INCIDENTS:
            self.reconciler.poke()

    async def _enriched(self, world: World) -> World:
        """The world with what has to be asked for: silences, and measurements from Prometheus."""
        if self.parts.silences is not None:
            world = replace(world, silences=await self.parts.silences.read())
        return world if self._measurements is None else await self._measurements(world)

    @property
    def ready(self) -> bool:
        """Whether this replica can answer: everything it needs has been read once."""
        return not self.cache.missing

    async def run(self) -> None:
        """Follow, elect, reconcile, until cancelled; then give the lease up."""
        await self.cache.sync()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.cache.run())
                group.create_task(self.elector.run())
                group.create_task(self.reconciler.run())
                group.create_task(self._housekeeping())
        finally:
            await self.elector.release()

    async def _housekeeping(self) -> None:
        """Write events, show who leads, remove incidents that ended long ago."""
        swept = self.parts.clock.monotonic()
        while True:
            self.metrics.leader.set(1 if self.elector.leading else 0)
            for record, kind, reason, message in self.reporter.take_events():
                await write_event(
                    self.parts.cluster, self.parts.clock, self.parts.identity, record, kind, reason, message
                )
            if self.elector.leading and self.parts.clock.monotonic() - swept > RETAIN_EVERY.total_seconds():
                swept = self.parts.clock.monotonic()
                await self._retain()
            await self.parts.clock.sleep(1.0)

    async def _retain(self) -> None:
        limit = self.parts.clock.now() - self.parts.retention
        for record in self.store.records().values():
            if record.ended_at is not None and record.ended_at < limit:
                try:
                    await self.store.delete(record)
                except ClusterhealError as exc:
                    log.info("old incident not removed", extra={"incident": record.name, "error": str(exc)})
