"""One leader at a time, by a `coordination.k8s.io` Lease.

A candidate takes over only after it has itself seen an unchanged lease for a whole duration (clocks need not agree),
and a leader stops acting a margin before its lease could be taken. `leaseTransitions` is the fencing epoch.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta

from clusterheal.clock import Clock
from clusterheal.engine.codec import format_time
from clusterheal.engine.names import LEASE_NAME
from clusterheal.engine.world import Leadership
from clusterheal.errors import ClusterhealError
from clusterheal.kube.ports import ApiError, ApiRetryable, Cluster, Manifest
from clusterheal.kube.resources import LEASES

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """`duration` > `margin` + one request; a leader renews every `retry`."""

    duration: timedelta = timedelta(seconds=15)
    retry: timedelta = timedelta(seconds=3)
    margin: timedelta = timedelta(seconds=5)


class Elector:
    """Tries to hold the lease; ask `leading` before every write."""

    def __init__(self, cluster: Cluster, clock: Clock, *, namespace: str, identity: str, times: LeaseTimes) -> None:
        self.identity = identity
        self.times = times
        self._cluster = cluster
        self._clock = clock
        self._namespace = namespace
        self._held_until: float | None = None  # on the monotonic clock
        self._epoch = 0
        self._seen: tuple[str | None, float] | None = None  # resourceVersion of the lease, and when it was first seen

    @property
    def leading(self) -> bool:
        """Whether this replica holds the lease with enough time left for one more request."""
        margin = self.times.margin.total_seconds()
        return self._held_until is not None and self._clock.monotonic() < self._held_until - margin

    def leadership(self) -> Leadership | None:
        if not self.leading or self._held_until is None:
            return None
        left = timedelta(seconds=self._held_until - self._clock.monotonic())
        return Leadership(holder=self.identity, epoch=self._epoch, valid_until=self._clock.now() + left)

    async def run(self) -> None:
        """Try for ever."""
        while True:
            await self.try_once()
            await self._clock.sleep(self.times.retry.total_seconds())

    async def try_once(self) -> bool:
        """One attempt to take or renew the lease; any failure leaves things as they are and is logged."""
        # A connection that died silently must not use up the whole lease: there is time for two tries.
        limit = (self.times.duration - self.times.margin).total_seconds() / 2
        try:
            async with asyncio.timeout(limit):
                return await self._attempt()
        except TimeoutError:
            log.warning("lease not renewed", extra={"error": f"no answer within {limit:g} s"})
        except ApiError as exc:
            if exc.status == 409:
                return False  # somebody else was quicker
            log.warning("cannot read or write the lease", extra={"error": str(exc)})
        except ClusterhealError as exc:
            log.warning("lease not renewed", extra={"error": str(exc)})
        return False

    async def release(self) -> None:
        """Give the lease up so that a successor need not wait."""
        if self._held_until is None:
            return
        self._held_until = None
        try:
            lease = await self._cluster.get(LEASES, LEASE_NAME, namespace=self._namespace)
            if lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"]["holderIdentity"] = ""
                await self._cluster.update(LEASES, lease, namespace=self._namespace)
        except (ApiError, ApiRetryable) as exc:
            log.info("lease not released", extra={"error": str(exc)})

    async def _attempt(self) -> bool:
        started = self._clock.monotonic()
        try:
            lease = await self._cluster.get(LEASES, LEASE_NAME, namespace=self._namespace)
        except ApiError as exc:
            if exc.status != 404:
                raise
            return await self._take(None, started)
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder == self.identity and self._held_until is not None:
            return await self._take(lease, started)
        version = lease["metadata"].get("resourceVersion")
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, started)
        duration = float(spec.get("leaseDurationSeconds") or self.times.duration.total_seconds())
        if holder and started - self._seen[1] < duration:
            self._held_until = None
            return False
        return await self._take(lease, started)

    async def _take(self, lease: Manifest | None, started: float) -> bool:
        now = format_time(self._clock.now())
        spec = dict((lease or {}).get("spec") or {})
        renewal = spec.get("holderIdentity") == self.identity and self._held_until is not None
        epoch = int(spec.get("leaseTransitions") or 0) + (0 if renewal else 1)
        spec |= {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self.times.duration.total_seconds())),
            "renewTime": now,
            "leaseTransitions": epoch,
            "acquireTime": spec.get("acquireTime", now) if renewal else now,
        }
        if lease is None:
            body = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": LEASE_NAME, "namespace": self._namespace},
                "spec": spec,
            }
            await self._cluster.create(LEASES, body, namespace=self._namespace)
        else:
            await self._cluster.update(LEASES, {**lease, "spec": spec}, namespace=self._namespace)
        if not renewal:
            log.info("leading", extra={"identity": self.identity, "epoch": epoch})
        self._epoch = epoch
        self._held_until = started + self.times.duration.total_seconds()
        return True
