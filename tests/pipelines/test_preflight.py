"""What keeps a run's pods from starting is found before the run: against the emulated API."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from clusterheal_pipelines.cluster import SECRET_VARIABLES, VARIABLES
from clusterheal_pipelines.preflight import check_accelerators, preflight
from typer.testing import CliRunner

from clusterheal.cli import build_app
from clusterheal.errors import InvalidInput
from clusterheal.kube.ports import ApiError
from clusterheal.kube.resources import CONFIG_MAPS, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS, SECRETS
from clusterheal.local.kube.adapter import SimulatedCluster
from clusterheal.local.kube.api import ApiServer

NAMESPACE = "ml"
GPU = "nvidia.com/gpu"


class Still:
    def now(self) -> datetime:
        return datetime(2026, 1, 5, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None: ...


@pytest.fixture
async def cluster() -> SimulatedCluster:
    """A namespace with all that is needed, a node with two GPUs and one without."""
    made = SimulatedCluster(ApiServer(clock=Still(), rng=random.Random(1)))
    await made.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
    data = dict.fromkeys(VARIABLES, "")
    await made.create(CONFIG_MAPS, {"metadata": {"name": "clusterheal-pipelines"}, "data": data}, namespace=NAMESPACE)
    secret = {"metadata": {"name": "model-storage"}, "data": dict.fromkeys(SECRET_VARIABLES, "eA==")}
    await made.create(SECRETS, secret, namespace=NAMESPACE)
    for name, gpus in (("gpu", {GPU: "2", "nvidia.com/mig-1g.10gb": "0"}), ("cpu", {})):
        node = {"metadata": {"name": name, "labels": {"kind": name}}, "status": {"allocatable": {"cpu": "8", **gpus}}}
        made_node = await made.create(NODES, node)
        await made.update(NODES, {**made_node, "status": node["status"]}, subresource="status")
    return made


async def found(cluster: Any, **parameters: Any) -> str:
    return "; ".join((await preflight(cluster, NAMESPACE, parameters)).problems)


async def test_nothing_is_missing(cluster: SimulatedCluster) -> None:
    assert await found(cluster) == ""
    assert await found(cluster, accelerator=GPU, accelerators="2", node_selector={"kind": "gpu"}) == ""


async def test_a_missing_secret_is_named_with_the_keys_it_needs(cluster: SimulatedCluster) -> None:
    await cluster.delete(SECRETS, "model-storage", namespace=NAMESPACE)
    said = await found(cluster)
    assert said.startswith("Secret ml/model-storage does not exist; it needs the keys AWS_ACCESS_KEY_ID")


async def test_a_missing_key_is_named(cluster: SimulatedCluster) -> None:
    held = await cluster.get(CONFIG_MAPS, "clusterheal-pipelines", namespace=NAMESPACE)
    del held["data"]["CLUSTERHEAL_REGISTRY__URL"]
    await cluster.update(CONFIG_MAPS, held, namespace=NAMESPACE)
    assert "ConfigMap ml/clusterheal-pipelines lacks the keys CLUSTERHEAL_REGISTRY__URL" in await found(cluster)


async def test_a_claim_has_to_be_there_and_to_be_shared(cluster: SimulatedCluster) -> None:
    async def said(name: str) -> tuple[str, ...]:
        return (await preflight(cluster, NAMESPACE, {}, data_claim=name)).problems

    for name, mode in (("shared", "ReadWriteMany"), ("alone", "ReadWriteOnce")):
        spec = {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}}
        await cluster.create(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": name}, "spec": spec}, namespace=NAMESPACE)
    assert await said("shared") == ()
    assert await said("alone") == (
        "PersistentVolumeClaim ml/alone is ReadWriteOnce; steps on several nodes need ReadWriteMany",
    )
    assert await said("absent") == ("PersistentVolumeClaim ml/absent does not exist",)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"accelerator": "amd.com/gpu", "accelerators": "1"}, f"no node has 1 of amd.com/gpu; nodes offer {GPU}"),
        ({"accelerator": GPU, "accelerators": "3"}, f"no node has 3 of {GPU}; nodes offer {GPU}"),
        ({"accelerator": "nvidia.com/mig-1g.10gb", "accelerators": "1"}, "no node has 1 of nvidia.com/mig-1g.10gb"),
        ({"accelerators": "1", "node_selector": {"kind": "cpu"}}, f"no node with these labels has 1 of {GPU}"),
        ({"node_selector": {"kind": "tpu"}}, "no node has the labels {'kind': 'tpu'}"),
    ],
)
async def test_gpus_and_nodes_that_are_not_there(
    cluster: SimulatedCluster, parameters: dict[str, Any], said: str
) -> None:
    assert said in await found(cluster, **parameters)


async def test_what_may_not_be_read_is_said_and_no_problem(cluster: SimulatedCluster) -> None:
    class Forbidden:
        async def get(self, *args: Any, **kwargs: Any) -> Any:
            raise ApiError(403, "Forbidden", "no")

        list = get

    seen = await preflight(Forbidden(), NAMESPACE, {"accelerators": "1"})  # type: ignore[arg-type]
    assert seen.problems == ()
    assert [line.split(" may not")[0] for line in seen.unseen] == [
        "ConfigMap ml/clusterheal-pipelines", "Secret ml/model-storage", "nodes",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "parameters", [{"accelerators": "many"}, {"accelerators": "-1"}, {"accelerator": "gpu"}, {"accelerator": "a b/c"}]
)
def test_accelerators_that_cannot_be_are_refused_without_a_cluster(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match="accelerator"):
        check_accelerators(parameters)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """No cluster, and a pipelines server at which nobody listens."""
    monkeypatch.setenv("CLUSTERHEAL_KUBERNETES__KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.setenv("CLUSTERHEAL_PIPELINES__URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CLUSTERHEAL_PIPELINES__ATTEMPTS", "1")
    return CliRunner()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["submit", "train", "--set", "dys=7"], "pipeline train has no parameter ['dys']"),
        (["submit", "train", "--set", "days=many"], "parameter days: expected number double"),
        (["submit", "train", "--set", "accelerator=gpu"], "accelerator: expected a resource's name"),
        (["schedule", "retrain", "--cron", "0 3 * * *"], "has five fields"),
        (["schedule", "retrain", "--cron", "0 0 3 * * *", "--set", "when=1.5", "--set", "dys=1"], "no parameter"),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked_of_the_server(
    nowhere: CliRunner, command: list[str], said: str
) -> None:
    done = nowhere.invoke(build_app(), ["pipeline", *command])
    assert isinstance(done.exception, InvalidInput)
    assert said in str(done.exception)


def test_without_a_cluster_to_look_at_the_command_says_so_and_goes_on(nowhere: CliRunner) -> None:
    done = nowhere.invoke(build_app(), ["pipeline", "submit", "score"])
    assert "not checked whether the pods could start" in done.stderr
    assert "127.0.0.1:9" in str(done.exception)


def test_an_image_comes_from_the_settings_and_none_is_said(nowhere: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    done = nowhere.invoke(build_app(), ["pipeline", "submit", "score"])
    assert "no image is named" in done.stderr
    monkeypatch.setenv("CLUSTERHEAL_PIPELINES__IMAGE", "quay.io/org/pipeline:1")
    done = nowhere.invoke(build_app(), ["pipeline", "submit", "score"])
    assert "'quay.io/org/pipeline:1' is not pinned by digest" in str(done.exception)
