"""Plays KServe's controller for the emulated cluster: one real model server process per InferenceService."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from clusterheal.clock import Clock, SystemClock
from clusterheal.errors import ClusterhealError
from clusterheal.kube.ports import ApiError, Cluster, Manifest, PatchType
from clusterheal.kube.resources import CUSTOM_RESOURCE_DEFINITIONS, INFERENCE_SERVICES
from clusterheal.local.kserve_process import Launch, Predictor
from clusterheal.local.kserve_status import PredictorStatus, build_status, inference_service_crd
from clusterheal.local.processes import ChildDied

log = logging.getLogger(__name__)

FIELD_MANAGER = "kserve-controller"
WATCH_SECONDS = 300.0

OnDeath = Callable[[str, ChildDied], None]
"""Called with `<namespace>/<name>` and the error when a process that served has ended by itself."""


class LocalKServe:
    """Use in `async with`; leaving it ends every process that it started.

    A service's address stays the same while its processes come and go. A package that does not load is tried once per
    spec, not in a crash loop; a process that dies is reported, not restarted: on one machine that is an error to see.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        workdir: Path,
        namespace: str | None = None,
        marker: str = "",
        load_timeout: timedelta = timedelta(seconds=60),
        on_death: OnDeath | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._launch = Launch(workdir=workdir.absolute(), marker=marker, load_timeout=load_timeout)
        self._on_death = on_death or (lambda key, death: None)
        self._clock = clock or SystemClock()
        self._services: dict[str, _Service] = {}
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._launch.workdir.mkdir(parents=True, exist_ok=True)
        await self._require_crd()
        self._loop = asyncio.create_task(self.run(), name="local kserve")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
        await asyncio.shield(self._close_all())

    async def run(self) -> None:
        """List and watch until cancelled; any error of the API is logged and the list begins again."""
        while True:
            try:
                await self._follow()
            except ClusterhealError as exc:
                log.warning("watch ended", extra={"resource": "inferenceservices", "reason": str(exc)})
                await self._clock.sleep(0.5)

    async def _follow(self) -> None:
        listed = await self._cluster.list(INFERENCE_SERVICES, namespace=self._namespace)
        present = {_key(item) for item in listed.items}
        for key in set(self._services) - present:
            await self._remove(key)
        for item in listed.items:
            await self._desire(item)
        events = self._cluster.watch(
            INFERENCE_SERVICES,
            resource_version=listed.resource_version,
            namespace=self._namespace,
            timeout_seconds=WATCH_SECONDS,
        )
        async for event in events:
            if event.type == "DELETED":
                await self._remove(_key(event.object))
            elif event.type in ("ADDED", "MODIFIED"):
                await self._desire(event.object)

    async def _desire(self, item: Manifest) -> None:
        key = _key(item)
        if item["metadata"].get("deletionTimestamp"):
            return
        service = self._services.get(key)
        if service is None:
            service = _Service(key, self._cluster, self._launch, self._clock, self._on_death)
            self._services[key] = service
            await service.start()
        service.desire(item)

    async def _remove(self, key: str) -> None:
        service = self._services.pop(key, None)
        if service is not None:
            await service.stop()
            log.info("stopped", extra={"service": key})

    async def _close_all(self) -> None:
        await asyncio.gather(*(self._remove(key) for key in list(self._services)))

    async def _require_crd(self) -> None:
        crd = inference_service_crd()
        try:
            await self._cluster.get(CUSTOM_RESOURCE_DEFINITIONS, crd["metadata"]["name"])
        except ApiError as exc:
            if exc.status != 404:
                raise
            await self._cluster.create(CUSTOM_RESOURCE_DEFINITIONS, crd)


class _Service:
    """Brings one InferenceService to its newest generation, one at a time."""

    def __init__(self, key: str, cluster: Cluster, launch: Launch, clock: Clock, on_death: OnDeath) -> None:
        self._namespace, self._name = key.split("/", 1)
        self._cluster = cluster
        self._clock = clock
        self._predictor = Predictor(key, launch, self._write_status, on_death)
        self._wanted: Manifest | None = None
        self._seen_generation: Any = None
        self._changed = asyncio.Event()
        self._written: Manifest = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._predictor.open()
        self._task = asyncio.create_task(self._work(), name=f"inferenceservice {self._namespace}/{self._name}")

    def desire(self, item: Manifest) -> None:
        """Take note of a new spec; our own status writes do not change the generation."""
        if item["metadata"].get("generation") != self._seen_generation:
            self._seen_generation = item["metadata"].get("generation")
            self._wanted = item
            self._changed.set()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._predictor.close()

    async def _work(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = self._wanted
            if wanted is None:
                continue
            try:
                await self._until_newer(wanted)
            except ClusterhealError as exc:
                log.warning("reconcile failed", extra={"service": self._name, "reason": str(exc)})
                await self._clock.sleep(0.5)
                self._changed.set()

    async def _until_newer(self, wanted: Manifest) -> None:
        """Serve `wanted`, unless a newer spec comes first: then what was being started for it is given up."""
        update = asyncio.create_task(self._predictor.update(wanted))
        newer = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({update, newer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            newer.cancel()
            if not update.done():
                update.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await update

    async def _write_status(self, status: PredictorStatus) -> None:
        built = build_status(status, self._written, self._clock.now())
        try:
            await self._cluster.patch(
                INFERENCE_SERVICES,
                self._name,
                {"status": built},
                patch_type=PatchType.MERGE,
                namespace=self._namespace,
                subresource="status",
                field_manager=FIELD_MANAGER,
            )
        except ApiError as exc:
            if exc.status != 404:
                raise
            return  # deleted meanwhile: the watch will say so
        self._written = built


def _key(item: Manifest) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


__all__ = ["LocalKServe", "inference_service_crd"]
