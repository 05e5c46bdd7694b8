"""What this replica knows of the cluster: lists kept current by watches, listed again from time to time.

Decisions are made on snapshots of it; before an intent is written the parts that guards rest on are listed afresh.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from clusterheal.clock import Clock
from clusterheal.engine.names import PAUSE_CONFIG_MAP
from clusterheal.engine.views import Key, PodView, Snapshot, pod_view
from clusterheal.errors import ClusterhealError
from clusterheal.kube.ports import ApiError, Cluster, Manifest, Resource
from clusterheal.kube.resources import (
    APPLICATIONS,
    CONFIG_MAPS,
    CRON_JOBS,
    DAEMON_SETS,
    DEPLOYMENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    INCIDENTS,
    INFERENCE_SERVICES,
    JOBS,
    MACHINE_CONFIG_POOLS,
    NAMESPACES,
    NODE_HEALTH_CHECKS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REMEDIATION_POLICIES,
    REPLICA_SETS,
    STATEFUL_SETS,
    STORAGE_CLASSES,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A resource to follow. `required`: the engine is not ready without it."""

    resource: Resource
    own_namespace: bool = False
    field_selector: str | None = None
    required: bool = False


WANTED: tuple[Wanted, ...] = (
    Wanted(resource=INCIDENTS, own_namespace=True, required=True),
    Wanted(resource=REMEDIATION_POLICIES, own_namespace=True, required=True),
    Wanted(resource=CONFIG_MAPS, own_namespace=True, field_selector=f"metadata.name={PAUSE_CONFIG_MAP}"),
    Wanted(resource=NODES, required=True),
    Wanted(resource=PODS, required=True),
    Wanted(resource=NAMESPACES),
    Wanted(resource=DEPLOYMENTS, required=True),
    Wanted(resource=REPLICA_SETS),
    Wanted(resource=STATEFUL_SETS),
    Wanted(resource=DAEMON_SETS),
    Wanted(resource=POD_DISRUPTION_BUDGETS),
    Wanted(resource=HORIZONTAL_POD_AUTOSCALERS),
    Wanted(resource=MACHINE_CONFIG_POOLS),
    Wanted(resource=INFERENCE_SERVICES),
    Wanted(resource=PERSISTENT_VOLUME_CLAIMS),
    Wanted(resource=STORAGE_CLASSES),
    Wanted(resource=NODE_HEALTH_CHECKS),
    Wanted(resource=JOBS),
    Wanted(resource=CRON_JOBS),
    Wanted(resource=APPLICATIONS),
)
BEFORE_ACTING = (
    INCIDENTS,
    REMEDIATION_POLICIES,
    CONFIG_MAPS,
    NODES,
    PODS,
    DEPLOYMENTS,
    REPLICA_SETS,
    STATEFUL_SETS,
    POD_DISRUPTION_BUDGETS,
    HORIZONTAL_POD_AUTOSCALERS,
    MACHINE_CONFIG_POOLS,
    PERSISTENT_VOLUME_CLAIMS,
    NODE_HEALTH_CHECKS,
    APPLICATIONS,
)
"""Listed afresh before an intent: a watch may lag, and a budget counted on old news is no budget."""

DROPPED = ("managedFields",)
WATCH_SECONDS = 60.0  # a watch that says nothing this long is renewed, so a dropped one is noticed
FIRST_BACKOFF, MAX_BACKOFF = 0.5, 30.0  # seconds
REFUSED_AGAIN = timedelta(seconds=30)  # rights and definitions applied along with the engine come late


def _version(obj: Manifest | PodView) -> str:
    return obj.resource_version if isinstance(obj, PodView) else str(obj["metadata"].get("resourceVersion", "0"))


def _key(obj: Manifest) -> Key:
    return obj["metadata"].get("namespace"), obj["metadata"]["name"]


def _newer(new: str, known: Manifest | PodView | None) -> bool:
    """Whether to take what has version `new`: our own writes come back by watches, sometimes behind a list."""
    if known is None:
        return True
    old = _version(known)
    return int(new) >= int(old) if old.isdigit() and new.isdigit() else True


