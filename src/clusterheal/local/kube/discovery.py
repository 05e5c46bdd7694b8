"""Discovery documents: what groups, versions and resources there are, and a minimal OpenAPI."""

from __future__ import annotations

from typing import Any

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.kinds import Catalogue, ResourceType

VERSION: Manifest = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0-emulator",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "python",
    "platform": "linux/amd64",
}
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def document(path: str, catalogue: Catalogue) -> Manifest | None:
    """The document at a discovery path; `None` where the path is none."""
    parts = path.strip("/").split("/")
    if parts[0] == "openapi":
        return _open_api(parts[1:], catalogue)
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if parts == ["apis"]:
        groups = [_group(g, v) for g, v in _groups(catalogue).items() if g]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    if parts[0] == "apis" and len(parts) == 2:
        versions = _groups(catalogue).get(parts[1])
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(parts[1], versions)} if versions else None
    if parts[0] == "api" and len(parts) == 2:
        return _resources("", parts[1], catalogue)
    if parts[0] == "apis" and len(parts) == 3:
        return _resources(parts[1], parts[2], catalogue)
    return None


def _groups(catalogue: Catalogue) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind in catalogue:
        versions = found.setdefault(kind.resource.group, [])
        if kind.resource.version not in versions:
            versions.append(kind.resource.version)
    return found


def _group(name: str, versions: list[str]) -> Manifest:
    listed = [{"groupVersion": f"{name}/{v}", "version": v} for v in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _resources(group: str, version: str, catalogue: Catalogue) -> Manifest | None:
    kinds = [k for k in catalogue if (k.resource.group, k.resource.version) == (group, version)]
    if not kinds:
        return None
    lines = [line for kind in kinds for line in _lines(kind)]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": lines,
    }


def _lines(kind: ResourceType) -> list[Manifest]:
    r = kind.resource
    base: Manifest = {
        "name": r.plural,
        "singularName": kind.singular,
        "namespaced": r.namespaced,
        "kind": r.kind,
        "verbs": ["create"] if kind.virtual else _VERBS,
    }
    if kind.short_names:
        base["shortNames"] = list(kind.short_names)
    if kind.categories:
        base["categories"] = list(kind.categories)
    lines = [base]

    def sub(name: str, verbs: list[str], **more: Any) -> None:
        line = {
            "name": f"{r.plural}/{name}",
            "singularName": "",
            "namespaced": r.namespaced,
            "kind": r.kind,
            "verbs": verbs,
        }
        lines.append({**line, **more})

    if kind.status:
        sub("status", ["get", "patch", "update"])
    if kind.scale:
        sub("scale", ["get", "patch", "update"], group="autoscaling", version="v1", kind="Scale")
    if kind.key == "pods":
        sub("eviction", ["create"], group="policy", version="v1", kind="Eviction")
        sub("log", ["get"])
    return lines


def _open_api(parts: list[str], catalogue: Catalogue) -> Manifest | None:
    """Enough for kubectl to see that the server validates fields by itself."""
    if parts == ["v3"]:
        paths = {}
        for group, versions in _groups(catalogue).items():
            for version in versions:
                path = f"apis/{group}/{version}" if group else f"api/{version}"
                paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash=0"}
        return {"paths": paths}
    if parts and parts[0] == "v3":
        group, version = ("", parts[2]) if parts[1] == "api" else (parts[2], parts[3])
        kinds = [k for k in catalogue if (k.resource.group, k.resource.version) == (group, version)]
        return {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes API emulator", "version": VERSION["gitVersion"]},
            "paths": dict(_open_api_path(kind) for kind in kinds),
            "components": {"schemas": {}},
        }
    return None


def _open_api_path(kind: ResourceType) -> tuple[str, Manifest]:
    r = kind.resource
    path = r.path("{namespace}" if r.namespaced else None, "{name}")
    names = ("dryRun", "fieldManager", "fieldValidation", "force")
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in names]
    gvk = {"group": r.group, "version": r.version, "kind": r.kind}
    return path, {"patch": {"x-kubernetes-group-version-kind": gvk, "parameters": parameters, "responses": {}}}
