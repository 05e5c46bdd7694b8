"""Starts the local platform's real parts, watches them, and leaves none behind."""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from clusterheal.errors import InvalidInput, PermanentError
from clusterheal.local.processes import Child, ChildDied, ChildSpec, describe_exit, kill_marked, log_tail, spawn, stop
from clusterheal.local.writing import writing

log = logging.getLogger(__name__)

NOTICE_SECONDS = 2.0
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL

T = TypeVar("T")
Ready = Callable[[], Awaitable[bool]]


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_port(port: int, *, purpose: str, host: str = "127.0.0.1") -> int:
    """`port` itself when it can be listened on; 0 picks a free one.

    Raises:
        InvalidInput: the port is taken, naming what it was for and what to do.
    """
    if port == 0:
        return free_port(host)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise InvalidInput(
                f"port {port} for {purpose} is taken or not allowed ({exc.strerror}); stop what listens there, "
                "or choose another one (0 picks a free port)"
            ) from exc
    return port


async def http_ready(url: str, *, timeout_seconds: float = 1.0) -> bool:
    """True when `url` answers 2xx within the timeout."""
    async with httpx.AsyncClient(timeout=timeout_seconds) as client:
        try:
            return (await client.get(url)).is_success
        except httpx.HTTPError:
            return False


class Supervisor:
    """Owns child processes between `async with` and its end, whichever way that comes.

    A child started with `start` has to stay up: when it ends, every `guard`ed wait raises `ChildDied` naming it.
    """

    def __init__(self, *, logs: Path) -> None:
        self._logs = logs
        self._marker = uuid.uuid4().hex
        self._children: list[Child] = []
        self._watchers: set[asyncio.Task[None]] = set()
        self._death: asyncio.Future[ChildDied] | None = None

    @property
    def marker(self) -> str:
        """The value of the environment variable that marks our processes."""
        return self._marker

    @property
    def children(self) -> tuple[Child, ...]:
        """Those that were started to stay up, in order."""
        return tuple(self._children)

    async def __aenter__(self) -> Self:
        self._death = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._stop_all())

    async def _stop_all(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*(stop(c, grace_seconds=GRACE_SECONDS) for c in reversed(self._children)))
        self._children.clear()
        left = await asyncio.to_thread(kill_marked, self._marker)
        if left:
            log.warning("killed processes that outlived their parent", extra={"processes": left})

    async def start(self, spec: ChildSpec, *, ready: Ready | None = None, timeout_seconds: float = 30.0) -> Child:
        """Start a process that stays up, and wait until `ready` says so.

        Raises:
            ChildDied: it ended before it was ready.
            PermanentError: it was not ready in time.
        """
        child = await spawn(spec, logs=self._logs, marker=self._marker)
        self._children.append(child)
        watcher = asyncio.create_task(self._watch(child), name=f"watch {spec.name}")
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        if ready is not None:
            await self.guard(self._wait_ready(child, ready, timeout_seconds))
        return child

    async def stop_child(self, child: Child) -> None:
        """End one child on purpose."""
        await stop(child, grace_seconds=GRACE_SECONDS)
        self._children.remove(child)

    async def run(self, spec: ChildSpec, *, on_line: Callable[[str], None] | None = None) -> None:
        """Run a job to its end; each line of its stdout goes to `on_line` and to its log.

        Raises:
            ChildDied: it ended with another code than 0, or another child died meanwhile.
        """
        child = await spawn(spec, logs=self._logs, marker=self._marker, capture=True)
        try:
            await self.guard(self._follow(child, on_line))
            if child.process.returncode != 0:
                raise child.died()
        finally:
            await asyncio.shield(stop(child, grace_seconds=GRACE_SECONDS))

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, unless a child that has to stay up dies first.

        Raises:
            ChildDied: naming the child, how it ended, and the last lines it wrote.
        """
        assert self._death is not None, "use the supervisor in `async with`"
        task = asyncio.ensure_future(work)
        try:
            waited: set[asyncio.Future[Any]] = {task, self._death}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and task.exception() is not None:
                # Work that talks to a dead child often fails a moment before the child's end is noticed.
                await asyncio.wait({self._death}, timeout=NOTICE_SECONDS)
            if self._death.done():
                raise self._death.result()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # seen: how the work ended must not take the place of the death that ended it

    def report_death(self, death: ChildDied) -> None:
        """Count a process that somebody else started and watched among those that have to stay up."""
        if self._death is not None and not self._death.done():
            self._death.set_result(death)

    async def _watch(self, child: Child) -> None:
        await child.process.wait()
        if not child.stopping:
            log.info("a child process ended", extra={"child": child.spec.name, "pid": child.pid})
            self.report_death(child.died())

    async def _wait_ready(self, child: Child, ready: Ready, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                while not await ready():
                    await asyncio.sleep(0.1)
        except TimeoutError as exc:
            raise PermanentError(
                f"{child.spec.name} was not ready within {timeout_seconds:.0f} s; log: {child.log_path}\n"
                f"{log_tail(child.log_path)}".rstrip()
            ) from exc

    async def _follow(self, child: Child, on_line: Callable[[str], None] | None) -> None:
        with writing(child.log_path), child.log_path.open("a") as copy:
            async for line in _lines(child):
                copy.write(line + "\n")
                copy.flush()
                if on_line is not None:
                    on_line(line)
        await child.process.wait()


async def _lines(child: Child) -> AsyncIterator[str]:
    stdout = child.process.stdout
    assert stdout is not None, "started without capture"
    while raw := await stdout.readline():
        yield raw.decode(errors="replace").rstrip("\n")


__all__ = ["ChildDied", "Supervisor", "describe_exit", "free_port", "http_ready", "require_port"]
