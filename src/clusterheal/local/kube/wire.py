"""Reading requests: URL paths, query parameters, bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
import yaml

from clusterheal.kube.ports import Manifest, Resource
from clusterheal.local.kube import failures
from clusterheal.local.kube.api import Query
from clusterheal.local.kube.kinds import Catalogue, ResourceType

_NAMESPACE_SUBRESOURCES = ("status", "finalize")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a path names; `name` "" is the collection."""

    kind: ResourceType
    namespace: str | None
    name: str = ""
    subresource: str = ""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a path means, whether or not it is served. The resource's kind is not known from a path."""

    resource: Resource
    namespace: str | None
    name: str = ""
    subresource: str = ""
    rest: tuple[str, ...] = ()


def asked_of(path: str) -> Asked:
    """
    Raises:
        ApiError: 404, the path is none of a resource.
    """
    parts = [unquote(p) for p in path.strip("/").split("/")]
    if parts[0] == "api" and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise failures.unknown_path()
    namespace: str | None = None
    own = group == "" and len(rest) == 3 and rest[2] in _NAMESPACE_SUBRESOURCES
    if rest[0] == "namespaces" and len(rest) >= 3 and not own:
        namespace, rest = rest[1], rest[2:]
    name, sub = (*rest[1:], "", "")[:2]
    resource = Resource(group=group, version=version, plural=rest[0], kind="")
    return Asked(resource=resource, namespace=namespace, name=name, subresource=sub, rest=tuple(rest[3:]))


def target_of(asked: Asked, catalogue: Catalogue) -> Target:
    """
    Raises:
        ApiError: 404, nothing is served there.
    """
    r = asked.resource
    kind = catalogue.find(r.group, r.version, r.plural)
    if kind is None or asked.rest or (asked.namespace is not None and not kind.resource.namespaced):
        raise failures.unknown_path()
    return Target(kind=kind, namespace=asked.namespace, name=asked.name, subresource=asked.subresource)


@dataclass(frozen=True, kw_only=True)
class HttpRequest:
    """One request, read whole. Header names are lower case."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, scope: Mapping[str, Any], body: bytes) -> HttpRequest:
        return cls(
            method=scope["method"],
            path=scope["raw_path"].decode() if scope.get("raw_path") else scope["path"],
            params=dict(parse_qsl(scope.get("query_string", b"").decode(), keep_blank_values=True)),
            headers={k.decode().lower(): v.decode("latin-1") for k, v in scope["headers"]},
            body=body,
        )

    def flag(self, name: str) -> bool:
        return self.params.get(name, "").lower() in ("true", "1")

    @property
    def dry_run(self) -> bool:
        """
        Raises:
            ApiError: 422, anything but `All`.
        """
        value = self.params.get("dryRun", "")
        if value not in ("", "All"):
            raise failures.invalid_options("PatchOptions", failures.not_supported("dryRun", value, ["All"]))
        return value == "All"

    @property
    def manager(self) -> str:
        """`fieldManager`, else the first part of the user agent."""
        return self.params.get("fieldManager") or self.headers.get("user-agent", "unknown").split("/")[0][:128]

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "application/json").split(";")[0].strip().lower()

    @property
    def token(self) -> str | None:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    @property
    def wants_table(self) -> bool:
        return "as=table" in self.headers.get("accept", "").lower()

    def json(self) -> Any:
        """The body as JSON or YAML.

        Raises:
            ApiError: 400.
        """
        if not self.body:
            return {}
        if "protobuf" in self.content_type or "cbor" in self.content_type:
            raise failures.unsupported_media_type(["application/json", "application/yaml"])
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as first:
            if "yaml" not in self.content_type:
                raise failures.bad_request(f"the request body is not JSON: {first}") from first
        try:
            return yaml.safe_load(self.body)
        except yaml.YAMLError as exc:
            raise failures.bad_request(f"error decoding YAML: {exc}") from exc

    def query(self, target: Target) -> Query:
        limit = self.params.get("limit", "0")
        if not limit.isdigit():
            raise failures.bad_request(f'strconv.ParseInt: parsing "{limit}": invalid syntax')
        field_selector = self.params.get("fieldSelector")
        if target.name:
            field_selector = f"metadata.name={target.name}"
        return Query(
            namespace=target.namespace,
            label_selector=self.params.get("labelSelector"),
            field_selector=field_selector,
            limit=int(limit),
            continue_token=self.params.get("continue", ""),
            resource_version=self.params.get("resourceVersion", ""),
            match=self.params.get("resourceVersionMatch", ""),
        )

    def delete_options(self) -> Manifest:
        """From the body; the query's options count only where there is none, as on the server."""
        if self.body:
            return self.json() or {}
        options: Manifest = {}
        for name in ("propagationPolicy",):
            if name in self.params:
                options[name] = self.params[name]
        if self.params.get("gracePeriodSeconds", "").isdigit():
            options["gracePeriodSeconds"] = int(self.params["gracePeriodSeconds"])
        if self.dry_run:
            options["dryRun"] = ["All"]
        return options
