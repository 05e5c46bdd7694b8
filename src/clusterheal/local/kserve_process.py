"""One InferenceService's processes: the one that serves, and while rolling the one that comes next."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlparse

from clusterheal.errors import InvalidInput, PermanentError
from clusterheal.kube.ports import Manifest
from clusterheal.local.forward import Forwarder
from clusterheal.local.kserve_status import PredictorStatus
from clusterheal.local.processes import Child, ChildDied, ChildSpec, log_tail, spawn, stop

log = logging.getLogger(__name__)

Publish = Callable[[PredictorStatus], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How processes are started: `logs` and ready files go to `workdir`, `marker` lets a supervisor find them."""

    workdir: Path
    marker: str
    load_timeout: timedelta
    grace_seconds: float = 5.0


@dataclass(kw_only=True)
class _Running:
    child: Child
    storage_uri: str
    watcher: asyncio.Task[None]


class Predictor:
    """Follows the newest spec of one InferenceService. `update` returns when that spec serves or has failed."""

    def __init__(self, key: str, launch: Launch, publish: Publish, on_death: Callable[[str, ChildDied], None]) -> None:
        self._key = key
        self._launch = launch
        self._publish = publish
        self._on_death = on_death
        self._http, self._grpc = Forwarder(), Forwarder()
        self._running: _Running | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._starts = 0
        self._status = PredictorStatus(generation=0)

    async def open(self) -> None:
        """Take the addresses that stay for the InferenceService's lifetime."""
        await self._http.start()
        await self._grpc.start()
        address = f"http://127.0.0.1:{self._http.port}"
        self._status = replace(self._status, url=address, grpc_url=f"127.0.0.1:{self._grpc.port}")

    async def close(self) -> None:
        """End the processes, those on their way out too, and give the addresses up."""
        await self._retire(self._running)
        self._running = None
        await asyncio.gather(*self._retiring)
        await self._http.close()
        await self._grpc.close()

    async def update(self, service: Manifest) -> None:
        """Serve what `service` asks for; the old process goes only when the new one is ready."""
        generation = int(service["metadata"].get("generation", 0))
        try:
            uri = storage_uri(service)
        except InvalidInput as exc:
            await self._tell(generation=generation, loading=False, failure=str(exc), invalid_spec=True)
            return
        if self._running is not None and self._running.storage_uri == uri:
            await self._tell(generation=generation, loading=False, failure=None, exit_code=None, invalid_spec=False)
            return
        await self._tell(generation=generation, loading=True, failure=None, exit_code=None, invalid_spec=False)
        child: Child | None = None
        try:
            child, ports = await self._start(uri)
        except PermanentError as exc:
            log.warning("model does not load", extra={"service": self._key, "reason": str(exc)})
            code = exc.exit_code if isinstance(exc, LoadFailed) else None
            await self._tell(loading=False, failure=str(exc), exit_code=code)
            return
        before = self._running
        watcher = asyncio.create_task(self._watch(child), name=f"watch {self._key}")
        self._running = _Running(child=child, storage_uri=uri, watcher=watcher)
        self._http.retarget(ports[0])
        self._grpc.retarget(ports[1])
        retiring = asyncio.create_task(self._retire(before), name=f"retire {self._key}")
        self._retiring.add(retiring)  # a cancelled update leaves it to `close`
        retiring.add_done_callback(self._retiring.discard)
        await self._tell(serving=True, loading=False)
        await asyncio.shield(retiring)
        log.info("serving", extra={"service": self._key, "uri": uri, "pid": child.pid})

    async def _start(self, uri: str) -> tuple[Child, tuple[int, int]]:
        """A process that answers, and its ports.

        Raises:
            PermanentError: it ended, or was not ready in time; nothing is left of it.
        """
        self._starts += 1
        name = f"{self._key.replace('/', '-')}-{self._starts:03d}"
        ready_file = self._launch.workdir / f"{name}.ready.json"
        ready_file.unlink(missing_ok=True)
        spec = ChildSpec(
            name=name,
            argv=[
                *(sys.executable, "-m", "clusterheal.cli", "serve", "--package", str(local_path(uri))),
                *("--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "0", "--ready-file", str(ready_file)),
            ],
        )
        child = await spawn(spec, logs=self._launch.workdir, marker=self._launch.marker)
        try:
            async with asyncio.timeout(self._launch.load_timeout.total_seconds()):
                while not ready_file.exists():
                    if child.process.returncode is not None:
                        raise LoadFailed(str(child.died()), exit_code=child.process.returncode)
                    await asyncio.sleep(0.05)
            ports = json.loads(ready_file.read_text())
            return child, (int(ports["http_port"]), int(ports["grpc_port"]))
        except TimeoutError as exc:
            await stop(child, grace_seconds=0.1)
            seconds = self._launch.load_timeout.total_seconds()
            raise PermanentError(
                f"{name}: not ready within {seconds:g} s\n{log_tail(child.log_path)}".rstrip()
            ) from exc
        except BaseException:
            await asyncio.shield(stop(child, grace_seconds=0.1))
            raise
        finally:
            ready_file.unlink(missing_ok=True)

    async def _watch(self, child: Child) -> None:
        await child.process.wait()
        if child.stopping or self._running is None or self._running.child is not child:
            return
        self._running = None
        self._http.retarget(None)
        self._grpc.retarget(None)
        death = child.died()
        log.error("model server died", extra={"service": self._key, "pid": child.pid, "reason": str(death)})
        await self._tell(serving=False, failure=str(death), exit_code=child.process.returncode)
        self._on_death(self._key, death)

    async def _retire(self, running: _Running | None) -> None:
        if running is not None:
            await stop(running.child, grace_seconds=self._launch.grace_seconds)
            await running.watcher

    async def _tell(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]
        await self._publish(self._status)


class LoadFailed(PermanentError):
    """A model server ended before it was ready."""

    def __init__(self, message: str, *, exit_code: int | None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def storage_uri(service: Manifest) -> str:
    """`spec.predictor.model.storageUri`.

    Raises:
        InvalidInput: there is none, or it is not on this machine.
    """
    model = ((service.get("spec") or {}).get("predictor") or {}).get("model") or {}
    uri = model.get("storageUri")
    if not isinstance(uri, str) or urlparse(uri).scheme != "file":
        raise InvalidInput(f"spec.predictor.model.storageUri must be a file:// address on this machine, got {uri!r}")
    return uri


def local_path(uri: str) -> Path:
    """The folder that a file:// address names."""
    return Path(unquote(urlparse(uri).path))
