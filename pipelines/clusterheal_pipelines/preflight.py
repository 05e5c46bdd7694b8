"""What would keep a run's pods from starting, looked for before the run is.

A pod whose ConfigMap, Secret, claim or GPU is missing does not fail: it waits, until its step's time is over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clusterheal.errors import InvalidInput
from clusterheal.kube.ports import ApiError, Cluster, Manifest, Resource
from clusterheal.kube.resources import CONFIG_MAPS, NODES, PERSISTENT_VOLUME_CLAIMS, SECRETS
from clusterheal_pipelines.cluster import CONFIG_MAP, SECRET_VARIABLES, STORAGE_SECRET, VARIABLES

_RESOURCE = re.compile(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-\w.]*[A-Za-z0-9])?$")


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """`problems` keep pods from starting; `unseen` could not be looked at, and why."""

    problems: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()

    def require(self) -> None:
        """Raises:
        InvalidInput: naming every problem.
        """
        if self.problems:
            raise InvalidInput(f"the run's pods could not start: {'; '.join(self.problems)}")


def check_accelerators(parameters: Mapping[str, Any]) -> int:
    """How many GPUs a training is to get; 0 where the pipeline asks for none.

    Raises:
        InvalidInput: no count, or a name that no resource can have.
    """
    count, resource = str(parameters.get("accelerators", "0")), str(parameters.get("accelerator", "nvidia.com/gpu"))
    if not count.isdigit():
        raise InvalidInput(f"accelerators: expected a count such as 1, got {count!r}")
    if not _RESOURCE.match(resource):
        raise InvalidInput(
            f"accelerator: expected a resource's name such as nvidia.com/gpu or nvidia.com/mig-1g.10gb, "
            f"got {resource!r}"
        )
    return int(count)


async def preflight(
    cluster: Cluster, namespace: str, parameters: Mapping[str, Any], *, data_claim: str | None = None
) -> Preflight:
    """Look at the namespace of the pipelines, and at the nodes when GPUs or certain nodes are asked for.

    `data_claim` is the claim that every step mounts.

    Raises:
        InvalidInput: as `check_accelerators`.
        RetryableError: the API server does not answer.
    """
    problems: list[str] = []
    unseen: list[str] = []
    for resource, name, keys in (
        (CONFIG_MAPS, CONFIG_MAP, VARIABLES),
        (SECRETS, STORAGE_SECRET, SECRET_VARIABLES),
    ):
        found = await _look(cluster, resource, name, namespace, unseen)
        if found is not None:
            problems += _lacking(resource.kind, f"{namespace}/{name}", found, keys)
    if data_claim is not None:
        found = await _look(cluster, PERSISTENT_VOLUME_CLAIMS, data_claim, namespace, unseen)
        problems += [] if found is None else _unfit(f"{namespace}/{data_claim}", found)
    count = check_accelerators(parameters)
    wanted = dict(parameters.get("node_selector") or {})
    if count or wanted:
        problems += await _nodes(cluster, str(parameters.get("accelerator", "nvidia.com/gpu")), count, wanted, unseen)
    return Preflight(problems=tuple(problems), unseen=tuple(unseen))


async def _look(cluster: Cluster, resource: Resource, name: str, namespace: str, unseen: list[str]) -> Manifest | None:
    """The object, an empty one where there is none, None where it may not be read."""
    try:
        return await cluster.get(resource, name, namespace=namespace)
    except ApiError as exc:
        if exc.status == 404:
            return {}
        if exc.status != 403:
            raise
        unseen.append(f"{resource.kind} {namespace}/{name} may not be read by this account")
        return None


def _lacking(kind: str, name: str, found: Manifest, keys: tuple[str, ...]) -> list[str]:
    if not found:
        return [f"{kind} {name} does not exist; it needs the keys {', '.join(keys)}"]
    absent = [key for key in keys if key not in {**found.get("data", {}), **found.get("stringData", {})}]
    return [f"{kind} {name} lacks the keys {', '.join(absent)} (an empty value counts as not set)"] if absent else []


def _unfit(name: str, claim: Manifest) -> list[str]:
    if not claim:
        return [f"PersistentVolumeClaim {name} does not exist"]
    modes = (claim.get("spec") or {}).get("accessModes") or []
    if "ReadWriteMany" in modes:
        return []
    return [f"PersistentVolumeClaim {name} is {', '.join(modes)}; steps on several nodes need ReadWriteMany"]


async def _nodes(
    cluster: Cluster, accelerator: str, count: int, wanted: Mapping[str, str], unseen: list[str]
) -> list[str]:
    try:
        nodes = (await cluster.list(NODES)).items
    except ApiError as exc:
        if exc.status != 403:
            raise
        unseen.append("nodes may not be listed by this account, so GPUs and node labels were not checked")
        return []
    fitting = [n for n in nodes if wanted.items() <= (n["metadata"].get("labels") or {}).items()]
    if not fitting:
        return [f"no node has the labels {dict(wanted)}"]
    if count and max(_allocatable(node).get(accelerator, 0) for node in fitting) < count:
        there = sorted({name for node in nodes for name, n in _allocatable(node).items() if "/" in name and n > 0})
        return [
            f"no node{' with these labels' if wanted else ''} has {count} of {accelerator}; "
            f"nodes offer {', '.join(there) or 'no such resource'}"
        ]
    return []


def _allocatable(node: Manifest) -> dict[str, int]:
    found = (node.get("status") or {}).get("allocatable") or {}
    return {name: int(value) for name, value in found.items() if str(value).isdigit()}
