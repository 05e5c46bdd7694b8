"""The engine's HTTP face. Every route under /api needs a token and a right; nothing that acts answers without them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Annotated, Any

import orjson
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from clusterheal import __version__
from clusterheal.engine.api_models import (
    AnomalyIn,
    AnomalyOut,
    DecisionIn,
    IncidentList,
    PauseIn,
    PauseOut,
    Problem,
    RemediateIn,
    RemediateOut,
    StatusOut,
    WorkflowOut,
)
from clusterheal.engine.auth import Authenticator, Caller, Forbidden, SharedToken, Unauthenticated, Unavailable
from clusterheal.engine.codec import encode
from clusterheal.engine.limits import Limits
from clusterheal.engine.service import Conflict, NotFound, Service
from clusterheal.errors import ClusterhealError, InvalidInput, RetryableError
from clusterheal.kube.ports import ApiError

log = logging.getLogger(__name__)

MAX_BODY = 2 * 1024 * 1024  # 1,000 alerts with long annotations stay below this
PER_SECOND = 50.0
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 404, 409, 413, 422, 429, 500, 502, 503)
}
NOTIFICATION = {
    "type": "object",
    "required": ["version", "alerts"],
    "properties": {"version": {"const": "4"}, "alerts": {"type": "array", "items": {"type": "object"}}},
}
OPEN = frozenset({"/alerts", "/health", "/healthz", "/readyz", "/metrics"})

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (Unauthenticated, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Conflict, 409),
    (Unavailable, 503),
    (InvalidInput, 422),
    (RetryableError, 503),
    (ApiError, 502),
    (ClusterhealError, 500),
)


def build_api(service: Service, authenticator: Authenticator, alert_token: SharedToken) -> FastAPI:
    """All routes; `app.state.service` is the service."""
    app = FastAPI(
        title="Self-Healing Platform: coordination engine",
        version=__version__,
        description="Signals in, incidents out. Rights are Kubernetes RBAC on incidents.clusterheal.io.",
        responses=REFUSALS,
    )
    app.state.service = service
    app.add_middleware(Limits, clock=service.engine.parts.clock, max_bytes=MAX_BODY, per_second=PER_SECOND, exempt=OPEN)
    app.add_exception_handler(ClusterhealError, _explain)
    app.add_exception_handler(RequestValidationError, _refuse)
    app.add_exception_handler(Exception, _hide)
    _health(app, service)
    _webhook(app, service, alert_token)
    _incidents(app, service, authenticator)
    _acting(app, service, authenticator)
    _control(app, service, authenticator)
    return app


async def _explain(request: Request, exc: Exception) -> JSONResponse:
    status = next(code for kind, code in _STATUS if isinstance(exc, kind))
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(status)
    if status >= 500:
        log.warning("request failed", extra={"path": request.url.path, "error": str(exc)})
    return JSONResponse({"detail": str(exc)}, status_code=status, headers=headers)


async def _refuse(_: Request, exc: Exception) -> JSONResponse:
    """Each finding in one line: where, and what was expected."""
    assert isinstance(exc, RequestValidationError)
    found = (f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in exc.errors())
    return JSONResponse({"detail": "; ".join(found)}, status_code=422)


async def _hide(request: Request, exc: Exception) -> JSONResponse:
    """No stack traces to callers; the log has them."""
    log.error("request failed", extra={"path": request.url.path}, exc_info=exc)
    return JSONResponse({"detail": "internal error; see the engine's log"}, status_code=500)


def _allowed(authenticator: Authenticator, right: str) -> Callable[..., Awaitable[Caller]]:
    async def check(authorization: Annotated[str | None, Header()] = None) -> Caller:
        return await authenticator.require(authorization, right)

    return check


def _health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"])
    @app.get("/health", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses={503: {"model": dict[str, Any], "description": "not yet"}})
    async def readyz(response: Response) -> dict[str, Any]:
        """Everything needed has been read once; standbys are ready, too."""
        missing = service.engine.cache.missing
        response.status_code = 503 if missing else 200
        return {"ready": not missing, "missing": missing, "leading": service.engine.elector.leading}

    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(generate_latest(service.engine.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _webhook(app: FastAPI, service: Service, token: SharedToken) -> None:
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": NOTIFICATION}}}}

    @app.post("/alerts", tags=["signals"], openapi_extra=body)
    async def alerts(request: Request, authorization: Annotated[str | None, Header()] = None) -> dict[str, int]:
        """Alertmanager's webhook, payload version 4. 200 means stored."""
        token.require(authorization)
        try:
            payload = orjson.loads(await request.body())
        except orjson.JSONDecodeError as exc:
            raise InvalidInput(f"expected JSON: {exc}") from exc
        taken = await service.alerts(payload)
        return {"signals": len(taken), "stored": sum(1 for t in taken if t.outcome == "stored")}


