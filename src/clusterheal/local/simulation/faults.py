"""One replica's connection to the API server, with everything that goes wrong on a network and in a process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from clusterheal.kube.ports import (
    ApiError,
    ApiRetryable,
    Cluster,
    Manifest,
    ObjectList,
    PatchType,
    Resource,
    WatchEvent,
)

T = TypeVar("T")


@dataclass(kw_only=True)
class Weather:
    """Chances per request, from 0 to 1; `latency` in seconds. `calm` ends all faults."""

    refused: float = 0.03
    lost_after: float = 0.03
    conflict: float = 0.02
    death: float = 0.002
    watch_drop: float = 0.05
    watch_lag: float = 0.1
    latency: float = 0.05
    slow: float = 0.01

    def calm(self) -> None:
        self.refused = self.lost_after = self.conflict = self.death = self.watch_drop = self.watch_lag = self.slow = 0.0


class FaultyCluster:
    """Implements the `Cluster` port over another one.

    `died` is set when the process dies in a request: the request never returns, and whoever owns the process ends it.
    `cut` keeps every request from arriving, as a partition does.
    """

    def __init__(self, inner: Cluster, rng: random.Random, weather: Weather) -> None:
        self._inner = inner
        self._rng = rng
        self._weather = weather
        self.died = asyncio.Event()
        self.cut = False

    async def _call(self, operation: Callable[[], Awaitable[T]], *, write: bool) -> T:
        rng, weather = self._rng, self._weather
        slow = rng.random() < weather.slow
        await asyncio.sleep(rng.random() * (10.0 if slow else weather.latency))
        await self._maybe_die()
        if self.cut or rng.random() < weather.refused:
            status = rng.choice([429, 500, 503, None])
            raise ApiRetryable("the API server does not answer (simulated)", status=status, retry_after=None)
        if write and rng.random() < weather.conflict:
            raise ApiError(409, "Conflict", "simulated: the object has been modified")
        answer = await operation()
        await self._maybe_die()
        if write and rng.random() < weather.lost_after:
            raise ApiRetryable("timeout (simulated: the write was applied)")
        await asyncio.sleep(rng.random() * weather.latency)
        return answer

    async def _maybe_die(self) -> None:
        if self.died.is_set():
            raise ApiRetryable("this process is dead (simulated)")
        if self._rng.random() < self._weather.death:
            self.died.set()
            await asyncio.Event().wait()

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> Manifest:
        return await self._call(lambda: self._inner.get(resource, name, namespace=namespace), write=False)

    async def list(self, resource: Resource, **options: Any) -> ObjectList:
        return await self._call(lambda: self._inner.list(resource, **options), write=False)

    async def serves(self, resource: Resource) -> bool:
        return await self._call(lambda: self._inner.serves(resource), write=False)

    async def create(self, resource: Resource, obj: Manifest, **options: Any) -> Manifest:
        return await self._call(lambda: self._inner.create(resource, obj, **options), write=True)

    async def update(self, resource: Resource, obj: Manifest, **options: Any) -> Manifest:
        return await self._call(lambda: self._inner.update(resource, obj, **options), write=True)

    async def patch(
        self, resource: Resource, name: str, patch: Any, *, patch_type: PatchType, **options: Any
    ) -> Manifest:
        return await self._call(
            lambda: self._inner.patch(resource, name, patch, patch_type=patch_type, **options), write=True
        )

    async def delete(self, resource: Resource, name: str, **options: Any) -> None:
        await self._call(lambda: self._inner.delete(resource, name, **options), write=True)

    async def evict(self, pod: str, **options: Any) -> None:
        await self._call(lambda: self._inner.evict(pod, **options), write=True)

    async def pod_log(self, pod: str, **options: Any) -> str:
        return await self._call(lambda: self._inner.pod_log(pod, **options), write=False)

    async def watch(self, resource: Resource, **options: Any) -> AsyncIterator[WatchEvent]:
        """Events, late or cut off: what a watch gave is never the newest word."""
        await self._maybe_die()
        if self.cut:
            raise ApiRetryable("the watch does not open (simulated)")
        drops = self._rng.random() < self._weather.watch_drop
        lags = self._rng.random() < self._weather.watch_lag
        async for event in self._inner.watch(resource, **options):
            if drops and self._rng.random() < 0.2:
                raise ApiRetryable("the watch broke (simulated)")
            if lags:
                await asyncio.sleep(self._rng.random() * 10.0)
            if self.cut:
                await asyncio.sleep(5.0)
                raise ApiRetryable("the watch broke (simulated)")
            yield event