class Cache:
    """Follows `wanted`; `changed` is called after every change with its resource."""

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        *,
        namespace: str,
        rng: random.Random,
        wanted: Iterable[Wanted] = WANTED,
        resync: timedelta = timedelta(minutes=10),
        changed: Callable[[Resource], None] = lambda _: None,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._namespace = namespace
        self._rng = rng
        self._wanted = {w.resource: w for w in wanted}
        self._resync = resync
        self.changed = changed
        self._objects: dict[Resource, dict[Key, Any]] = {r: {} for r in self._wanted}
        self._shown: dict[Resource, dict[Key, Any]] = {}
        self._synced_at: dict[Resource, datetime] = {}
        self._unreadable: dict[Resource, str] = {}
        self._absent: set[Resource] = set()

    def snapshot(self) -> Snapshot:
        """What is known now; later changes do not show in it."""
        return Snapshot(
            taken_at=self._clock.now(),
            pods=self.objects(PODS),
            objects={r: self.objects(r) for r in self._objects if r != PODS},
            synced_at=dict(self._synced_at),
            unreadable=dict(self._unreadable),
            absent=frozenset(self._absent),
        )

    def objects(self, resource: Resource) -> Mapping[Key, Any]:
        """What is known of one resource now; the same mapping as long as nothing changes."""
        shown = self._shown.get(resource)
        if shown is None:
            shown = self._shown[resource] = dict(self._objects.get(resource, {}))
        return shown

    def _note_change(self, resource: Resource) -> None:
        self._shown.pop(resource, None)
        self.changed(resource)

    @property
    def missing(self) -> list[str]:
        """Required resources that have never been read."""
        return [w.resource.plural for w in self._wanted.values() if w.required and w.resource not in self._synced_at]

    def put(self, resource: Resource, obj: Manifest) -> None:
        """Take the answer to a write of our own, ahead of the watch."""
        self._take(resource, obj)

    async def refresh(self, resources: Iterable[Resource]) -> None:
        """List these now.

        Raises:
            ApiRetryable: no answer; what was known stays, and is not fresh.
        """
        for resource in resources:
            if resource in self._wanted and resource not in self._absent:
                await self._list(self._wanted[resource])

    async def sync(self) -> None:
        """List everything once; a resource that cannot be listed is recorded, not raised."""
        for wanted in self._wanted.values():
            try:
                await self._list(wanted)
            except ClusterhealError as exc:
                log.warning("cannot list", extra={"resource": wanted.resource.plural, "error": str(exc)})

    async def run(self) -> None:
        """Follow everything for ever."""
        async with asyncio.TaskGroup() as group:
            for wanted in self._wanted.values():
                group.create_task(self._follow(wanted))

    async def _follow(self, wanted: Wanted) -> None:
        backoff = FIRST_BACKOFF
        while True:
            try:
                version = await self._list(wanted)
                backoff = FIRST_BACKOFF
                if version is None:
                    await self._clock.sleep(self._again(wanted).total_seconds())
                else:
                    await self._watch(wanted, version)
            except ClusterhealError as exc:
                log.info("watch ended", extra={"resource": wanted.resource.plural, "error": str(exc)})
                await self._clock.sleep(backoff * (0.5 + self._rng.random()))
                backoff = min(backoff * 2, MAX_BACKOFF)

    def _again(self, wanted: Wanted) -> timedelta:
        """When to ask again for what was refused: soon where that holds the engine up, rarely for an absent kind."""
        awaited = wanted.required or wanted.resource in self._unreadable
        return min(REFUSED_AGAIN, self._resync) if awaited else self._resync

    async def _list(self, wanted: Wanted) -> str | None:
        """Replace what is known by a consistent list; the version to watch from, or `None` if it cannot be watched."""
        resource = wanted.resource
        namespace = self._namespace if wanted.own_namespace else None
        try:
            found = await self._cluster.list(
                resource,
                namespace=namespace,
                field_selector=wanted.field_selector,
                transform=lambda obj: (_key(obj), self._projected(resource, obj)),
            )
        except ApiError as exc:
            if exc.status not in (403, 404):
                raise
            self._note_refusal(resource, exc, absent=exc.status == 404 or not await self._served(resource))
            return None
        self._unreadable.pop(resource, None)
        self._absent.discard(resource)
        known = self._objects[resource]
        fresh: dict[Key, Any] = {}
        for key, obj in found.items:
            fresh[key] = obj if _newer(_version(obj), known.get(key)) else known[key]
        news = fresh.keys() != known.keys() or any(_version(fresh[k]) != _version(known[k]) for k in fresh)
        self._synced_at[resource] = self._clock.now()
        if news:
            self._objects[resource] = fresh
            self._note_change(resource)
        return found.resource_version

    async def _served(self, resource: Resource) -> bool:
        """Whether a refused kind is there at all; as long as that is not known, it may be."""
        try:
            return await self._cluster.serves(resource)
        except ClusterhealError as exc:
            log.info("discovery failed", extra={"resource": resource.plural, "error": str(exc)})
            return True

    def _note_refusal(self, resource: Resource, exc: ApiError, *, absent: bool) -> None:
        if absent:
            self._absent.add(resource)  # this cluster has no such kind
            self._unreadable.pop(resource, None)
            self._objects[resource] = {}
            self._shown.pop(resource, None)
            self._synced_at.pop(resource, None)
        else:
            why = f"the service account may not list {resource.plural}: {exc.message}"
            if self._unreadable.get(resource) != why:
                log.warning("cannot list", extra={"resource": resource.plural, "error": why})
            self._unreadable[resource] = why
            self._absent.discard(resource)
            self._synced_at.pop(resource, None)

    async def _watch(self, wanted: Wanted, version: str) -> None:
        resource = wanted.resource
        started = self._clock.monotonic()
        while self._clock.monotonic() - started < self._resync.total_seconds():
            events = self._cluster.watch(
                resource,
                resource_version=version,
                namespace=self._namespace if wanted.own_namespace else None,
                field_selector=wanted.field_selector,
                timeout_seconds=WATCH_SECONDS,
            )
            try:
                async for event in events:
                    version = event.object["metadata"].get("resourceVersion", version)
                    self._synced_at[resource] = self._clock.now()
                    if event.type == "DELETED":
                        self._drop(resource, event.object)
                    elif event.type != "BOOKMARK":
                        self._take(resource, event.object)
            except ApiError as exc:
                if exc.status == 410:
                    return  # too old: list again
                raise
            self._synced_at[resource] = self._clock.now()

    def _take(self, resource: Resource, obj: Manifest) -> None:
        key = _key(obj)
        objects = self._objects.setdefault(resource, {})
        if _newer(_version(obj), objects.get(key)):
            objects[key] = self._projected(resource, obj)
            self._note_change(resource)

    def _drop(self, resource: Resource, obj: Manifest) -> None:
        key = _key(obj)
        objects = self._objects.setdefault(resource, {})
        if key in objects and _newer(_version(obj), objects[key]):
            del objects[key]
            self._note_change(resource)

    @staticmethod
    def _projected(resource: Resource, obj: Manifest) -> Manifest | PodView:
        if resource == PODS:
            return pod_view(obj)
        metadata = {k: v for k, v in obj["metadata"].items() if k not in DROPPED}
        if resource == APPLICATIONS:  # the rest lists every object that it deploys
            status = obj.get("status") or {}
            kept = {"sync": status.get("sync"), "operationState": _phase(status)}
            return {"metadata": metadata, "status": kept, "operation": obj.get("operation")}
        if resource in (JOBS, CRON_JOBS):  # thousands of finished ones stay around; their templates say nothing new
            return {"metadata": metadata, "status": obj.get("status") or {}, "spec": _without_template(obj)}
        return {**obj, "metadata": metadata}


def _without_template(obj: Manifest) -> Manifest:
    return {k: v for k, v in (obj.get("spec") or {}).items() if k not in ("template", "jobTemplate")}


def _phase(status: Mapping[str, Any]) -> Manifest:
    return {"phase": (status.get("operationState") or {}).get("phase")}
