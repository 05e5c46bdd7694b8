"""What the rules look at: objects with the place they came from, and all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

FieldPath = tuple[str | int, ...]
"""Where in an object, e.g. `("spec", "containers", 0, "image")`."""

POD_PATHS: dict[str, FieldPath] = {
    "Pod": ("spec",),
    "Deployment": ("spec", "template", "spec"),
    "StatefulSet": ("spec", "template", "spec"),
    "DaemonSet": ("spec", "template", "spec"),
    "ReplicaSet": ("spec", "template", "spec"),
    "Job": ("spec", "template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
    "Notebook": ("spec", "template", "spec"),
    "ServingRuntime": ("spec",),
    "ClusterServingRuntime": ("spec",),
    "InferenceService": ("spec", "predictor"),
}
CLUSTER_SCOPED = frozenset(
    {"Namespace", "Node", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PersistentVolume",
     "StorageClass", "ClusterServingRuntime", "MachineConfigPool", "MachineConfig", "KubeletConfig"}
)  # fmt: skip


class Platform(StrEnum):
    """What the manifests are for; several rules differ between them."""

    RHOAI_2 = "rhoai-2x"
    RHOAI_3 = "rhoai-3x"
    VANILLA = "vanilla-kubernetes"


@dataclass(frozen=True, kw_only=True, eq=False)
class Object:
    """A manifest and where it was read. `lines` maps field paths to line numbers, counted from 1."""

    manifest: Mapping[str, Any]
    source: str
    lines: Mapping[FieldPath, int] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return str(self.manifest.get("kind", ""))

    @property
    def group(self) -> str:
        version = str(self.manifest.get("apiVersion", ""))
        return version.rpartition("/")[0]

    @property
    def name(self) -> str:
        return str(self.at("metadata", "name", default=""))

    @property
    def namespace(self) -> str | None:
        """`None` for cluster-scoped objects, and where the manifest leaves it to whoever applies it."""
        return None if self.kind in CLUSTER_SCOPED else self.at("metadata", "namespace")

    @property
    def labels(self) -> Mapping[str, str]:
        return _mapping(self.at("metadata", "labels"))

    @property
    def annotations(self) -> Mapping[str, str]:
        return _mapping(self.at("metadata", "annotations"))

    def at(self, *path: str | int, default: Any = None) -> Any:
        """The value at a path; `default` where there is none."""
        value: Any = self.manifest
        for key in path:
            listed = isinstance(key, int) and isinstance(value, list) and key < len(value)
            if listed or (isinstance(value, Mapping) and key in value):
                value = value[key]
            else:
                return default
        return default if value is None else value

    def line(self, path: FieldPath) -> int | None:
        """The line of a field, or of the nearest field around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def __str__(self) -> str:
        place = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {place}{self.name}"


@dataclass(frozen=True, kw_only=True)
class PodTemplate:
    """A pod specification inside an object. `path` leads to it."""

    owner: Object
    path: FieldPath

    @property
    def spec(self) -> Mapping[str, Any]:
        return _mapping(self.owner.at(*self.path))

    @property
    def labels(self) -> Mapping[str, str]:
        template = self.path[:-1]
        return _mapping(self.owner.at(*template, "metadata", "labels"))

    def containers(self) -> Iterator[tuple[FieldPath, Mapping[str, Any]]]:
        """Init containers, containers, and a predictor's model, with their paths."""
        for key in ("initContainers", "containers"):
            for i, container in enumerate(_list(self.spec.get(key))):
                yield (*self.path, key, i), _mapping(container)
        if "model" in self.spec:
            yield (*self.path, "model"), _mapping(self.spec["model"])

    def env(self) -> Iterator[tuple[FieldPath, str, str]]:
        """Path, name and literal value of every environment variable that has one."""
        for path, container in self.containers():
            for i, variable in enumerate(_list(container.get("env"))):
                if isinstance(variable, Mapping) and isinstance(variable.get("value"), str):
                    yield (*path, "env", i), str(variable.get("name")), variable["value"]

    def gpus(self) -> Iterator[FieldPath]:
        """Paths of containers that ask for a GPU, MIG profiles included."""
        for path, container in self.containers():
            limits = _mapping(_mapping(container.get("resources")).get("limits"))
            if any(
                name.startswith(("nvidia.com/gpu", "nvidia.com/mig-")) and str(n) != "0" for name, n in limits.items()
            ):
                yield path


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that is deployed together."""

    objects: Sequence[Object]
    platform: Platform = Platform.RHOAI_3

    @property
    def openshift(self) -> bool:
        return self.platform is not Platform.VANILLA

    def of(self, *kinds: str) -> Iterator[Object]:
        return (o for o in self.objects if o.kind in kinds)

    def has(self, kind: str, name: str, namespace: str | None = None) -> bool:
        """Whether such an object is there; without `namespace`, in any."""
        return any(o.name == name and namespace in (None, o.namespace) for o in self.of(kind))

    def pods(self, *kinds: str) -> Iterator[PodTemplate]:
        """Pod specifications of the objects of these kinds; without any, of all."""
        for o in self.objects:
            path = POD_PATHS.get(o.kind)
            if path is not None and (not kinds or o.kind in kinds) and isinstance(o.at(*path), Mapping):
                yield PodTemplate(owner=o, path=path)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def mappings(value: Any) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """The mappings of a list with their positions; nothing for what is no list."""
    return ((i, item) for i, item in enumerate(_list(value)) if isinstance(item, Mapping))
