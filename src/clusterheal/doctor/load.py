"""Reads manifests with their line numbers, renders kustomizations, or lists a cluster."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from clusterheal.doctor.scene import FieldPath, Object, Platform
from clusterheal.errors import InvalidInput, PermanentError
from clusterheal.kube.documents import KubernetesLoader
from clusterheal.kube.ports import ApiError, Cluster, Resource

SUFFIXES = (".yaml", ".yml", ".json")
KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
MAX_FILE_BYTES = 64 << 20
RENDER_SECONDS = 120


def read_manifests(place: Path) -> list[Object]:
    """Objects of a file, of a folder's files, or of a folder with a kustomization, rendered by kubectl.

    Files that hold no Kubernetes object, such as a patch or a values file, are passed over in folders.

    Raises:
        InvalidInput: nothing there, no YAML, no object, or a kustomization that does not build.
        PermanentError: a kustomization, and no kubectl to render it.
    """
    if not place.exists():
        raise InvalidInput(f"{place}: no such file or folder; expected rendered manifests or a kustomization")
    if place.is_file():
        objects = list(_of_text(_text(place), str(place)))
    elif any((place / name).is_file() for name in KUSTOMIZATIONS):
        objects = list(_of_text(_render(place), f"{place} (rendered)", lines=False))
    else:
        files = sorted(f for f in place.rglob("*") if f.suffix in SUFFIXES and f.is_file())
        objects = [o for f in files if f.name not in KUSTOMIZATIONS for o in _of_text(_text(f), str(f))]
    if not objects:
        raise InvalidInput(f"{place}: no Kubernetes objects found; expected YAML with apiVersion and kind")
    return objects


def _text(file: Path) -> str:
    size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InvalidInput(f"{file}: {size:,} bytes, more than {MAX_FILE_BYTES:,}; is this a manifest?")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{file}: expected UTF-8 text: {exc}") from exc


def _render(place: Path) -> str:
    kubectl = shutil.which("kubectl") or shutil.which("oc")
    if kubectl is None:
        raise PermanentError(f"{place} holds a kustomization, and neither kubectl nor oc is on PATH to render it")
    done = subprocess.run(  # noqa: S603 - found on PATH, the argument is the user's own folder
        [kubectl, "kustomize", str(place)], capture_output=True, text=True, check=False, timeout=RENDER_SECONDS
    )
    if done.returncode:
        raise InvalidInput(f"{place}: the kustomization does not build: {done.stderr.strip()[-500:]}")
    return done.stdout


def _of_text(text: str, source: str, *, lines: bool = True) -> Iterator[Object]:
    loader = KubernetesLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            document = loader.construct_document(node)
            if isinstance(document, dict):
                yield from _objects(document, source, dict(_lines(node)) if lines else {})
    except yaml.YAMLError as exc:
        raise InvalidInput(f"{source}: not YAML: {exc}") from exc
    finally:
        loader.dispose()


def _objects(document: dict[str, Any], source: str, lines: dict[FieldPath, int]) -> Iterator[Object]:
    if document.get("kind") == "List" and isinstance(document.get("items"), list):
        for i, item in enumerate(document["items"]):
            inner = {path[2:]: line for path, line in lines.items() if path[:2] == ("items", i)}
            if isinstance(item, dict):
                yield Object(manifest=item, source=source, lines=inner)
    elif "apiVersion" in document and "kind" in document:
        yield Object(manifest=document, source=source, lines=lines)


def _lines(node: yaml.Node, path: FieldPath = ()) -> Iterator[tuple[FieldPath, int]]:
    """Line numbers from 1 by field path."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            yield from _lines(value, inner)
            yield inner, key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _lines(item, (*path, i))


def _resource(group: str, version: str, plural: str, kind: str, *, namespaced: bool = True) -> Resource:
    return Resource(group=group, version=version, plural=plural, kind=kind, namespaced=namespaced)


IN_A_CLUSTER = (
    _resource("", "v1", "services", "Service"),
    _resource("", "v1", "serviceaccounts", "ServiceAccount"),
    _resource("", "v1", "configmaps", "ConfigMap"),
    _resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    _resource("", "v1", "namespaces", "Namespace", namespaced=False),
    _resource("apps", "v1", "deployments", "Deployment"),
    _resource("apps", "v1", "statefulsets", "StatefulSet"),
    _resource("batch", "v1", "jobs", "Job"),
    _resource("batch", "v1", "cronjobs", "CronJob"),
    _resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    _resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    _resource("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    _resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    _resource("kubeflow.org", "v1", "notebooks", "Notebook"),
    _resource("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService"),
    _resource("serving.kserve.io", "v1alpha1", "servingruntimes", "ServingRuntime"),
    _resource("monitoring.coreos.com", "v1", "prometheusrules", "PrometheusRule"),
    _resource("monitoring.coreos.com", "v1", "servicemonitors", "ServiceMonitor"),
    _resource("monitoring.coreos.com", "v1", "podmonitors", "PodMonitor"),
    _resource("monitoring.coreos.com", "v1beta1", "alertmanagerconfigs", "AlertmanagerConfig"),
    _resource("pipelines.kubeflow.org", "v2beta1", "pipelines", "Pipeline"),
    _resource("pipelines.kubeflow.org", "v2beta1", "pipelineversions", "PipelineVersion"),
    _resource(
        "datasciencepipelinesapplications.opendatahub.io",
        "v1",
        "datasciencepipelinesapplications",
        "DataSciencePipelinesApplication",
    ),
)
"""Kinds that are read from a cluster. Secrets are not: nobody's business here."""


async def read_cluster(cluster: Cluster, namespace: str) -> tuple[list[Object], list[str]]:
    """The objects of a namespace, and what could not be read, such as kinds that are forbidden.

    A kind that the server does not have is no news: not every cluster has every operator.

    Raises:
        RetryableError: the API server does not answer.
    """

    async def one(resource: Resource) -> tuple[list[Object], str | None]:
        try:
            found = await cluster.list(resource, namespace=namespace if resource.namespaced else None)
        except ApiError as exc:
            return [], None if exc.status == 404 else f"{resource.plural}: {exc.message}"
        head = {"apiVersion": resource.api_version, "kind": resource.kind}
        return [Object(manifest=head | o, source=f"namespace {namespace}") for o in found.items], None

    answers = await asyncio.gather(*(one(resource) for resource in IN_A_CLUSTER))
    objects = [o for found, _ in answers for o in found if not _derived(o) and o.name]
    kept = [o for o in objects if o.kind != "Namespace" or o.name == namespace]
    return kept, [missing for _, missing in answers if missing]


def _derived(o: Object) -> bool:
    """Made by a controller from another object, which is the one to look at."""
    return any(ref.get("controller") for ref in o.at("metadata", "ownerReferences", default=[]))


async def find_platform(cluster: Cluster) -> Platform:
    """OpenShift AI's major version from its DataScienceCluster; without one, a plain Kubernetes.

    Raises:
        ApiError: forbidden.
        RetryableError: the API server does not answer.
    """
    resource = _resource("datasciencecluster.opendatahub.io", "v1", "datascienceclusters", "DataScienceCluster")
    try:
        found = await cluster.list(resource)
    except ApiError as exc:
        if exc.status == 404:
            return Platform.VANILLA
        raise
    release = next((str(o.get("status", {}).get("release", {}).get("version", "")) for o in found.items), "")
    return Platform.RHOAI_2 if release.startswith("2.") else Platform.RHOAI_3
