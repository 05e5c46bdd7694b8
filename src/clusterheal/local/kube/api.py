"""The API server's operations over the store, synchronous and without I/O: both fronts call these."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from clusterheal.clock import Clock
from clusterheal.kube.ports import ApiError, Manifest, PatchType, Resource, WatchEvent
from clusterheal.local.kube import failures
from clusterheal.local.kube.access import ADMIN, Access, AccessControl, User, refusal
from clusterheal.local.kube.custom import Definitions
from clusterheal.local.kube.kinds import Catalogue, ResourceType
from clusterheal.local.kube.objects import Stamp
from clusterheal.local.kube.removal import Remover
from clusterheal.local.kube.requests import WriteRequest
from clusterheal.local.kube.scale import scale_of
from clusterheal.local.kube.selectors import field_predicate, label_predicate
from clusterheal.local.kube.store import Store
from clusterheal.local.kube.watching import View, Watcher, event_of
from clusterheal.local.kube.writing import Writer


@dataclass(frozen=True, kw_only=True)
class Query:
    """Selection of a list or a watch. `limit` 0 = everything at once; `continue_token` as a list returned it."""

    namespace: str | None = None
    label_selector: str | None = None
    field_selector: str | None = None
    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    match: str = ""


class ApiServer:
    """One emulated API server.

    Every method raises `ApiError` as the server would answer; `user` is whom the rules are asked about. What the
    methods return belongs to the store: a front serializes or clones it before anybody may change it.
    """

    def __init__(
        self, *, clock: Clock, rng: random.Random, access: AccessControl | None = None, history: int = 10_000
    ) -> None:
        self.clock = clock
        self.access = access or AccessControl()
        self.store = Store(history=history)
        self.catalogue = Catalogue()
        self.logs: dict[tuple[str, str, str, bool], str] = {}
        self.stamp = Stamp(clock=clock, rng=rng)
        self.writer = Writer(store=self.store, catalogue=self.catalogue, stamp=self.stamp)
        self.remover = Remover(store=self.store, writer=self.writer, stamp=self.stamp)
        self.definitions = Definitions(
            store=self.store, catalogue=self.catalogue, writer=self.writer, remover=self.remover, stamp=self.stamp
        )
        for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
            self.create(self.writer.kind_by_key("namespaces"), None, {"metadata": {"name": name}})

    def kind(self, resource: Resource) -> ResourceType:
        """The served type.

        Raises:
            ApiError: 404, no such resource.
        """
        found = self.catalogue.find(resource.group, resource.version, resource.plural)
        if found is None:
            raise failures.unknown_path()
        return found

    def authorize(self, user: User, verb: str, r: Resource, namespace: str | None, name: str, sub: str = "") -> None:
        """As a server does it: before anybody looks whether there is such a type.

        Raises:
            ApiError: 403 naming the missing permission.
        """
        if not self.access.enforce:
            return
        resource = f"{r.plural}/{sub}" if sub else r.plural
        ask = Access(verb=verb, api_group=r.group, resource=resource, namespace=namespace or "", name=name)
        if not self.access.allows(user, ask):
            raise failures.forbidden(r, name, refusal(user, ask))

    def get(self, kind: ResourceType, namespace: str | None, name: str, subresource: str = "") -> Manifest:
        found = self.store.get(kind.key, namespace or "", name)
        if found is None:
            raise failures.not_found(kind.resource, name)
        if subresource == "scale":
            return scale_of(kind, found)
        if subresource and not (subresource == "status" and kind.status):
            raise failures.unknown_path()
        return _presenter(kind)(found)

    def _view(self, kind: ResourceType, query: Query) -> View:
        labels = label_predicate(query.label_selector)
        fields = field_predicate(kind.resource.kind, query.field_selector, kind.selectable_fields, custom=kind.custom)

        def selects(obj: Manifest) -> bool:
            if labels is not None and not labels(obj["metadata"].get("labels") or {}):
                return False
            return fields is None or fields(obj)

        namespace = query.namespace if kind.resource.namespaced else None
        return View(resource=kind.key, namespace=namespace or None, selects=selects, present=_presenter(kind))

    def list(self, kind: ResourceType, query: Query) -> Manifest:
        """A `List` with resourceVersion, and a continue token where `limit` cut it."""
        view = self._view(kind, query)
        revision, after = self.store.revision, ("", "")
        if query.continue_token:
            revision, after = _decode_continue(query.continue_token)
            if revision < self.store.compacted:
                raise ApiError(
                    410, "Expired", "The provided continue parameter is too old to display a consistent list result."
                )
        elif query.resource_version not in ("", "0") and int(query.resource_version) > self.store.revision:
            raise ApiError(504, "Timeout", f"Too large resource version: {query.resource_version}")
        objects = self._objects_at(view, revision)
        chosen = [o for o in objects if _position(o) > after and view.selects(o)]
        metadata: Manifest = {"resourceVersion": str(revision)}
        if query.limit and len(chosen) > query.limit:
            rest = len(chosen) - query.limit
            chosen = chosen[: query.limit]
            metadata["continue"] = _encode_continue(revision, _position(chosen[-1]))
            if not (query.label_selector or query.field_selector):
                metadata["remainingItemCount"] = rest
        r = kind.resource
        items = [view.present(o) for o in chosen]
        return {"kind": f"{r.kind}List", "apiVersion": r.api_version, "metadata": metadata, "items": items}

    def _objects_at(self, view: View, revision: int) -> Sequence[Manifest]:
        """The objects as they were at `revision`: later pages of a list see the first page's moment."""
        objects = self.store.items(view.resource, view.namespace)
        if revision == self.store.revision:
            return objects
        current = {_position(o): o for o in objects}
        for change in reversed(self.store.since(view.resource, revision)):
            if view.namespace and change.namespace != view.namespace:
                continue
            position = _position(change.new or change.old or {})
            if change.old is None:
                current.pop(position, None)
            else:
                current[position] = change.old
        return [current[position] for position in sorted(current)]

    def watch(self, kind: ResourceType, query: Query, *, initial: bool = False) -> Watcher:
        """Changes after the query's resourceVersion; "" and "0" (or `initial`) begin with the present state.

        Raises:
            ApiError: 410, the version is older than the history.
        """
        view = self._view(kind, query)
        asked = query.resource_version
        if initial or asked in ("", "0"):
            present = [o for o in self.store.items(kind.key, view.namespace) if view.selects(o)]
            events = [WatchEvent(type="ADDED", object=view.present(o)) for o in present]
            return Watcher(self.store, view, events, starts_at=self.store.revision)
        if not asked.isdigit():
            raise failures.bad_request(
                f'invalid resource version "{asked}": strconv.ParseUint: parsing "{asked}": invalid syntax'
            )
        revision = int(asked)
        oldest = max(self.store.compacted, kind.since_revision)
        if revision < oldest:
            raise failures.expired(revision, oldest)
        past = (event_of(change, view) for change in self.store.since(kind.key, revision))
        return Watcher(self.store, view, [e for e in past if e is not None], starts_at=revision)

    def create(
        self,
        kind: ResourceType,
        namespace: str | None,
        obj: Manifest,
        request: WriteRequest | None = None,
        user: User = ADMIN,
    ) -> Manifest:
        request = request or WriteRequest()
        if kind.virtual:
            return self._review(kind, obj, user)
        return _presenter(kind)(self.writer.create(kind, namespace or "", obj, request))

    def _review(self, kind: ResourceType, obj: Manifest, user: User) -> Manifest:
        r = kind.resource
        body = {"apiVersion": r.api_version, "kind": r.kind, "metadata": {}, **obj}
        if r.kind == "TokenReview":
            return self.access.review_token(body)
        if r.kind == "SelfSubjectReview":
            return {**body, "status": {"userInfo": {"username": user.name, "groups": list(user.groups)}}}
        return self.access.review_access(body, user if r.kind == "SelfSubjectAccessReview" else None)

    def update(
        self, kind: ResourceType, namespace: str | None, name: str, obj: Manifest, request: WriteRequest | None = None
    ) -> Manifest:
        request = request or WriteRequest()
        return self._after(kind, self.writer.update(kind, namespace or "", name, obj, request), request)

    def patch(
        self,
        kind: ResourceType,
        namespace: str | None,
        name: str,
        patch: Any,
        patch_type: PatchType,
        request: WriteRequest | None = None,
    ) -> Manifest:
        request = request or WriteRequest()
        written = self.writer.patch(kind, namespace or "", name, patch, patch_type, request)
        return self._after(kind, written, request)

    def _after(self, kind: ResourceType, written: Manifest, request: WriteRequest) -> Manifest:
        """A write that took the last finalizer away completes a deletion."""
        if not request.dry_run and not request.subresource:
            self.remover.finish_if_due(kind, written)
        return _presenter(kind)(written)

    def delete(
        self,
        kind: ResourceType,
        namespace: str | None,
        name: str,
        options: Manifest | None = None,
        *,
        dry_run: bool = False,
    ) -> Manifest:
        """The object where its deletion only began (finalizers, grace), else a Status."""
        return self.remover.delete(kind, namespace or "", name, options or {}, dry_run=dry_run)

    def delete_collection(
        self, kind: ResourceType, query: Query, options: Manifest | None = None, *, dry_run: bool = False
    ) -> Manifest:
        listed = self.list(kind, query)
        for obj in listed["items"]:
            metadata = obj["metadata"]
            self.remover.delete(
                kind, metadata.get("namespace", ""), metadata["name"], dict(options or {}), dry_run=dry_run
            )
        return listed

    def evict(self, namespace: str, pod: str, eviction: Manifest | None = None, *, dry_run: bool = False) -> Manifest:
        return self.remover.evict(namespace, pod, eviction or {}, dry_run=dry_run)

    def set_log(self, namespace: str, pod: str, text: str, *, container: str = "", previous: bool = False) -> None:
        """What `pods/log` answers; `container` "" stands for any."""
        self.logs[namespace, pod, container, previous] = text

    def log(
        self, namespace: str, pod: str, *, container: str = "", previous: bool = False, tail_lines: int | None = None
    ) -> str:
        found = self.store.get("pods", namespace, pod)
        if found is None:
            raise failures.not_found(_PODS, pod)
        names = [c["name"] for c in found["spec"]["containers"]]
        if container and container not in names:
            raise failures.bad_request(f"container {container} is not valid for pod {pod}")
        if not container and len(names) > 1:
            raise failures.bad_request(f"a container name must be specified for pod {pod}, choose one of: {names}")
        text = self.logs.get((namespace, pod, container or names[0], previous))
        if text is None:
            text = self.logs.get((namespace, pod, "", previous))
        if text is None and previous:
            raise failures.bad_request(
                f'previous terminated container "{container or names[0]}" in pod "{pod}" not found'
            )
        lines = (text or "").splitlines(keepends=True)
        return "".join(lines if tail_lines is None else lines[len(lines) - min(tail_lines, len(lines)) :])


_PODS = Resource(group="", version="v1", plural="pods", kind="Pod")


def _presenter(kind: ResourceType) -> Callable[[Manifest], Manifest]:
    """An object as a reader sees it, in the version that it asked for; what is below stays the store's own."""
    version = kind.resource.api_version

    def present(obj: Manifest) -> Manifest:
        return obj if obj["apiVersion"] == version else {**obj, "apiVersion": version}

    return present


def _position(obj: Manifest) -> tuple[str, str]:
    metadata = obj["metadata"]
    return (metadata.get("namespace", ""), metadata["name"])


def _encode_continue(revision: int, position: tuple[str, str]) -> str:
    raw = orjson.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": list(position)})
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode_continue(token: str) -> tuple[int, tuple[str, str]]:
    try:
        raw = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(raw["rv"]), (raw["start"][0], raw["start"][1])
    except (ValueError, KeyError, IndexError, TypeError) as exc:
        raise failures.bad_request("continue key is not valid: it must be the one of the page before") from exc


__all__ = ["ApiServer", "Query", "WriteRequest"]
