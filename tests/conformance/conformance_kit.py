"""What the conformance tests share: small objects, waiting, and the name that writes are made under."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from clusterheal.kube.ports import ApiError, Cluster, Manifest, Resource

MANAGER = "conformance"
Define = Callable[..., Awaitable[Resource]]


def config_map(name: str, data: dict[str, str] | None = None, **metadata: object) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, **metadata},
        "data": data if data is not None else {"a": "1"},
    }


def deployment(name: str, *, replicas: int = 1, image: str = "registry.k8s.io/pause:3.9") -> Manifest:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "app", "image": image}]},
            },
        },
    }


def lease(name: str, holder: str) -> Manifest:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 0},
    }


OPEN_SCHEMA: Manifest = {
    "type": "object",
    "properties": {
        "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}


async def changed(
    cluster: Cluster,
    resource: Resource,
    name: str,
    namespace: str,
    edit: Callable[[Manifest], None],
    *,
    subresource: str | None = None,
) -> Manifest:
    """Read, edit, write; again where a controller wrote in between."""
    for _ in range(20):
        found = await cluster.get(resource, name, namespace=namespace)
        edit(found)
        try:
            return await cluster.update(resource, found, namespace=namespace, subresource=subresource)
        except ApiError as exc:
            if exc.status != 409 or "the object has been modified" not in exc.message:
                raise
    raise AssertionError(f"{name} was changed by others 20 times in a row")


async def eventually(check: Callable[[], Awaitable[Any]], *, seconds: float = 20.0, step: float = 0.05) -> Any:
    """The first truthy answer of `check`; fails after `seconds`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        found = await check()
        if found:
            return found
        assert loop.time() < end, f"nothing came within {seconds} s; last answer: {found!r}"
        await asyncio.sleep(step)
