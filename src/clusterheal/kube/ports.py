"""The narrow view of a Kubernetes API that the engine and the rollout use.

Two adapters: `clusterheal.kube.http.HttpCluster` for any API server, and
`clusterheal.local.kube.adapter.SimulatedCluster` over the emulator's store, for seeded tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from clusterheal.errors import PermanentError, RetryableError

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource type, e.g. `Resource(group="apps", version="v1", plural="deployments", kind="Deployment")`."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def discovery_path(self) -> str:
        """Where the server lists the resources of this group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path below the server's root."""
        root = self.discovery_path
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        tail = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{root}{scope}/{self.plural}{tail}"


class PatchType(StrEnum):
    """Content types of PATCH."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, kw_only=True)
class ObjectList:
    """A consistent list and the resourceVersion to watch from; items are manifests, or `transform`'s results."""

    items: list[Any]
    resource_version: str


@dataclass(frozen=True, kw_only=True)
class WatchEvent:
    """`type` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Manifest


class ApiError(PermanentError):
    """The API server refused. `status` is HTTP, `reason` Kubernetes' (NotFound, Conflict, Invalid, Forbidden ...)."""

    def __init__(self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details = dict(details or {})


class ApiRetryable(RetryableError):
    """No answer, 429 or 5xx: the write may or may not have been applied. `retry_after` is in seconds."""

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class Cluster(Protocol):
    """Every method raises `ApiError` or `ApiRetryable`; none retries a write by itself."""

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> Manifest: ...

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        transform: Callable[[Manifest], Any] | None = None,
    ) -> ObjectList:
        """All matching objects; pages are followed. `transform` makes each item smaller as soon as its page is read."""
        ...

    def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        timeout_seconds: float | None = None,
    ) -> AsyncIterator[WatchEvent]:
        """Events after `resource_version`; raises `ApiError` 410 when that is too old: list again."""
        ...

    async def serves(self, resource: Resource) -> bool:
        """Whether the server has this kind at all, from discovery; an account without rights may ask, too.

        A list does not tell: rights are checked before it is looked whether there is such a kind.
        """
        ...

    async def create(
        self, resource: Resource, obj: Manifest, *, namespace: str | None = None, dry_run: bool = False
    ) -> Manifest:
        """POST. Also TokenReview and SubjectAccessReview, whose answer is in `status`."""
        ...

    async def update(
        self,
        resource: Resource,
        obj: Manifest,
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Manifest:
        """PUT with the object's resourceVersion: 409 when somebody else wrote in between."""
        ...

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
    ) -> Manifest: ...

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        dry_run: bool = False,
    ) -> None: ...

    async def evict(self, pod: str, *, namespace: str, uid: str | None = None, dry_run: bool = False) -> None:
        """POST pods/eviction; `ApiRetryable` 429 when a PodDisruptionBudget forbids it now."""
        ...

    async def pod_log(
        self, pod: str, *, namespace: str, container: str | None = None, previous: bool = False, tail_lines: int = 50
    ) -> str: ...
