"""From what an API server answered to what the port raises: one rule for every adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.kube.ports import ApiError, ApiRetryable

_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Gone",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
}


def failure(
    status: int,
    reason: str | None,
    message: str,
    details: Mapping[str, Any] | None = None,
    *,
    retry_after: float | None = None,
) -> ApiError | ApiRetryable:
    """The exception for a refusal; `retry_after` in seconds defaults to the details' `retryAfterSeconds`."""
    if status in _RETRYABLE:
        causes = "; ".join(str(c.get("message", "")) for c in (details or {}).get("causes") or ())
        if retry_after is None:
            retry_after = (details or {}).get("retryAfterSeconds")
        text = f"{status} {reason or 'error'}: {message}" + (f" ({causes})" if causes else "")
        return ApiRetryable(text, status=status, retry_after=retry_after)
    return ApiError(status, reason or _REASONS.get(status, "Unknown"), message, details)


def failure_of_body(status: int, body: Any, *, retry_after: float | None = None) -> ApiError | ApiRetryable:
    """As `failure`, from an HTTP answer whose body is a `Status` object or anything else."""
    if isinstance(body, dict) and body.get("kind") == "Status":
        return failure(
            int(body.get("code") or status),
            body.get("reason"),
            body.get("message") or "no message",
            body.get("details"),
            retry_after=retry_after,
        )
    message = (
        "the server could not find the requested resource"
        if status == 404
        else f"unexpected answer {str(body)[:200]!r}"
    )
    return failure(status, None, message, retry_after=retry_after)
