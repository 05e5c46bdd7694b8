"""Create, update, patch and apply: one way through identity, merge, admission and ownership to the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clusterheal.kube.ports import ApiError, Manifest, PatchType
from clusterheal.local.kube import failures, objects, ownership
from clusterheal.local.kube.defaults import apply_defaults
from clusterheal.local.kube.failures import Cause
from clusterheal.local.kube.kinds import Catalogue, ResourceType
from clusterheal.local.kube.objects import Stamp
from clusterheal.local.kube.ownership import Manager
from clusterheal.local.kube.requests import WriteRequest, owned_part, patched_with
from clusterheal.local.kube.scale import scale_of, set_replicas
from clusterheal.local.kube.store import Store, clone
from clusterheal.local.kube.structural import admit
from clusterheal.local.kube.validation import validate_builtin

Hook = Callable[[ResourceType, Manifest | None, Manifest], None]


class Writer:
    def __init__(self, *, store: Store, catalogue: Catalogue, stamp: Stamp) -> None:
        self._store = store
        self._catalogue = catalogue
        self._stamp = stamp
        self.validators: list[Callable[[ResourceType, Manifest | None, Manifest], list[Cause]]] = []
        self.written: list[Hook] = []

    def kind_by_key(self, key: str) -> ResourceType:
        found = self._catalogue.by_key(key)
        assert found is not None, key
        return found

    def create(self, kind: ResourceType, namespace: str, obj: Manifest, request: WriteRequest) -> Manifest:
        """Store a new object.

        Raises:
            ApiError: 400, 403 and 404 for its namespace, 409 AlreadyExists, 422.
        """
        obj = clone(obj)
        objects.check_identity(kind, namespace, None, obj)
        if obj["metadata"].get("resourceVersion"):
            raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
        return self._create(kind, namespace, obj, request, None)

    def _create(
        self, kind: ResourceType, namespace: str, obj: Manifest, request: WriteRequest, applier: Manager | None
    ) -> Manifest:
        self._check_namespace(kind, namespace, obj)
        objects.stamp_new(obj, self._stamp)
        if kind.status:
            obj.pop("status", None)
        self._admit(kind, obj, None)
        name = obj["metadata"]["name"]
        if self._store.get(kind.key, namespace, name) is not None:
            raise failures.already_exists(kind.resource, name)
        if kind.generation_of:
            obj["metadata"]["generation"] = 1
        if applier is None:
            manager = self._manager(kind, request, "Update")
            base: Manifest = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": {}}
            ownership.track_update(base, obj, kind.shape, manager, self._stamp.now(), [])
        return self._commit(kind, namespace, name, None, obj, request)

    def _check_namespace(self, kind: ResourceType, namespace: str, obj: Manifest) -> None:
        if not kind.resource.namespaced:
            return
        found = self._store.get("namespaces", "", namespace)
        if found is None:
            raise failures.not_found(self.kind_by_key("namespaces").resource, namespace)
        if found["metadata"].get("deletionTimestamp"):
            name = obj["metadata"].get("name", "")
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            error = failures.forbidden(kind.resource, name, why)
            error.details["causes"] = [
                {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {namespace} is being terminated",
                    "field": "metadata.namespace",
                }
            ]
            raise error

    def update(self, kind: ResourceType, namespace: str, name: str, obj: Manifest, request: WriteRequest) -> Manifest:
        """Replace an object.

        Raises:
            ApiError: 400, 404, 409 where resourceVersion or uid are not the stored ones, 422.
        """
        obj = clone(obj)
        if request.subresource == "scale":
            return self._write_scale(kind, namespace, name, obj, request)
        objects.check_identity(kind, namespace, name, obj)
        old = self._existing(kind, namespace, name)
        if not obj["metadata"].get("resourceVersion"):
            if kind.needs_version or kind.custom:
                cause = failures.invalid_value("metadata.resourceVersion", "0x0", "must be specified for an update")
                bare = Cause(reason=cause.reason, message=cause.message.replace('"', ""), field=cause.field)
                raise failures.invalid(kind.resource, name, [bare])
            obj["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        return self._replace(kind, old, obj, request, None)

    def _existing(self, kind: ResourceType, namespace: str, name: str) -> Manifest:
        old = self._store.get(kind.key, namespace, name)
        if old is None:
            raise failures.not_found(kind.resource, name)
        return old

    def patch(
        self, kind: ResourceType, namespace: str, name: str, patch: Any, patch_type: PatchType, request: WriteRequest
    ) -> Manifest:
        """
        Raises:
            ApiError: as `update`; 409 with managers for a conflicting apply; 415 for strategic on custom resources.
        """
        if patch_type is PatchType.APPLY:
            return self._apply(kind, namespace, name, patch, request)
        old = self._existing(kind, namespace, name)
        if request.subresource == "scale":
            scale = scale_of(kind, old)
            return self._write_scale(kind, namespace, name, patched_with(kind, scale, patch, patch_type), request)
        obj = patched_with(kind, clone(old), patch, patch_type)
        objects.check_identity(kind, namespace, name, obj)
        obj["metadata"].setdefault("resourceVersion", old["metadata"]["resourceVersion"])
        return self._replace(kind, old, obj, request, None)

    def _apply(self, kind: ResourceType, namespace: str, name: str, config: Any, request: WriteRequest) -> Manifest:
        if not isinstance(config, dict) or not config.get("apiVersion") or not config.get("kind"):
            raise failures.bad_request("error decoding YAML: an apply configuration needs apiVersion and kind")
        config = clone(config)
        objects.check_identity(kind, namespace, name, config)
        if config["metadata"].get("managedFields"):
            raise failures.bad_request("metadata.managedFields must be nil")
        old = self._store.get(kind.key, namespace, name)
        asked = config["metadata"].pop("resourceVersion", None)
        if asked and (old is None or asked != old["metadata"]["resourceVersion"]):
            raise failures.stale(kind.resource, name)
        uid = config["metadata"].pop("uid", None)
        if uid and (old is None or uid != old["metadata"]["uid"]):
            raise failures.stale(kind.resource, name)
        manager = self._manager(kind, request, "Apply")
        config = owned_part(kind, config, request.subresource)
        if old is None:
            if request.subresource:
                raise failures.not_found(kind.resource, name)
            base: Manifest = {"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {}}
            merged = clone(
                ownership.apply(base, config, kind.shape, manager, force=request.force, now=self._stamp.now())
            )
            return self._create(kind, namespace, merged, request, manager)
        live = {**old, "apiVersion": kind.resource.api_version}
        merged = ownership.apply(live, config, kind.shape, manager, force=request.force, now=self._stamp.now())
        return self._replace(kind, old, clone(merged), request, manager)

    def _replace(
        self, kind: ResourceType, old: Manifest, obj: Manifest, request: WriteRequest, applier: Manager | None
    ) -> Manifest:
        name, namespace = old["metadata"]["name"], old["metadata"].get("namespace", "")
        self._check_preconditions(kind, old, obj)
        obj = self._subresource_part(kind, old, obj, request.subresource)
        objects.keep_system_fields(obj, old)
        self._admit(kind, obj, old)
        if applier is None:
            self._track(kind, old, obj, request)
        changed = [f for f in kind.generation_of if obj.get(f) != old.get(f)]
        if kind.resource.kind == "Deployment":
            changed += ["annotations"] * (obj["metadata"].get("annotations") != old["metadata"].get("annotations"))
        if kind.custom:
            changed = [f for f in obj.keys() | old.keys() if self._counts(kind, f) and obj.get(f) != old.get(f)]
        if changed and request.subresource != "status":
            obj["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        obj["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
        if obj == {**old, "apiVersion": obj["apiVersion"]}:
            return old
        return self._commit(kind, namespace, name, old, obj, request)

    @staticmethod
    def _counts(kind: ResourceType, field: str) -> bool:
        return field not in ("metadata", "apiVersion", "kind") and not (field == "status" and kind.status)

    def _check_preconditions(self, kind: ResourceType, old: Manifest, obj: Manifest) -> None:
        new, was, name = obj["metadata"], old["metadata"], old["metadata"]["name"]
        if new.get("uid") and new["uid"] != was["uid"]:
            why = f"Precondition failed: UID in precondition: {new['uid']}, UID in object meta: {was['uid']}"
            raise failures.conflict(kind.resource, name, why)
        if new.get("resourceVersion") != was["resourceVersion"]:
            raise failures.stale(kind.resource, name)

    def _subresource_part(self, kind: ResourceType, old: Manifest, obj: Manifest, subresource: str) -> Manifest:
        """Of what was sent, the part that this endpoint writes."""
        if subresource == "status":
            if not kind.status:
                raise failures.unknown_path()
            kept = clone(old)
            kept["apiVersion"] = obj["apiVersion"]
            if not kind.custom and "annotations" in obj["metadata"]:
                # Built-in status endpoints let annotations through; the deployment controller relies on it.
                kept["metadata"]["annotations"] = obj["metadata"]["annotations"]
            if "status" in obj:
                kept["status"] = obj["status"]
            else:
                kept.pop("status", None)
            if managed := obj["metadata"].get("managedFields"):
                kept["metadata"]["managedFields"] = managed
            return kept
        if subresource not in ("", "scale"):
            raise failures.unknown_path()
        if kind.status:
            obj.pop("status", None)
            if "status" in old:
                obj["status"] = clone(old["status"])
        return obj

    def _admit(self, kind: ResourceType, obj: Manifest, old: Manifest | None) -> None:
        """Defaults and checks.

        Raises:
            ApiError: 422 with every finding.
        """
        apply_defaults(kind, obj)
        causes = objects.validate_metadata(kind, obj, old)
        if kind.custom and kind.schema is not None:
            causes += admit(kind.schema, obj, old)
        causes += validate_builtin(kind, obj, old)
        for check in self.validators:
            causes += check(kind, old, obj)
        if causes:
            raise failures.invalid(kind.resource, obj["metadata"].get("name", ""), causes)

    def _track(self, kind: ResourceType, old: Manifest, obj: Manifest, request: WriteRequest) -> None:
        sent = obj["metadata"].get("managedFields")
        before = old if not sent or sent == old["metadata"].get("managedFields") else obj
        entries = [] if sent == [{}] else ownership.entries_of(before)
        manager = self._manager(kind, request, "Update")
        base = {**old, "apiVersion": obj["apiVersion"]}
        ownership.track_update(_bare(base), _bare_in_place(obj), kind.shape, manager, self._stamp.now(), entries)

    def _manager(self, kind: ResourceType, request: WriteRequest, operation: str) -> Manager:
        if operation == "Apply" and not request.manager:
            cause = failures.required("fieldManager", "is required for apply patch")
            raise failures.invalid_options("PatchOptions", cause)
        return Manager(
            name=request.manager or "unknown",
            operation=operation,
            api_version=kind.resource.api_version,
            subresource=request.subresource,
        )

    def _commit(
        self, kind: ResourceType, namespace: str, name: str, old: Manifest | None, obj: Manifest, request: WriteRequest
    ) -> Manifest:
        if request.dry_run:
            return obj
        stored = self._store.put(kind.key, namespace, name, obj)
        for hook in self.written:
            hook(kind, old, stored)
        return stored

    def store_as_is(self, kind: ResourceType, obj: Manifest) -> Manifest:
        """Write without checks or tracking: for the server itself (deletion marks) and for seeding a world."""
        metadata = obj["metadata"]
        old = self._store.get(kind.key, metadata.get("namespace", ""), metadata["name"])
        return self._commit(kind, metadata.get("namespace", ""), metadata["name"], old, obj, WriteRequest())

    def _write_scale(
        self, kind: ResourceType, namespace: str, name: str, scale: Manifest, request: WriteRequest
    ) -> Manifest:
        old = self._existing(kind, namespace, name)
        scale_of(kind, old)
        obj = clone(old)
        set_replicas(kind, obj, (scale.get("spec") or {}).get("replicas", 0))
        asked = (scale.get("metadata") or {}).get("resourceVersion")
        obj["metadata"]["resourceVersion"] = asked or old["metadata"]["resourceVersion"]
        obj["metadata"].pop("managedFields", None)
        return scale_of(kind, self._replace(kind, old, obj, request, None))


def _bare(obj: Manifest) -> Manifest:
    return {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k != "managedFields"}}


def _bare_in_place(obj: Manifest) -> Manifest:
    obj["metadata"].pop("managedFields", None)
    return obj
