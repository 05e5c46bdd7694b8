"""Who may ask what: TokenReview for tokens, SubjectAccessReview for rights, a shared token for Alertmanager."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from clusterheal.clock import Clock
from clusterheal.engine.names import GROUP
from clusterheal.errors import ClusterhealError
from clusterheal.kube.ports import Cluster
from clusterheal.kube.resources import SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS

CACHE_SECONDS = 30.0
CACHE_SIZE = 1000
K = TypeVar("K")
V = TypeVar("V")

VERBS: Mapping[str, tuple[str, str, str]] = {
    "read": ("list", "incidents", ""),
    "report": ("create", "incidents", ""),
    "act": ("create", "incidents", "remediate"),
    "approve": ("update", "incidents", "approval"),
    "pause": ("update", "incidents", "pause"),
}
"""What a caller needs in Kubernetes RBAC: (verb, resource, subresource) in API group clusterheal.io."""


class Unauthenticated(ClusterhealError):
    """No token, or one that the cluster does not know."""


class Forbidden(ClusterhealError):
    """Known, but without the right; the message names it."""


class Unavailable(ClusterhealError):
    """The cluster could not be asked; without an answer nobody is let in."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""


class Authenticator:
    """Asks the API server, remembers answers for half a minute. Fails closed."""

    def __init__(self, cluster: Cluster, clock: Clock, *, namespace: str, anonymous: bool = False) -> None:
        self._cluster = cluster
        self._clock = clock
        self._namespace = namespace
        self._anonymous = anonymous
        self._callers: dict[str, tuple[float, Caller]] = {}
        self._rights: dict[tuple[str, tuple[str, ...], str], tuple[float, str]] = {}

    async def require(self, authorization: str | None, right: str) -> Caller:
        """The caller, if it may do what `right` (a key of `VERBS`) names.

        Raises:
            Unauthenticated, Forbidden, Unavailable.
        """
        if authorization is None and self._anonymous:
            return Caller(name="anonymous")
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("expected a header 'Authorization: Bearer <service account token>'")
        caller = await self._caller(token.strip())
        denied = await self._denied(caller, right)
        if denied:
            raise Forbidden(denied)
        return caller

    async def _caller(self, token: str) -> Caller:
        key, now = hashlib.sha256(token.encode()).hexdigest(), self._clock.monotonic()
        known = self._callers.get(key)
        if known is not None and now - known[0] < CACHE_SECONDS:
            return known[1]
        review = {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": TOKEN_REVIEWS.kind,
            "metadata": {},
            "spec": {"token": token},
        }
        try:
            status = (await self._cluster.create(TOKEN_REVIEWS, review)).get("status") or {}
        except ClusterhealError as exc:
            raise Unavailable(f"the API server did not review the token: {exc}") from exc
        if not status.get("authenticated"):
            raise Unauthenticated("the cluster does not know this token, or it has expired")
        user = status.get("user") or {}
        groups = tuple(user.get("groups") or ())
        caller = Caller(name=user.get("username", ""), groups=groups, uid=user.get("uid", ""))
        _remember(self._callers, key, (now, caller))
        return caller

    async def _denied(self, caller: Caller, right: str) -> str:
        """Empty when allowed, else which right is missing."""
        key, now = (caller.name, caller.groups, right), self._clock.monotonic()
        known = self._rights.get(key)
        if known is not None and now - known[0] < CACHE_SECONDS:
            return known[1]
        verb, resource, subresource = VERBS[right]
        attributes = {"group": GROUP, "resource": resource, "verb": verb, "namespace": self._namespace}
        if subresource:
            attributes["subresource"] = subresource
        review = {
            "apiVersion": SUBJECT_ACCESS_REVIEWS.api_version,
            "kind": SUBJECT_ACCESS_REVIEWS.kind,
            "metadata": {},
            "spec": {
                "user": caller.name,
                "groups": list(caller.groups),
                "uid": caller.uid,
                "resourceAttributes": attributes,
            },
        }
        try:
            status = (await self._cluster.create(SUBJECT_ACCESS_REVIEWS, review)).get("status") or {}
        except ClusterhealError as exc:
            raise Unavailable(f"the API server did not review the access: {exc}") from exc
        what = f"{resource}/{subresource}" if subresource else resource
        missing = f"{caller.name} may not {verb} {what}.{GROUP} in namespace {self._namespace}"
        answer = "" if status.get("allowed") and not status.get("denied") else missing
        _remember(self._rights, key, (now, answer))
        return answer


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    if len(cache) >= CACHE_SIZE:
        cache.pop(next(iter(cache)))
    cache[key] = value


class SharedToken:
    """Alertmanager's token, read again for each request since Secrets rotate."""

    def __init__(self, path: Path | None, *, anonymous: bool = False) -> None:
        self._path = path
        self._anonymous = anonymous

    def require(self, authorization: str | None) -> None:
        """Raises:
        Unauthenticated: no or another token. Unavailable: no token is configured or its file cannot be read.
        """
        if self._path is None:
            if self._anonymous:
                return
            raise Unavailable("no alert token is configured: set engine.alert_token_file")
        try:
            expected = self._path.read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise Unavailable(f"the alert token file cannot be read: {exc}") from exc
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not expected or not hmac.compare_digest(token.strip(), expected):
            raise Unauthenticated("expected the shared alert token as 'Authorization: Bearer <token>'")
