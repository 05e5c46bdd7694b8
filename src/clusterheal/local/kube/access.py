"""Who asks and what they may do: a token table and RBAC-like rules, given at start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clusterheal.kube.ports import Manifest

MASTERS = "system:masters"
_ANY = ("*",)


@dataclass(frozen=True, kw_only=True)
class User:
    name: str
    groups: tuple[str, ...] = ("system:authenticated",)


ADMIN = User(name="emulator-admin", groups=(MASTERS, "system:authenticated"))
ANONYMOUS = User(name="system:anonymous", groups=("system:unauthenticated",))


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Grants `verbs` on `resources` (`pods`, `pods/eviction`, `*`) of `groups` to users or groups.

    `namespace` `None` grants everywhere; `names` empty grants on every name.
    """

    subjects: tuple[str, ...]
    verbs: tuple[str, ...] = _ANY
    api_groups: tuple[str, ...] = _ANY
    resources: tuple[str, ...] = _ANY
    names: tuple[str, ...] = ()
    namespace: str | None = None
    paths: tuple[str, ...] = ()

    def grants(self, user: User, ask: Access) -> bool:
        if user.name not in self.subjects and not set(user.groups) & set(self.subjects):
            return False
        if ask.path is not None:
            return _has(self.verbs, ask.verb) and _has(self.paths, ask.path)
        return (
            (self.namespace is None or self.namespace == ask.namespace)
            and _has(self.verbs, ask.verb)
            and _has(self.api_groups, ask.api_group)
            and _has(self.resources, ask.resource)
            and (not self.names or ask.name in self.names)
        )


def _has(allowed: Sequence[str], value: str) -> bool:
    return "*" in allowed or value in allowed


@dataclass(frozen=True, kw_only=True)
class Access:
    """One question; `resource` carries a subresource as `pods/eviction`; `path` is set for non-resource URLs."""

    verb: str
    api_group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""
    path: str | None = None


@dataclass(kw_only=True)
class AccessControl:
    """`tokens` maps bearer tokens to users. With `enforce` off everybody may do everything."""

    tokens: Mapping[str, User] = field(default_factory=dict)
    rules: Sequence[Rule] = ()
    enforce: bool = False

    def authenticate(self, token: str | None) -> User | None:
        """The token's user, an anonymous or (when nothing is enforced) the administrator; `None` for a bad token."""
        if token:
            return self.tokens.get(token) or (None if self.enforce else ADMIN)
        return ANONYMOUS if self.enforce else ADMIN

    def allows(self, user: User, ask: Access) -> bool:
        return MASTERS in user.groups or any(rule.grants(user, ask) for rule in self.rules)

    def review_token(self, review: Manifest) -> Manifest:
        """Fill in a TokenReview's status."""
        user = self.tokens.get((review.get("spec") or {}).get("token") or "")
        if user is None:
            status: Manifest = {"user": {}, "error": "[invalid bearer token, token lookup failed]"}
        else:
            status = {
                "authenticated": True,
                "user": {"username": user.name, "uid": f"uid-{user.name}", "groups": list(user.groups)},
                "audiences": (review.get("spec") or {}).get("audiences") or ["https://kubernetes.default.svc"],
            }
        return {**review, "status": status}

    def review_access(self, review: Manifest, asker: User | None = None) -> Manifest:
        """Fill in a SubjectAccessReview's status; `asker` answers for a SelfSubjectAccessReview."""
        spec = review.get("spec") or {}
        user = asker or User(name=spec.get("user") or "", groups=tuple(spec.get("groups") or ()))
        ask = _question(spec)
        allowed = self.allows(user, ask)
        status: Manifest = {"allowed": allowed}
        if not allowed:
            status["reason"] = ""
        return {**review, "status": status}


def _question(spec: Manifest) -> Access:
    if attributes := spec.get("nonResourceAttributes"):
        return Access(verb=attributes.get("verb", ""), path=attributes.get("path", ""))
    attributes = spec.get("resourceAttributes") or {}
    resource = attributes.get("resource", "")
    if attributes.get("subresource"):
        resource = f"{resource}/{attributes['subresource']}"
    return Access(
        verb=attributes.get("verb", ""),
        api_group=attributes.get("group", ""),
        resource=resource,
        namespace=attributes.get("namespace", ""),
        name=attributes.get("name", ""),
    )


def refusal(user: User, ask: Access) -> str:
    """The server's sentence for a missing permission."""
    scope = f' in the namespace "{ask.namespace}"' if ask.namespace else " at the cluster scope"
    return f'User "{user.name}" cannot {ask.verb} resource "{ask.resource}" in API group "{ask.api_group}"{scope}'
