"""How lists and maps of each type merge: by key, as a set, or as one value.

Built-in types follow the markers in Kubernetes' own types (`listType`, `listMapKey`, `patchMergeKey`); custom
resources follow the `x-kubernetes-*` extensions of their schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Shape(Protocol):
    """The merge topology at one place of an object."""

    @property
    def keys(self) -> tuple[str, ...] | None:
        """For a list: the keys of its items; `()` = a set of scalars; `None` = atomic."""
        ...

    @property
    def strategic_keys(self) -> tuple[str, ...] | None:
        """As `keys`, for strategic merge patches, which know one key only."""
        ...

    @property
    def atomic(self) -> bool:
        """For a map: whether it is owned and replaced as a whole."""
        ...

    def child(self, name: str) -> Shape: ...

    def item(self) -> Shape: ...

    def default_of_key(self, name: str) -> Any:
        """The value of a list key that an item leaves out, e.g. a port's protocol."""
        ...


_POD_LISTS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "resourceClaims": ("name",),
}
_LISTS: dict[str, tuple[str, ...]] = {
    **_POD_LISTS,
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "finalizers": (),
    "addresses": ("type",),
    "secrets": ("name",),
    "podCIDRs": (),
}
_SSA_PORTS = {"container": ("containerPort", "protocol"), "service": ("port", "protocol")}
_STRATEGIC_PORTS = {"container": ("containerPort",), "service": ("port",)}
_STRATEGIC: dict[str, tuple[str, ...]] = {"topologySpreadConstraints": ("topologyKey",)}
_ATOMIC_MAPS = frozenset(
    {
        "selector",
        "labelSelector",
        "podSelector",
        "namespaceSelector",
        "nodeSelector",
        "secretKeyRef",
        "configMapKeyRef",
        "fieldRef",
        "resourceFieldRef",
        "claimRef",
        "involvedObject",
        "targetRef",
        "scaleTargetRef",
    }
)
_FREE_FORM = frozenset({"labels", "annotations", "data", "binaryData", "stringData", "matchLabels"})


@dataclass(frozen=True)
class BuiltinShape:
    """Built-in types, told by the names on the way."""

    path: tuple[str, ...] = ()

    @property
    def _plain(self) -> bool:
        """Below a free-form map (labels, data) names carry no meaning."""
        return any(name in _FREE_FORM for name in self.path[:-1])

    def _ports(self, known: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
        owner = self.path[-2] if len(self.path) > 1 else ""
        if owner in ("containers", "initContainers", "ephemeralContainers"):
            return known["container"]
        return known["service"] if self.path == ("spec", "ports") else None

    @property
    def keys(self) -> tuple[str, ...] | None:
        name = self.path[-1] if self.path else ""
        if self._plain:
            return None
        return self._ports(_SSA_PORTS) if name == "ports" else _LISTS.get(name)

    @property
    def strategic_keys(self) -> tuple[str, ...] | None:
        name = self.path[-1] if self.path else ""
        if self._plain:
            return None
        return self._ports(_STRATEGIC_PORTS) if name == "ports" else _STRATEGIC.get(name, _LISTS.get(name))

    @property
    def atomic(self) -> bool:
        # A Service's selector is an atomic map as well as a Deployment's LabelSelector.
        return bool(self.path) and not self._plain and self.path[-1] in _ATOMIC_MAPS

    def child(self, name: str) -> BuiltinShape:
        return BuiltinShape((*self.path, name))

    def item(self) -> BuiltinShape:
        return self

    def default_of_key(self, name: str) -> Any:
        return "TCP" if name == "protocol" else None


_SCHEMALESS: Mapping[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}
_METADATA = frozenset({"metadata"})


@dataclass(frozen=True)
class SchemaShape:
    """Custom resources, told by their structural schema."""

    schema: Mapping[str, Any]
    root: bool = False

    @property
    def keys(self) -> tuple[str, ...] | None:
        kind = self.schema.get("x-kubernetes-list-type", "atomic")
        if kind == "set":
            return ()
        return tuple(self.schema.get("x-kubernetes-list-map-keys", ())) if kind == "map" else None

    @property
    def strategic_keys(self) -> tuple[str, ...] | None:
        return self.keys

    @property
    def atomic(self) -> bool:
        return self.schema.get("x-kubernetes-map-type") == "atomic"

    def child(self, name: str) -> Shape:
        if self.root and name in _METADATA:
            return BuiltinShape((name,))
        properties = self.schema.get("properties") or {}
        if name in properties:
            return SchemaShape(properties[name])
        extra = self.schema.get("additionalProperties")
        return SchemaShape(extra if isinstance(extra, Mapping) else _SCHEMALESS)

    def item(self) -> Shape:
        return SchemaShape(self.schema.get("items") or _SCHEMALESS)

    def default_of_key(self, name: str) -> Any:
        found = (self.schema.get("items") or {}).get("properties", {}).get(name, {})
        return found.get("default")
