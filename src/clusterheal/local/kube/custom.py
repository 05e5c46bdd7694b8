"""CustomResourceDefinitions: checking them, and serving what they define."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterheal.kube.ports import Manifest, Resource
from clusterheal.local.kube.failures import Cause, invalid_value, not_supported, required
from clusterheal.local.kube.kinds import Catalogue, Column, ResourceType
from clusterheal.local.kube.objects import Stamp
from clusterheal.local.kube.removal import Remover
from clusterheal.local.kube.store import Store, clone
from clusterheal.local.kube.writing import Writer

CRD_KEY = "customresourcedefinitions.apiextensions.k8s.io"


class Definitions:
    """Keeps the catalogue in step with the stored CustomResourceDefinitions."""

    def __init__(self, *, store: Store, catalogue: Catalogue, writer: Writer, remover: Remover, stamp: Stamp) -> None:
        self._store = store
        self._catalogue = catalogue
        self._stamp = stamp
        self._writer = writer
        self._remover = remover
        writer.validators.append(validate)
        writer.written.append(self._written)
        remover.removed.append(self._removed)

    def _written(self, kind: ResourceType, old: Manifest | None, obj: Manifest) -> None:
        if kind.key != CRD_KEY or (old is not None and old.get("spec") == obj.get("spec") and "status" in obj):
            return
        spec = obj["spec"]
        since = self._store.revision
        for served in self._catalogue:
            if (
                served.custom
                and served.resource.group == spec["group"]
                and served.resource.plural == spec["names"]["plural"]
            ):
                since = served.since_revision
        self._catalogue.drop(spec["group"], spec["names"]["plural"])
        for version in _by_priority(spec["versions"]):
            if version.get("served", True):
                self._catalogue.add(_type_of(spec, version, since))
        established = clone(obj)
        established["status"] = self._status(obj)
        established["spec"]["names"] = _all_names(spec["names"])
        self._writer.store_as_is(kind, established)

    def _status(self, obj: Manifest) -> Manifest:
        spec = obj["spec"]
        conditions = [
            {
                "type": name,
                "status": "True",
                "lastTransitionTime": self._stamp.now(),
                "reason": reason,
                "message": message,
            }
            for name, reason, message in (
                ("NamesAccepted", "NoConflicts", "no conflicts found"),
                ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            )
        ]
        stored = [v["name"] for v in spec["versions"] if v.get("storage")]
        return {"acceptedNames": _all_names(spec["names"]), "conditions": conditions, "storedVersions": stored}

    def _removed(self, kind: ResourceType, obj: Manifest) -> None:
        if kind.key != CRD_KEY:
            return
        spec = obj["spec"]
        key = f"{spec['names']['plural']}.{spec['group']}"
        for instance in self._store.items(key):
            metadata = instance["metadata"]
            self._store.remove(key, metadata.get("namespace", ""), metadata["name"])
        self._catalogue.drop(spec["group"], spec["names"]["plural"])


def _all_names(names: Manifest) -> Manifest:
    singular = names.get("singular") or names["kind"].lower()
    return {**names, "singular": singular, "listKind": names.get("listKind") or f"{names['kind']}List"}


def _by_priority(versions: list[Manifest]) -> list[Manifest]:
    """GA before beta before alpha, newest first: the first is the preferred one."""

    def rank(version: Manifest) -> tuple[int, int, int]:
        name = version["name"].removeprefix("v")
        for n, stage in enumerate(("alpha", "beta")):
            if stage in name:
                major, _, minor = name.partition(stage)
                return (n, int(major or 0), int(minor or 0))
        return (2, int(name) if name.isdigit() else 0, 0)

    return sorted(versions, key=rank, reverse=True)


def _type_of(spec: Manifest, version: Manifest, since: int) -> ResourceType:
    names, sub = spec["names"], version.get("subresources") or {}
    namespaced = spec["scope"] == "Namespaced"
    resource = Resource(
        group=spec["group"], version=version["name"], plural=names["plural"], kind=names["kind"], namespaced=namespaced
    )
    columns = tuple(
        Column(
            name=c["name"],
            type=c["type"],
            path=c["jsonPath"],
            priority=c.get("priority", 0),
            description=c.get("description", ""),
        )
        for c in version.get("additionalPrinterColumns") or ()
    )
    if not columns:
        columns = (Column(name="Age", type="date", path=".metadata.creationTimestamp"),)
    fields = frozenset(f["jsonPath"].lstrip(".") for f in version.get("selectableFields") or ())
    return ResourceType(
        resource=resource,
        singular=names.get("singular") or names["kind"].lower(),
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        status="status" in sub,
        scale=sub.get("scale"),
        generation_of=("spec",),
        needs_version=True,
        custom=True,
        schema=(version.get("schema") or {}).get("openAPIV3Schema") or {},
        columns=columns,
        selectable_fields=fields,
        since_revision=since,
    )


def validate(kind: ResourceType, _old: Manifest | None, obj: Manifest) -> list[Cause]:
    """What makes a definition unusable."""
    if kind.key != CRD_KEY:
        return []
    spec = obj.get("spec") or {}
    names, group = spec.get("names") or {}, spec.get("group")
    causes = [required(f"spec.{f}") for f in ("group", "scope", "versions") if not spec.get(f)]
    causes += [required(f"spec.names.{f}") for f in ("plural", "kind") if not names.get(f)]
    if causes:
        return causes
    if spec["scope"] not in ("Cluster", "Namespaced"):
        causes.append(not_supported("spec.scope", spec["scope"], ["Cluster", "Namespaced"]))
    expected = f"{names['plural']}.{group}"
    if obj["metadata"].get("name") != expected:
        causes.append(
            invalid_value("metadata.name", obj["metadata"].get("name"), 'must be spec.names.plural+"."+spec.group')
        )
    if sum(bool(v.get("storage")) for v in spec["versions"]) != 1:
        text = "must have exactly one version marked as storage version"
        causes.append(invalid_value("spec.versions", [v.get("name") for v in spec["versions"]], text))
    for n, version in enumerate(spec["versions"]):
        here = f"spec.versions[{n}].schema.openAPIV3Schema"
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if schema is None:
            causes.append(required(here, "schemas are required"))
            continue
        if schema.get("type") != "object":
            causes.append(invalid_value(f"{here}.type", schema.get("type"), "must be object at the root"))
        causes += _structural(schema, here)
    return causes


def _structural(schema: Mapping[str, Any], at: str) -> list[Cause]:
    """Every specified node has a type (or says why not), as a structural schema must."""
    causes: list[Cause] = []
    open_type = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not schema.get("type") and not open_type:
        causes.append(required(f"{at}.type", "must not be empty for specified object fields"))
    for name, below in (schema.get("properties") or {}).items():
        causes += _structural(below, f"{at}.properties[{name}]")
    if isinstance(schema.get("items"), Mapping):
        causes += _structural(schema["items"], f"{at}.items")
    if isinstance(schema.get("additionalProperties"), Mapping):
        causes += _structural(schema["additionalProperties"], f"{at}.additionalProperties")
    return causes
