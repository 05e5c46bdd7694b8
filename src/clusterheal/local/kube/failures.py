"""Refusals as a Kubernetes API server words them: status, reason, message and details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clusterheal.kube.ports import ApiError, Manifest, Resource


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One finding of a 422 or a 409; `reason` is e.g. FieldValueRequired, `field` a dotted path."""

    reason: str
    message: str
    field: str

    def as_json(self) -> Manifest:
        return {"reason": self.reason, "message": self.message, "field": self.field}


def required(field: str, message: str = "") -> Cause:
    text = f"Required value: {message}" if message else "Required value"
    return Cause(reason="FieldValueRequired", message=text, field=field)


def invalid_value(field: str, value: object, message: str) -> Cause:
    return Cause(reason="FieldValueInvalid", message=f"Invalid value: {show(value)}: {message}", field=field)


def invalid_type(field: str, value: object, message: str) -> Cause:
    return Cause(reason="FieldValueTypeInvalid", message=f"Invalid value: {show(value)}: {message}", field=field)


def not_supported(field: str, value: object, allowed: Sequence[object]) -> Cause:
    listed = ", ".join(show(a) for a in allowed)
    message = f"Unsupported value: {show(value)}: supported values: {listed}"
    return Cause(reason="FieldValueNotSupported", message=message, field=field)


def forbidden_field(field: str, message: str) -> Cause:
    return Cause(reason="FieldValueForbidden", message=f"Forbidden: {message}", field=field)


def duplicate(field: str, value: object) -> Cause:
    return Cause(reason="FieldValueDuplicate", message=f"Duplicate value: {show(value)}", field=field)


def show(value: object) -> str:
    """A value as in the server's messages: strings quoted, the rest as JSON-like text."""
    if isinstance(value, str):
        return '"' + value.replace('"', '\\"') + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def qualified(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def _details(resource: Resource, name: str | None) -> Manifest:
    found: Manifest = {"kind": resource.plural}
    if name:
        found["name"] = name
    if resource.group:
        found["group"] = resource.group
    return found


def not_found(resource: Resource, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{qualified(resource)} "{name}" not found', _details(resource, name))


def unknown_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(resource: Resource, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{qualified(resource)} "{name}" already exists', _details(resource, name))


def conflict(resource: Resource, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {qualified(resource)} "{name}": {why}'
    return ApiError(409, "Conflict", message, _details(resource, name))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def stale(resource: Resource, name: str) -> ApiError:
    return conflict(resource, name, MODIFIED)


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    """422 with every finding; `resource.kind` is what the message names."""
    found = [f"{c.field}: {c.message}" for c in causes]
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    text = found[0] if len(found) == 1 else f"[{', '.join(found)}]"
    details = {**_details(resource, name), "kind": resource.kind, "causes": [c.as_json() for c in causes]}
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {text}', details)


def invalid_options(kind: str, cause: Cause) -> ApiError:
    """422 for a query parameter; `kind` is e.g. PatchOptions."""
    return invalid(Resource(group="meta.k8s.io", version="v1", plural="options", kind=kind), "", [cause])


def unprocessable(message: str) -> ApiError:
    """422 without fields, e.g. a JSON patch whose test failed."""
    details = {"causes": [{"reason": "UnexpectedServerResponse", "message": message}]}
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request", details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def forbidden(resource: Resource, name: str, why: str) -> ApiError:
    subject = f'{qualified(resource)} "{name}"' if name else qualified(resource)
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", _details(resource, name))


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    listed = ", ".join(accepted)
    message = f"the body of the request was in an unknown format - accepted media types include: {listed}"
    return ApiError(415, "UnsupportedMediaType", message)


def expired(asked: int, oldest: int) -> ApiError:
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def too_many_requests(message: str, details: Manifest) -> ApiError:
    return ApiError(429, "TooManyRequests", message, details)


def status_of(error: ApiError) -> Manifest:
    """The `Status` object that goes over the wire."""
    status: Manifest = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": error.message,
        "reason": error.reason,
        "code": error.status,
    }
    if error.details:
        status["details"] = error.details
    return status
