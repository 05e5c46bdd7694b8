"""Says whether the rollout tests were also run against a real API server."""

from __future__ import annotations

import os

import pytest

from clusterheal.kube.resources import NAMESPACES

from .conftest import KUBECONFIG, OpenWorld


@pytest.mark.cluster
@pytest.mark.skipif(
    not os.environ.get(KUBECONFIG), reason=f"the rollout tests ran on the emulator only: {KUBECONFIG} is not set"
)
@pytest.mark.parametrize("front", ["real"])
async def test_a_world_of_its_own_can_be_made(front: str, open_world: OpenWorld) -> None:
    world = await open_world(canary=True)
    assert await world.cluster.get(NAMESPACES, world.namespace)
