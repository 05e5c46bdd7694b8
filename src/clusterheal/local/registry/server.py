"""Serve the development registry over HTTP.

A development subset: the calls that the `model-registry` client makes for models, versions and artifacts, under both
API prefixes (`v1alpha3`, which OpenShift AI <= 3.5 serves, and `v1`). No experiments, no filter queries, no
authentication. For anything shared, run the real Model Registry.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from clusterheal.errors import PermanentError
from clusterheal.local.registry.store import NO_PARENT, Body, Duplicate, Kind, ResourceStore

PREFIXES = ("/api/model_registry/v1alpha3", "/api/model_registry/v1")
DEFAULT_PAGE = 100

_SPACES: dict[str, tuple[Kind, str]] = {
    "registered_models": ("registered_model", "registered_model"),
    "model_versions": ("model_version", "model_version"),
    "model_artifacts": ("model_artifact", "model_artifact"),
}


def create_app(store: ResourceStore) -> Starlette:
    """The ASGI application; wrap it in a middleware to inject faults in a test."""
    api = _routes(store)
    return Starlette(
        routes=[Mount(prefix, routes=api) for prefix in PREFIXES],
        exception_handlers={HTTPException: _problem, Duplicate: _conflict},
    )


def _problem(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return JSONResponse({"code": str(exc.status_code), "message": exc.detail}, status_code=exc.status_code)


def _conflict(_: Request, exc: Exception) -> Response:
    return JSONResponse({"code": "409", "message": str(exc)}, status_code=409)


def _routes(store: ResourceStore) -> list[BaseRoute]:
    routes: list[BaseRoute] = []
    for collection, (kind, single) in _SPACES.items():
        routes += _resource_routes(store, collection, kind, single)
    routes += _child_routes(store, "/registered_models/{parent:int}/versions", "model_version", "registered_model")
    routes += _child_routes(store, "/model_versions/{parent:int}/artifacts", "model_artifact", "model_version")
    return routes


def _resource_routes(store: ResourceStore, collection: str, kind: Kind, single: str) -> list[BaseRoute]:
    async def create(request: Request) -> Response:
        body = await _body(request)
        parent = NO_PARENT
        if kind == "model_version":
            parent = _existing(store, "registered_model", body.get("registeredModelId"))
        return JSONResponse(store.create(kind, body, parent_id=parent), status_code=201)

    async def page(request: Request) -> Response:
        return _page(store, kind, request, None)

    async def find(request: Request) -> Response:
        query = request.query_params
        name, external_id = query.get("name"), query.get("externalId")
        if not name and not external_id:
            raise HTTPException(400, "expected the query parameter name or externalId")
        parent = int(query.get("parentResourceId") or NO_PARENT)
        return _found(store.find(kind, name=name, external_id=external_id, parent_id=parent), single)

    async def get(request: Request) -> Response:
        return _found(store.get(kind, request.path_params["id"]), single)

    async def patch(request: Request) -> Response:
        return _found(store.update(kind, request.path_params["id"], await _body(request, name_required=False)), single)

    return [
        Route(f"/{collection}", create, methods=["POST"]),
        Route(f"/{collection}", page, methods=["GET"]),
        Route(f"/{single}", find, methods=["GET"]),
        Route(f"/{collection}/{{id:int}}", get, methods=["GET"]),
        Route(f"/{collection}/{{id:int}}", patch, methods=["PATCH"]),
    ]


def _child_routes(store: ResourceStore, path: str, kind: Kind, parent_kind: Kind) -> list[BaseRoute]:
    async def create(request: Request) -> Response:
        parent = _existing(store, parent_kind, request.path_params["parent"])
        body = await _body(request)
        if kind == "model_artifact" and body.get("id"):  # the client's "upsert": an id means update
            return _found(store.update(kind, int(body["id"]), body), kind)
        if kind == "model_version":
            body["registeredModelId"] = str(parent)
        return JSONResponse(store.create(kind, body, parent_id=parent), status_code=201)

    async def page(request: Request) -> Response:
        return _page(store, kind, request, _existing(store, parent_kind, request.path_params["parent"]))

    return [Route(path, create, methods=["POST"]), Route(path, page, methods=["GET"])]


def _existing(store: ResourceStore, kind: Kind, given: Any) -> int:
    if not str(given).isdigit() or store.get(kind, int(given)) is None:
        raise HTTPException(404, f"no {kind} with id {given!r}")
    return int(given)


def _found(body: Body | None, what: str) -> Response:
    if body is None:
        raise HTTPException(404, f"no such {what}")
    return JSONResponse(body)


def _page(store: ResourceStore, kind: Kind, request: Request, parent: int | None) -> Response:
    query = request.query_params
    try:
        size, offset = int(query.get("pageSize") or DEFAULT_PAGE), int(query.get("nextPageToken") or 0)
    except ValueError as exc:
        raise HTTPException(400, f"pageSize and nextPageToken must be numbers: {exc}") from exc
    items, following = store.list(
        kind,
        parent_id=parent,
        page_size=size,
        offset=offset,
        order_by=query.get("orderBy", "ID"),
        descending=query.get("sortOrder") == "DESC",
    )
    token = "" if following is None else str(following)
    return JSONResponse({"items": items, "nextPageToken": token, "pageSize": size, "size": len(items)})


async def _body(request: Request, *, name_required: bool = True) -> Body:
    try:
        body = json.loads(await request.body())
    except json.JSONDecodeError as exc:
        raise HTTPException(400, f"body is not JSON: {exc}") from exc
    if not isinstance(body, dict) or (name_required and not body.get("name")):
        raise HTTPException(400, "expected a JSON object with a name")
    return body


def now_ms() -> int:
    """Milliseconds since the epoch on this machine."""
    return time.time_ns() // 1_000_000


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one.

    Raises:
        PermanentError: the port is taken or may not be used.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        raise PermanentError(f"cannot listen on {host}:{port}: {exc.strerror}; choose another port or 0") from exc
    listener.listen(128)
    return listener


@contextmanager
def running(app: ASGIApp, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve `app` from a thread of this process; yields the root URL.

    Raises:
        PermanentError: the port cannot be listened on, or the server did not start within 10 seconds.
    """
    listener = bind(host, port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True, name="registry-server")
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise PermanentError(f"the registry server did not start on {host}:{port}")
        time.sleep(0.01)
    try:
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def main(arguments: list[str] | None = None) -> None:
    """`python -m clusterheal.local.registry.server --db FILE --port N`; prints the URL, runs until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, required=True, help="SQLite file, created when absent")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8085, help="0 picks a free port")
    given = parser.parse_args(arguments)
    given.db.parent.mkdir(parents=True, exist_ok=True)
    listener = bind(given.host, given.port)
    print(f"http://{given.host}:{listener.getsockname()[1]}", flush=True)
    store = ResourceStore(given.db, now_ms=now_ms)
    try:
        config = uvicorn.Config(create_app(store), log_level="warning", access_log=False, lifespan="off")
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        store.close()


if __name__ == "__main__":
    main()