def _incidents(app: FastAPI, service: Service, authenticator: Authenticator) -> None:
    read = Depends(_allowed(authenticator, "read"))

    @app.get("/api/v1/incidents", tags=["incidents"], dependencies=[read])
    async def incidents(
        status: Annotated[str | None, Query(description="a state, `open` or `ended`", max_length=30)] = None,
        severity: Annotated[str | None, Query(max_length=30)] = None,
        namespace: Annotated[str | None, Query(max_length=63)] = None,
        kind: Annotated[str | None, Query(max_length=63)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> IncidentList:
        """Newest first."""
        found = service.incidents(status=status, severity=severity, namespace=namespace, kind=kind)
        page = [encode(r) for r in found[offset : offset + limit]]
        end = offset + len(page)
        return IncidentList(items=page, total=len(found), next_offset=end if end < len(found) else None)

    @app.get("/api/v1/anomalies/{name}", tags=["signals"], dependencies=[read])
    @app.get("/api/v1/incidents/{name}", tags=["incidents"], dependencies=[read])
    async def incident(name: str) -> dict[str, Any]:
        """One incident: signals, diagnosis, plan, guards, outcome."""
        return service.incident(name)

    @app.get("/api/v1/workflows/{name}", tags=["incidents"], dependencies=[read])
    async def workflow(name: str) -> WorkflowOut:
        """The steps of an incident's plan."""
        return service.workflow(name)


def _acting(app: FastAPI, service: Service, authenticator: Authenticator) -> None:
    # As defaults, not in `Annotated`: annotations are text, and FastAPI reads local names in them as query parameters.
    may_report, may_act, may_approve = (Depends(_allowed(authenticator, r)) for r in ("report", "act", "approve"))

    @app.post("/api/v1/anomalies", tags=["signals"], status_code=202)
    async def report(body: AnomalyIn, caller: Caller = may_report) -> AnomalyOut:
        """Report an anomaly."""
        return await service.report(body, caller.name)

    @app.post("/api/v1/remediate", tags=["actions"])
    async def remediate(body: RemediateIn, caller: Caller = may_act) -> RemediateOut:
        """Ask for an action; a dry run unless said otherwise."""
        return await service.remediate(body, caller.name)

    @app.post("/api/v1/incidents/{name}/approve", tags=["actions"])
    async def approve(name: str, body: DecisionIn | None = None, caller: Caller = may_approve) -> dict[str, Any]:
        """Agree to the plan."""
        return await service.resolve(name, "approve", body.plan_id if body else None, caller.name)

    @app.post("/api/v1/incidents/{name}/reject", tags=["actions"])
    async def reject(name: str, body: DecisionIn | None = None, caller: Caller = may_approve) -> dict[str, Any]:
        """Refuse the plan; the incident ends."""
        return await service.resolve(name, "reject", body.plan_id if body else None, caller.name)


def _control(app: FastAPI, service: Service, authenticator: Authenticator) -> None:
    read, may_pause = (Depends(_allowed(authenticator, r)) for r in ("read", "pause"))

    @app.get("/api/v1/status", tags=["control"], dependencies=[read])
    async def status() -> StatusOut:
        """This replica, its connections and what is open."""
        return service.status()

    @app.get("/api/v1/pause", tags=["control"], dependencies=[read])
    async def paused() -> PauseOut:
        """Whether all automation is paused."""
        return service.paused()

    @app.post("/api/v1/pause", tags=["control"])
    async def pause(body: PauseIn, caller: Caller = may_pause) -> PauseOut:
        """Pause all automation until a time."""
        until = body.until if body.until is None or body.until.tzinfo else body.until.replace(tzinfo=UTC)
        return await service.pause(minutes=body.minutes, until=until, reason=body.reason, by=caller.name)

    @app.delete("/api/v1/pause", tags=["control"])
    async def unpause(caller: Caller = may_pause) -> PauseOut:
        """Lift the pause."""
        log.warning("pause lifted", extra={"by": caller.name})
        return await service.unpause()
