"""Which kinds a server has: discovery tells, also those who may not list them."""

from __future__ import annotations

from clusterheal.kube.ports import Cluster, Resource
from clusterheal.kube.resources import CONFIG_MAPS, DEPLOYMENTS


async def test_discovery_tells_served_kinds_from_absent_ones(cluster: Cluster) -> None:
    assert await cluster.serves(CONFIG_MAPS)
    assert await cluster.serves(DEPLOYMENTS)
    assert not await cluster.serves(Resource(group="apps", version="v1", plural="gadgets", kind="Gadget"))
    assert not await cluster.serves(Resource(group="nowhere.example", version="v1", plural="gadgets", kind="Gadget"))
