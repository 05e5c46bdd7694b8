"""The HTTP front: an ASGI application over one `ApiServer`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from clusterheal.kube.ports import ApiError, Manifest, PatchType, WatchEvent
from clusterheal.local.kube import discovery, failures
from clusterheal.local.kube.access import User
from clusterheal.local.kube.adapter import bookmark
from clusterheal.local.kube.api import ApiServer, WriteRequest
from clusterheal.local.kube.tables import to_table
from clusterheal.local.kube.wire import Asked, HttpRequest, Target, asked_of, target_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_log = logging.getLogger(__name__)
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_BOOKMARK_SECONDS = 60.0
_WATCH_SECONDS = 1800.0
_OPEN_PATHS = ("/healthz", "/readyz", "/livez", "/version")


class KubeApp:
    """ASGI application; `bookmark_seconds` is how often an idle watch that allows bookmarks gets one."""

    def __init__(self, api: ApiServer, *, bookmark_seconds: float = _BOOKMARK_SECONDS) -> None:
        self._api = api
        self._bookmark_seconds = bookmark_seconds
        self.closing = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        request = HttpRequest.of(scope, await _read_body(receive))
        try:
            await self._answer(request, receive, send)
        except ApiError as exc:
            await self._send_failure(send, exc)
        except Exception:  # noqa: BLE001 - the request loop's boundary: logged, answered as 500
            _log.exception("emulator failed", extra={"method": request.method, "path": request.path})
            await self._send_failure(send, ApiError(500, "InternalError", "the emulator failed; see its log"))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self.closing.set()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _answer(self, request: HttpRequest, receive: Receive, send: Send) -> None:
        if request.path in _OPEN_PATHS and request.method == "GET":
            await self._send_general(request, send)
            return
        user = self._api.access.authenticate(request.token)
        if user is None:
            raise failures.unauthorized()
        document = discovery.document(request.path, self._api.catalogue)
        if document is not None and request.method == "GET":
            await _send_json(send, 200, document)
            return
        watching = request.method == "GET" and request.flag("watch")
        asked = asked_of(request.path)
        self._authorize(user, request, asked, watching=watching)
        target = target_of(asked, self._api.catalogue)
        if watching:
            await self._watch(request, target, receive, send)
        elif target.subresource == "log":
            await self._send_log(request, target, send)
        else:
            status, body = self._operate(user, request, target)
            if request.wants_table and request.method == "GET":
                body = to_table(target.kind, body, self._api.clock)
            await _send_json(send, status, body)

    async def _send_general(self, request: HttpRequest, send: Send) -> None:
        if request.path == "/version":
            await _send_json(send, 200, discovery.VERSION)
        else:
            await _send(send, 200, b"ok", "text/plain; charset=utf-8")

    def _authorize(self, user: User, request: HttpRequest, asked: Asked, *, watching: bool) -> None:
        verb = _VERBS.get(request.method)
        if verb is None:
            raise failures.method_not_allowed()
        if not asked.name and verb in ("get", "delete"):
            verb = {"get": "list", "delete": "deletecollection"}[verb]
        if watching:
            verb = "watch"
        self._api.authorize(user, verb, asked.resource, asked.namespace, asked.name, asked.subresource)

    def _operate(self, user: User, request: HttpRequest, target: Target) -> tuple[int, Manifest]:
        api, kind, namespace, name = self._api, target.kind, target.namespace, target.name
        if request.method == "GET":
            if name:
                return 200, api.get(kind, namespace, name, target.subresource)
            return 200, api.list(kind, request.query(target))
        if request.method == "DELETE":
            return self._delete(request, target)
        write = WriteRequest(manager=request.manager, dry_run=request.dry_run, subresource=target.subresource)
        if request.method == "POST":
            return self._post(user, request, target, write)
        if not name:
            raise failures.method_not_allowed()
        if request.method == "PUT":
            return 200, api.update(kind, namespace, name, request.json(), write)
        return self._patch(request, target, write)

    def _post(self, user: User, request: HttpRequest, target: Target, write: WriteRequest) -> tuple[int, Manifest]:
        if target.subresource == "eviction" and target.kind.key == "pods":
            return 201, self._api.evict(target.namespace or "", target.name, request.json(), dry_run=write.dry_run)
        if target.subresource:
            raise failures.unknown_path()
        if target.name:
            raise failures.method_not_allowed()
        return 201, self._api.create(target.kind, target.namespace, request.json(), write, user)

    def _patch(self, request: HttpRequest, target: Target, write: WriteRequest) -> tuple[int, Manifest]:
        try:
            patch_type = PatchType(request.content_type)
        except ValueError:
            raise failures.unsupported_media_type([t.value for t in PatchType]) from None
        apply = patch_type is PatchType.APPLY
        if request.flag("force") and not apply:
            raise failures.invalid_options(
                "PatchOptions", failures.forbidden_field("force", "may not be specified for non-apply patch")
            )
        write = WriteRequest(
            manager=request.params.get("fieldManager", "") if apply else write.manager,
            dry_run=write.dry_run,
            force=request.flag("force"),
            subresource=write.subresource,
        )
        is_new = apply and self._api.store.get(target.kind.key, target.namespace or "", target.name) is None
        body = self._api.patch(target.kind, target.namespace, target.name, request.json(), patch_type, write)
        return (201 if is_new else 200), body

    def _delete(self, request: HttpRequest, target: Target) -> tuple[int, Manifest]:
        options = request.delete_options()
        if target.subresource:
            raise failures.method_not_allowed()
        if target.name:
            return 200, self._api.delete(target.kind, target.namespace, target.name, options)
        return 200, self._api.delete_collection(target.kind, request.query(target), options)

    async def _send_log(self, request: HttpRequest, target: Target, send: Send) -> None:
        lines = request.params.get("tailLines")
        text = self._api.log(
            target.namespace or "",
            target.name,
            container=request.params.get("container", ""),
            previous=request.flag("previous"),
            tail_lines=int(lines) if lines and lines.isdigit() else None,
        )
        await _send(send, 200, text.encode(), "text/plain")

    async def _watch(self, request: HttpRequest, target: Target, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            async for event in self._events(request, target, gone):
                shown = event.object
                if request.wants_table and event.type != "ERROR":
                    shown = to_table(target.kind, event.object, self._api.clock)
                line = orjson.dumps({"type": event.type, "object": shown}) + b"\n"
                await send({"type": "http.response.body", "body": line, "more_body": True})
        finally:
            gone.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _events(
        self, request: HttpRequest, target: Target, gone: asyncio.Future[None]
    ) -> AsyncIterator[WatchEvent]:
        initial = request.flag("sendInitialEvents")
        bookmarks = request.flag("allowWatchBookmarks")
        resource = target.kind.resource
        try:
            watcher = self._api.watch(target.kind, request.query(target), initial=initial)
        except ApiError as exc:
            yield WatchEvent(type="ERROR", object=failures.status_of(exc))
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + float(request.params.get("timeoutSeconds") or _WATCH_SECONDS)
        closing = asyncio.ensure_future(self.closing.wait())
        try:
            for event in watcher.take():
                yield event
            if initial and bookmarks:
                yield bookmark(resource, watcher.revision, initial_end=True)
            while not gone.done() and not closing.done() and (left := end - loop.time()) > 0:
                arrival = asyncio.ensure_future(watcher.wait())
                wait = min(left, self._bookmark_seconds) if bookmarks else left
                waits: set[asyncio.Future[Any]] = {arrival, gone, closing}
                await asyncio.wait(waits, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                arrived = arrival.done()
                arrival.cancel()
                for event in watcher.take():
                    yield event
                if not arrived and bookmarks:
                    yield bookmark(resource, watcher.revision)
        finally:
            closing.cancel()
            watcher.close()

    async def _send_failure(self, send: Send, error: ApiError) -> None:
        after = error.details.get("retryAfterSeconds")
        extra = [(b"retry-after", str(after).encode())] if after else []
        await _send_json(send, error.status, failures.status_of(error), extra)


async def _read_body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_json(send: Send, status: int, body: Manifest, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await _send(send, status, orjson.dumps(body), "application/json", headers)


async def _send(
    send: Send, status: int, body: bytes, media: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    sent = [(b"content-type", media.encode()), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})


__all__ = ["KubeApp"]
