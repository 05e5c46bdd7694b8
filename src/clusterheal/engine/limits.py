"""Bounds on what a caller may send: bytes per body, requests per second. Plain ASGI: nothing is buffered twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from clusterheal.clock import Clock

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_CLIENTS = 10_000


class TooLarge(Exception):
    pass


class Limits:
    """Refuses bodies over `max_bytes` (413) and clients over `per_second` (429); `exempt` paths have no rate limit."""

    def __init__(
        self, app: App, *, clock: Clock, max_bytes: int, per_second: float, exempt: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._clock = clock
        self._max_bytes = max_bytes
        self._rate = per_second
        self._exempt = exempt
        self._buckets: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] not in self._exempt and not self._allowed(str((scope.get("client") or ("?",))[0])):
            await _answer(send, 429, "too many requests; slow down", [(b"retry-after", b"1")])
            return
        headers = dict(scope.get("headers") or [])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_bytes:
            await _answer(send, 413, f"the body may have {self._max_bytes} bytes, got {length.decode('latin-1')}", [])
            return
        await self._bounded(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """For bodies that come in chunks, without a length."""
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise TooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except TooLarge:
            if not started:
                await _answer(send, 413, f"the body may have {self._max_bytes} bytes", [])

    def _allowed(self, client: str) -> bool:
        """A token bucket of one second's worth per address."""
        now = self._clock.monotonic()
        tokens, last = self._buckets.get(client, (self._rate, now))
        tokens = min(self._rate, tokens + (now - last) * self._rate)
        if len(self._buckets) >= MAX_CLIENTS and client not in self._buckets:
            self._buckets.clear()
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        return tokens >= 1


async def _answer(send: Send, status: int, detail: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = orjson.dumps({"detail": detail})
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json"), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})
