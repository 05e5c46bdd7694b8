"""The resource types that the emulator serves, and what is particular about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from clusterheal.kube import resources as known
from clusterheal.kube.ports import Resource
from clusterheal.local.kube.shapes import BuiltinShape, SchemaShape, Shape


@dataclass(frozen=True, kw_only=True)
class Column:
    """A printer column: `path` is a JSON path like `.spec.replicas`, `priority` 0 = shown without `-o wide`."""

    name: str
    type: str
    path: str
    priority: int = 0
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class ResourceType:
    """A served resource.

    `generation_of`: the top-level fields whose change bumps `metadata.generation`; empty: it has none.
    `needs_version`: an update without resourceVersion is refused. `virtual`: answered, never stored.
    """

    resource: Resource
    singular: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    scale: Mapping[str, str] | None = None
    generation_of: tuple[str, ...] = ()
    needs_version: bool = False
    virtual: bool = False
    custom: bool = False
    schema: Mapping[str, Any] | None = None
    columns: tuple[Column, ...] = ()
    selectable_fields: frozenset[str] = field(default_factory=frozenset)
    since_revision: int = 0

    @cached_property
    def key(self) -> str:
        r = self.resource
        return f"{r.plural}.{r.group}" if r.group else r.plural

    @cached_property
    def shape(self) -> Shape:
        return SchemaShape(self.schema or {}, root=True) if self.custom else BuiltinShape()


_SCALE = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}


def _type(resource: Resource, *short: str, spec: bool = False, **more: Any) -> ResourceType:
    """`spec`: it has a status subresource and a generation that follows its spec."""
    if spec:
        more = {"status": True, "generation_of": ("spec",), **more}
    singular = resource.kind.lower()
    return ResourceType(resource=resource, singular=singular, short_names=short, **more)


def _core(plural: str, kind: str, *, namespaced: bool = True, group: str = "", version: str = "v1") -> Resource:
    return Resource(group=group, version=version, plural=plural, kind=kind, namespaced=namespaced)


_RBAC = "rbac.authorization.k8s.io"
BUILTIN: tuple[ResourceType, ...] = (
    _type(known.NAMESPACES, "ns", status=True),
    _type(known.NODES, "no", status=True),
    _type(known.PODS, "po", status=True, categories=("all",)),
    _type(known.CONFIG_MAPS, "cm"),
    _type(known.SECRETS),
    _type(known.SERVICES, "svc", status=True, categories=("all",)),
    _type(known.EVENTS, "ev"),
    _type(known.PERSISTENT_VOLUME_CLAIMS, "pvc", status=True),
    _type(_core("persistentvolumes", "PersistentVolume", namespaced=False), "pv", status=True),
    _type(_core("serviceaccounts", "ServiceAccount"), "sa"),
    _type(known.DEPLOYMENTS, "deploy", spec=True, scale=_SCALE, categories=("all",)),
    _type(known.REPLICA_SETS, "rs", spec=True, scale=_SCALE, categories=("all",)),
    _type(known.STATEFUL_SETS, "sts", spec=True, scale=_SCALE, categories=("all",)),
    _type(known.DAEMON_SETS, "ds", spec=True, categories=("all",)),
    _type(_core("controllerrevisions", "ControllerRevision", group="apps")),
    _type(known.JOBS, spec=True, categories=("all",)),
    _type(known.CRON_JOBS, "cj", spec=True, categories=("all",)),
    _type(known.STORAGE_CLASSES, "sc"),
    _type(known.POD_DISRUPTION_BUDGETS, "pdb", spec=True, needs_version=True),
    _type(known.HORIZONTAL_POD_AUTOSCALERS, "hpa", status=True, categories=("all",)),
    _type(known.LEASES, needs_version=True),
    _type(known.CUSTOM_RESOURCE_DEFINITIONS, "crd", "crds", spec=True, needs_version=True),
    _type(_core("networkpolicies", "NetworkPolicy", group="networking.k8s.io"), "netpol", generation_of=("spec",)),
    _type(_core("ingresses", "Ingress", group="networking.k8s.io"), "ing", spec=True),
    _type(_core("roles", "Role", group=_RBAC)),
    _type(_core("rolebindings", "RoleBinding", group=_RBAC)),
    _type(_core("clusterroles", "ClusterRole", group=_RBAC, namespaced=False)),
    _type(_core("clusterrolebindings", "ClusterRoleBinding", group=_RBAC, namespaced=False)),
    _type(known.TOKEN_REVIEWS, virtual=True),
    _type(known.SUBJECT_ACCESS_REVIEWS, virtual=True),
    _type(
        _core("selfsubjectaccessreviews", "SelfSubjectAccessReview", group="authorization.k8s.io", namespaced=False),
        virtual=True,
    ),
    _type(
        _core("selfsubjectreviews", "SelfSubjectReview", group="authentication.k8s.io", namespaced=False), virtual=True
    ),
)


class Catalogue:
    """Served types by (group, version, plural), in the order in which they came."""

    def __init__(self) -> None:
        self._types: dict[tuple[str, str, str], ResourceType] = {}
        self._by_key: dict[str, ResourceType] = {}
        for kind in BUILTIN:
            self.add(kind)

    def add(self, kind: ResourceType) -> None:
        r = kind.resource
        self._types[r.group, r.version, r.plural] = kind
        self._index()

    def _index(self) -> None:
        """A resource served in several versions is found under the one that came first."""
        self._by_key = {t.key: t for t in reversed(self._types.values())}

    def drop(self, group: str, plural: str) -> None:
        for key in [k for k in self._types if k[0] == group and k[2] == plural]:
            del self._types[key]
        self._index()

    def find(self, group: str, version: str, plural: str) -> ResourceType | None:
        return self._types.get((group, version, plural))

    def of_kind(self, api_version: str, kind: str) -> ResourceType | None:
        return next((t for t in self if t.resource.api_version == api_version and t.resource.kind == kind), None)

    def by_key(self, key: str) -> ResourceType | None:
        return self._by_key.get(key)

    def __iter__(self) -> Any:
        return iter(list(self._types.values()))
