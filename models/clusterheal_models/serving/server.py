"""The real KServe `ModelServer` over sealed packages: V2 REST and gRPC."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from clusterheal.contracts import ModelPackage
from clusterheal.errors import InvalidInput, PermanentError
from clusterheal_models.serving.runtime import Device, Runtime, load_runtime

log = logging.getLogger(__name__)

GRACE_SECONDS = 10  # for requests in flight on SIGTERM; Kubernetes allows 30 by default
MAX_REQUEST_BYTES = 64 * 1024 * 1024

Listening = Callable[[int, int], None]
"""Called once with the HTTP and the gRPC port when both accept requests."""


def serve(
    packages: Sequence[ModelPackage],
    host: str = "127.0.0.1",
    http_port: int = 8080,
    grpc_port: int = 8081,
    *,
    threads: int = 1,
    device: Device = "auto",
    max_request_bytes: int = MAX_REQUEST_BYTES,
    on_listening: Listening | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Port 0 picks a free one.

    Every package is loaded and tried before the first port opens: a server that listens can answer.

    Raises:
        InvalidInput: no package, or two with one name.
        PackageInvalid: a package whose graph is refused or does not answer its sample request.
        PermanentError: a port is taken.
    """
    names = [p.name for p in packages]
    if not names or len(set(names)) != len(names):
        raise InvalidInput(f"expected at least one package and one per model name, got {names}")
    runtimes = [load_runtime(package, threads=threads, device=device) for package in packages]
    listener = _listen(host, http_port)
    try:
        _run(runtimes, listener, grpc_port, max_request_bytes=max_request_bytes, on_listening=on_listening)
    finally:
        listener.close()


def import_adapter() -> Any:
    """The module over kserve, which parses `sys.argv` as it is imported: it must not see our flags.

    kserve brings the Kubernetes client, which tries for an optional validator (3 s where it is installed) that a
    model server has no use for.
    """
    argv, sys.argv = sys.argv, sys.argv[:1]
    unwanted = "kubernetes_validate" not in sys.modules
    if unwanted:
        sys.modules["kubernetes_validate"] = None  # type: ignore[assignment]  # makes its import fail, and at once
    try:
        from clusterheal_models.serving import adapter
    finally:
        sys.argv = argv
        if unwanted:
            del sys.modules["kubernetes_validate"]
    return adapter


def _run(
    runtimes: Sequence[Runtime],
    listener: socket.socket,
    grpc_port: int,
    *,
    max_request_bytes: int,
    on_listening: Listening | None,
) -> None:
    adapter = import_adapter()
    from kserve import model_server
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as stubs
    from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
    from kserve.protocol.grpc.servicer import InferenceServicer

    host, http_port = listener.getsockname()[:2]

    class Server(model_server.ModelServer):  # type: ignore[misc]  # kserve is not typed
        """Listens on one address, where KServe's would listen on all, and on ports that may be 0."""

        async def _serve(self) -> None:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=os.cpu_count() or 1))
            for coroutine in self.servers:  # KServe's own, bound to 0.0.0.0
                coroutine.close()
            self._rest_server.create_application()
            grpc_server, port = await _start_grpc(self)
            rest = asyncio.create_task(self._rest_server._server.serve(sockets=[listener]))
            await _until_listening(self._rest_server._server, rest)
            names = ",".join(f"{r.name}@{r.version}" for r in runtimes)
            log.info("serving", extra={"models": names, "host": host, "http_port": http_port, "grpc_port": port})
            if on_listening is not None:
                on_listening(http_port, port)
            try:
                await rest
            finally:
                await grpc_server.stop(grace=GRACE_SECONDS)

    async def _start_grpc(server: Any) -> tuple[Any, int]:
        from grpc import aio

        grpc_server = aio.server(
            interceptors=(ExceptionToStatusInterceptor(),),
            options=[
                ("grpc.so_reuseport", 0),  # else a taken port would be shared, silently
                ("grpc.max_receive_message_length", max_request_bytes),
                ("grpc.max_send_message_length", -1),
            ],
        )
        servicer = InferenceServicer(server.dataplane, server.model_repository_extension)
        stubs.add_GRPCInferenceServiceServicer_to_server(servicer, grpc_server)
        try:
            port = grpc_server.add_insecure_port(f"{host}:{grpc_port}")
        except RuntimeError as exc:
            raise _taken(host, grpc_port, "gRPC", exc) from exc
        await grpc_server.start()
        return grpc_server, port

    _quiet_logs()
    server = Server(http_port=http_port, grpc_port=grpc_port, enable_latency_logging=False, grace_period=GRACE_SECONDS)
    server.dataplane = adapter.BinaryDataPlane(model_registry=server.registered_models)
    server.model_repository_extension = adapter.FixedModels(model_registry=server.registered_models)
    models = {runtime.name: adapter.PackagedModel(runtime) for runtime in runtimes}
    for model in models.values():
        server.register_model(model)
    adapter.extend_app(model_server.app, models, max_request_bytes=max_request_bytes)
    server.start([])


async def _until_listening(server: Any, task: asyncio.Task[None]) -> None:
    """Wait for uvicorn's start; it has no event for it, only a flag."""
    while not server.started and not task.done():
        await asyncio.sleep(0.005)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, or asyncio leaves Nagle's algorithm on: 40 ms for every answer of two packets.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        raise _taken(host, port, "HTTP", exc) from exc
    return listener


def _taken(host: str, port: int, what: str, exc: Exception) -> PermanentError:
    return PermanentError(f"{what} port {host}:{port} cannot be listened on: {exc}; choose another, 0 picks a free one")


def _quiet_logs() -> None:
    """Use our handlers instead of KServe's, no line per request, no advice to KServe's authors."""
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")
    for name in ("kserve", "kserve.trace", "uvicorn.access"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    for name in ("kserve.trace", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
