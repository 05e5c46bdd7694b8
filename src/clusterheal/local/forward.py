"""A TCP address that stays while what is behind it changes: what a Kubernetes Service is to its pods."""

from __future__ import annotations

import asyncio
import contextlib
import logging

log = logging.getLogger(__name__)

_CHUNK = 1 << 16


class Forwarder:
    """Forwards connections to the current target; with none, a connection is closed at once.

    Connections that are open when the target changes stay with the old one until either side closes them.
    """

    def __init__(self, *, host: str = "127.0.0.1") -> None:
        self._host = host
        self._target: tuple[str, int] | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that callers use, the same until `close`."""
        assert self._server is not None, "start the forwarder first"
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, self._host, 0)

    def retarget(self, port: int | None) -> None:
        """Send new connections to `port`; None: refuse them."""
        self._target = None if port is None else (self._host, port)

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._relay(reader, writer)
        except OSError as exc:
            log.debug("connection lost", extra={"reason": str(exc)})
        finally:
            self._open.discard(task)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._target is None:
            return
        try:
            behind_reader, behind_writer = await asyncio.open_connection(*self._target)
        except OSError as exc:
            log.debug("target refuses connections", extra={"port": self._target[1], "reason": str(exc)})
            return
        try:
            upward = asyncio.create_task(_copy(reader, behind_writer))
            await _copy(behind_reader, writer)
            upward.cancel()  # the server closed: nothing more can come back
            with contextlib.suppress(asyncio.CancelledError):
                await upward
        finally:
            behind_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
