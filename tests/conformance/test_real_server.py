"""Says whether the suite was also run against a real API server."""

from __future__ import annotations

import os

import pytest

from clusterheal.kube.ports import Cluster
from clusterheal.kube.resources import NAMESPACES

KUBECONFIG = "CLUSTERHEAL_TEST_KUBECONFIG"


@pytest.mark.cluster
@pytest.mark.skipif(
    not os.environ.get(KUBECONFIG), reason=f"the conformance suite ran on the emulator only: {KUBECONFIG} is not set"
)
async def test_the_server_of_the_kubeconfig_answers(cluster: Cluster) -> None:
    listed = await cluster.list(NAMESPACES)
    assert "default" in {item["metadata"]["name"] for item in listed.items}
