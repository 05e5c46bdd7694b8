"""The `Cluster` port in process, over the emulator's store: for seeded tests on any clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from clusterheal.kube.answers import failure
from clusterheal.kube.ports import ApiError, Manifest, ObjectList, PatchType, Resource, WatchEvent
from clusterheal.local.kube.access import ADMIN, User
from clusterheal.local.kube.api import ApiServer, Query
from clusterheal.local.kube.requests import WriteRequest
from clusterheal.local.kube.store import clone
from clusterheal.local.kube.watching import Watcher

T = TypeVar("T")


class SimulatedCluster:
    """Implements `clusterheal.kube.ports.Cluster`; nothing here touches a socket or the wall clock.

    Answers to `get`, plain lists and writes are the caller's own. What `transform` and watches are given is the
    store's: a cache reads it and must not change it.
    """

    def __init__(self, api: ApiServer, *, user: User = ADMIN, manager: str = "clusterheal") -> None:
        self.api = api
        self.user = user
        self.manager = manager

    def _call(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        except ApiError as exc:
            raise failure(exc.status, exc.reason, exc.message, exc.details) from None

    def _target(self, verb: str, resource: Resource, namespace: str | None, name: str = "", sub: str = "") -> Any:
        self.api.authorize(self.user, verb, resource, namespace, name, sub)
        return self.api.kind(resource)

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> Manifest:
        return clone(self._call(lambda: self.api.get(self._target("get", resource, namespace, name), namespace, name)))

    async def serves(self, resource: Resource) -> bool:
        return self.api.catalogue.find(resource.group, resource.version, resource.plural) is not None

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        transform: Callable[[Manifest], Any] | None = None,
    ) -> ObjectList:
        query = Query(namespace=namespace, label_selector=label_selector, field_selector=field_selector)
        found = self._call(lambda: self.api.list(self._target("list", resource, namespace), query))
        items = [clone(item) if transform is None else transform(item) for item in found["items"]]
        return ObjectList(items=items, resource_version=found["metadata"]["resourceVersion"])

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        timeout_seconds: float | None = None,
    ) -> AsyncIterator[WatchEvent]:
        query = Query(
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            resource_version=resource_version,
        )
        watcher = self._call(lambda: self.api.watch(self._target("watch", resource, namespace), query))
        deadline = None if timeout_seconds is None else self.api.clock.monotonic() + timeout_seconds
        try:
            while True:
                for event in watcher.take():
                    yield event
                if deadline is None:
                    await watcher.wait()
                elif not await self._wait(watcher, deadline - self.api.clock.monotonic()):
                    yield bookmark(resource, watcher.revision)
                    return
        finally:
            watcher.close()

    async def _wait(self, watcher: Watcher, seconds: float) -> bool:
        """Whether something came within `seconds` of the emulator's clock."""
        if seconds <= 0:
            return False
        arrival = asyncio.ensure_future(watcher.wait())
        timer = asyncio.ensure_future(self.api.clock.sleep(seconds))
        try:
            done, _ = await asyncio.wait({arrival, timer}, return_when=asyncio.FIRST_COMPLETED)
            return arrival in done
        finally:
            for task in (arrival, timer):
                task.cancel()

    def _request(
        self, *, dry_run: bool, subresource: str | None = None, manager: str | None = None, force: bool = False
    ) -> WriteRequest:
        return WriteRequest(
            manager=self.manager if manager is None else manager,
            dry_run=dry_run,
            force=force,
            subresource=subresource or "",
        )

    async def create(
        self, resource: Resource, obj: Manifest, *, namespace: str | None = None, dry_run: bool = False
    ) -> Manifest:
        request = self._request(dry_run=dry_run)
        return clone(
            self._call(
                lambda: self.api.create(self._target("create", resource, namespace), namespace, obj, request, self.user)
            )
        )

    async def update(
        self,
        resource: Resource,
        obj: Manifest,
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Manifest:
        request = self._request(dry_run=dry_run, subresource=subresource)
        name = obj["metadata"]["name"]
        return clone(
            self._call(
                lambda: self.api.update(
                    self._target("update", resource, namespace, name, subresource or ""), namespace, name, obj, request
                )
            )
        )

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        *,
        patch_type: PatchType,
        namespace: str | None = None,
        subresource: str | None = None,
        field_manager: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> Manifest:
        request = self._request(dry_run=dry_run, subresource=subresource, manager=field_manager, force=force)
        return clone(
            self._call(
                lambda: self.api.patch(
                    self._target("patch", resource, namespace, name, subresource or ""),
                    namespace,
                    name,
                    patch,
                    patch_type,
                    request,
                )
            )
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        dry_run: bool = False,
    ) -> None:
        options = {"preconditions": {"uid": uid}} if uid else {}
        self._call(
            lambda: self.api.delete(
                self._target("delete", resource, namespace, name), namespace, name, options, dry_run=dry_run
            )
        )

    async def evict(self, pod: str, *, namespace: str, uid: str | None = None, dry_run: bool = False) -> None:
        pods = Resource(group="", version="v1", plural="pods", kind="Pod")
        eviction = {"deleteOptions": {"preconditions": {"uid": uid}}} if uid else {}

        def operate() -> None:
            self._target("create", pods, namespace, pod, "eviction")
            self.api.evict(namespace, pod, eviction, dry_run=dry_run)

        self._call(operate)

    async def pod_log(
        self, pod: str, *, namespace: str, container: str | None = None, previous: bool = False, tail_lines: int = 50
    ) -> str:
        pods = Resource(group="", version="v1", plural="pods", kind="Pod")

        def operate() -> str:
            self._target("get", pods, namespace, pod, "log")
            return self.api.log(namespace, pod, container=container or "", previous=previous, tail_lines=tail_lines)

        return self._call(operate)

    async def aclose(self) -> None:
        """Nothing to release; here so that both adapters close alike."""


def bookmark(resource: Resource, revision: int, *, initial_end: bool = False) -> WatchEvent:
    metadata: Manifest = {"resourceVersion": str(revision), "creationTimestamp": None}
    if initial_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return WatchEvent(
        type="BOOKMARK", object={"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    )


__all__ = ["SimulatedCluster", "bookmark"]
