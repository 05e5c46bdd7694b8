"""The `Cluster` port over HTTP, for any Kubernetes API server."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import orjson
import stamina

from clusterheal import __version__
from clusterheal.kube.answers import failure_of_body
from clusterheal.kube.credentials import Credentials, find_credentials
from clusterheal.kube.ports import ApiError, ApiRetryable, Manifest, ObjectList, PatchType, Resource, WatchEvent
from clusterheal.kube.resources import PODS
from clusterheal.kube.tokens import TokenFile
from clusterheal.settings import KubernetesSettings

_PAGE = 200  # objects; the largest thing in the engine's memory is a page of pods while it is read
_READ_ATTEMPTS = 4
_WATCH = timedelta(minutes=5)
_WATCH_MARGIN = timedelta(seconds=30)
Params = dict[str, str]


class HttpCluster:
    """Implements `clusterheal.kube.ports.Cluster`.

    Reads are tried up to four times with jitter; writes once, since only the caller knows whether to repeat them.
    `manager` owns the fields that are written. Close it with `aclose`.
    """

    def __init__(
        self, credentials: Credentials, *, timeout: timedelta = timedelta(seconds=15), manager: str = "clusterheal"
    ) -> None:
        headers = [("User-Agent", f"{manager}/{__version__}"), ("Accept", "application/json"), *credentials.headers]
        auth: httpx.Auth | None = None
        if credentials.token_file is not None:
            auth = TokenFile(credentials.token_file)
        elif credentials.token:
            headers.append(("Authorization", f"Bearer {credentials.token}"))
        self.credentials = credentials
        self._manager = manager
        self._timeout = timeout.total_seconds()
        self._extensions = {"sni_hostname": credentials.server_name} if credentials.server_name else {}
        self._client = httpx.AsyncClient(
            base_url=credentials.server,
            headers=headers,
            auth=auth,
            verify=credentials.verify,
            proxy=credentials.proxy,
            timeout=self._timeout,
            trust_env=False,
            # Watches hold connections for minutes; requests must never wait behind them.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )

    @classmethod
    def from_settings(cls, settings: KubernetesSettings, *, manager: str = "clusterheal") -> HttpCluster:
        """
        Raises:
            InvalidInput: no or unusable credentials.
        """
        return cls(find_credentials(settings), timeout=settings.timeout, manager=manager)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> HttpCluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None) -> Manifest:
        return await self._read(resource.path(namespace, name), {})

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        transform: Callable[[Manifest], Any] | None = None,
    ) -> ObjectList:
        params = {"limit": str(_PAGE), **_selectors(label_selector, field_selector)}
        path = resource.path(namespace)
        items: list[Any] = []
        while True:
            try:
                page = await self._read(path, params)
            except ApiError as exc:
                if exc.status != 410 or "continue" not in params:
                    raise
                # The pages' snapshot expired: a full list is consistent again.
                items, params = [], _selectors(label_selector, field_selector)
                continue
            for item in page["items"]:
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
                items.append(item if transform is None else transform(item))
            token = page["metadata"].get("continue")
            if not token:
                break
            params = {**params, "continue": token}
        return ObjectList(items=items, resource_version=page["metadata"]["resourceVersion"])

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
        seconds = _WATCH.total_seconds() if timeout_seconds is None else timeout_seconds
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, round(seconds))),
            **_selectors(label_selector, field_selector),
        }
        # A connection that died silently is noticed soon after the server should have closed it.
        silence = httpx.Timeout(self._timeout, read=seconds + _WATCH_MARGIN.total_seconds())
        async with (
            _translated(f"watch {resource.plural}"),
            self._client.stream(
                "GET", resource.path(namespace), params=params, timeout=silence, extensions=self._extensions
            ) as response,
        ):
            if response.status_code >= 400:
                raise _failure(response, await response.aread())
            async for line in _lines(response):
                event = _record(line, resource)
                if event["type"] == "ERROR":
                    raise failure_of_body(500, event["object"])
                yield WatchEvent(type=event["type"], object=event["object"])

    async def serves(self, resource: Resource) -> bool:
        try:
            found = await self._read(resource.discovery_path, {})
        except ApiError as exc:
            if exc.status == 404:
                return False
            raise
        return any(r.get("name") == resource.plural for r in found.get("resources") or ())

    async def create(
        self, resource: Resource, obj: Manifest, *, namespace: str | None = None, dry_run: bool = False
    ) -> Manifest:
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        return await self._write("POST", resource.path(namespace), body, self._params(dry_run))

    async def update(
        self,
        resource: Resource,
        obj: Manifest,
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Manifest:
        path = resource.path(namespace, obj["metadata"]["name"], subresource)
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        return await self._write("PUT", path, body, self._params(dry_run))

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
        params = self._params(dry_run, field_manager)
        if patch_type is PatchType.APPLY:
            params["force"] = "true" if force else "false"
        path = resource.path(namespace, name, subresource)
        return await self._write("PATCH", path, patch, params, content_type=patch_type.value)

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        dry_run: bool = False,
    ) -> None:
        body: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            body["preconditions"] = {"uid": uid}
        if dry_run:
            body["dryRun"] = ["All"]  # in the body: beside one, the server ignores the query's options
        await self._write("DELETE", resource.path(namespace, name), body, {})

    async def evict(self, pod: str, *, namespace: str, uid: str | None = None, dry_run: bool = False) -> None:
        body: Manifest = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
        }
        if uid:
            body["deleteOptions"] = {"preconditions": {"uid": uid}}
        await self._write("POST", PODS.path(namespace, pod, "eviction"), body, self._params(dry_run))

    async def pod_log(
        self, pod: str, *, namespace: str, container: str | None = None, previous: bool = False, tail_lines: int = 50
    ) -> str:
        params = {"tailLines": str(tail_lines), "previous": "true" if previous else "false"}
        if container:
            params["container"] = container
        response = await self._retried(PODS.path(namespace, pod, "log"), params)
        return response.text

    def _params(self, dry_run: bool, manager: str | None = None) -> Params:
        params = {"fieldManager": manager or self._manager}
        if dry_run:
            params["dryRun"] = "All"
        return params

    async def _read(self, path: str, params: Params) -> Manifest:
        response = await self._retried(path, params)
        return _parsed(response)

    async def _retried(self, path: str, params: Params) -> httpx.Response:
        async for attempt in stamina.retry_context(
            on=ApiRetryable, attempts=_READ_ATTEMPTS, timeout=4 * self._timeout, wait_initial=0.1, wait_max=3.0
        ):
            with attempt:
                return await self._send("GET", path, params)
        raise AssertionError("stamina ends with a result or an exception")

    async def _write(
        self, method: str, path: str, body: Any, params: Params, *, content_type: str = "application/json"
    ) -> Manifest:
        response = await self._send(method, path, params, orjson.dumps(body), content_type)
        return _parsed(response)

    async def _send(
        self,
        method: str,
        path: str,
        params: Params,
        content: bytes | None = None,
        content_type: str = "application/json",
    ) -> httpx.Response:
        headers = {} if content is None else {"Content-Type": content_type}
        async with _translated(f"{method} {path}"):
            response = await self._client.request(
                method, path, params=params, content=content, headers=headers, extensions=self._extensions
            )
        if response.status_code >= 400:
            raise _failure(response, response.content)
        return response


def _selectors(label_selector: str | None, field_selector: str | None) -> Params:
    chosen = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in chosen.items() if value}


@asynccontextmanager
async def _translated(what: str) -> AsyncIterator[None]:
    """Transport failures as the port's exceptions."""
    try:
        yield
    except httpx.RequestError as exc:
        cause: BaseException | None = exc
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise ApiError(
                    0,
                    "UntrustedCertificate",
                    f"{what}: the API server's certificate is not trusted ({cause.verify_message}); "
                    "give its CA in the kubeconfig or as kubernetes.ca_file",
                ) from exc
            cause = cause.__cause__ or cause.__context__
        raise ApiRetryable(f"{what}: no answer from the API server: {type(exc).__name__}: {exc}") from exc


def _parsed(response: httpx.Response) -> Manifest:
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError as exc:
        raise ApiRetryable(
            f"{response.request.method} {response.request.url.path}: the answer is not JSON: {exc}"
        ) from exc
    if not isinstance(body, dict):
        raise ApiRetryable(f"{response.request.url.path}: expected a JSON object, got {type(body).__name__}")
    return body


def _record(line: bytes, resource: Resource) -> Manifest:
    try:
        event: Manifest = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise ApiRetryable(f"watch {resource.plural}: expected a JSON record, got {line[:80]!r}") from exc
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict) or "type" not in event:
        raise ApiRetryable(f"watch {resource.plural}: expected a type and an object, got {line[:80]!r}")
    return event


def _failure(response: httpx.Response, content: bytes) -> ApiError | ApiRetryable:
    try:
        body: Any = json.loads(content)
    except ValueError:
        body = content.decode(errors="replace")
    return failure_of_body(response.status_code, body, retry_after=_retry_after(response.headers))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "")
    return float(value) if value.isdigit() else None


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Newline-separated records, however the network cut them."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line
