"""Training by several processes: through the SDK's local backend for real, and as a TrainJob that a cluster accepts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from clusterheal_components.train_job import Fit, train_locally, train_on_cluster
from clusterheal_components.training import train_forecaster
from kubernetes import client, config

from clusterheal.contracts import FORECASTER, ModelPackage
from clusterheal.errors import InvalidInput, PermanentError
from clusterheal.local.demo_platform import NAMESPACE, kubeconfig
from clusterheal.settings import KubernetesSettings, TrainJobSettings

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
MINUTES = timedelta(minutes=5)
RUNTIME: dict[str, Any] = {
    "apiVersion": f"{GROUP}/{VERSION}",
    "kind": "ClusterTrainingRuntime",
    "metadata": {"name": "torch-distributed", "labels": {"trainer.kubeflow.org/framework": "torch"}},
    "spec": {
        "mlPolicy": {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                            "spec": {
                                "template": {"spec": {"containers": [{"name": "node", "image": "pytorch/pytorch"}]}}
                            },
                        },
                    }
                ]
            }
        },
    },
}


def test_two_local_processes_train_a_package(frozen: Path, tmp_path: Path) -> None:
    before = Path.cwd()
    about = train_forecaster(frozen, tmp_path / "both", seed=7, device="cpu", max_seconds=3.0, processes=2)
    package = ModelPackage.load(tmp_path / "both")
    assert package.name == FORECASTER == about["name"]
    assert package.metrics["training"]["steps"] > 0
    assert Path.cwd() == before


def test_a_local_job_that_fails_says_why(tmp_path: Path) -> None:
    fit = Fit(model=FORECASTER, dataset=tmp_path / "nothing", out=tmp_path / "out", device="cpu")
    with pytest.raises(PermanentError, match=r"training job \w+ failed:(.|\n)*is no training snapshot"):
        train_locally(fit, processes=2, timeout=MINUTES)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def cluster(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An API server with Kubeflow Trainer's CRDs and its usual runtime; the path of its kubeconfig."""
    folder = tmp_path_factory.mktemp("trainer")
    (folder / "crds").mkdir()
    for file in (shared_dir / "crds").glob("trainer.kubeflow.org_*.yaml"):
        shutil.copy(file, folder / "crds")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    (folder / "crds" / "objects.yaml").write_text(yaml.safe_dump_all([namespace, RUNTIME]))
    command = [sys.executable, "-m", "clusterheal.cli", "emulator", "--port", "0", "--crds", str(folder / "crds")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            found = next(filter(None, (re.search(r"http://[\d.:]+", line) for line in process.stdout)))
            (folder / "kubeconfig").write_text(kubeconfig(found.group()))
            yield folder / "kubeconfig"
        finally:
            process.terminate()


@pytest.fixture
def api(cluster: Path) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(config.new_client_from_config(str(cluster)))


class Controller(threading.Thread):
    """Kubeflow Trainer's part: while this is entered, sets the condition that ends each TrainJob."""

    def __init__(self, api: client.CustomObjectsApi, condition: str) -> None:
        super().__init__(daemon=True)
        self.api, self.condition = api, condition
        self.over = threading.Event()
        self.seen: dict[str, Any] = {}

    def __enter__(self) -> Controller:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join(10)

    def run(self) -> None:
        while not self.over.wait(0.1):
            for job in self.api.list_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL)["items"]:
                if not job.get("status"):
                    self.seen = job
                    self._end(job["metadata"]["name"])

    def _end(self, name: str) -> None:
        ended = {"type": self.condition, "status": "True", "reason": "Test", "message": ""}
        body = {"status": {"conditions": [ended | {"lastTransitionTime": "2026-01-01T00:00:00Z"}]}}
        self.api.patch_namespaced_custom_object_status(GROUP, VERSION, NAMESPACE, PLURAL, name, body)


JOB = TrainJobSettings(
    image="registry.example/clusterheal@sha256:" + "0" * 64,
    claim="training-data",
    nodes=2,
    accelerators=1,
    timeout=MINUTES,
)
FIT = Fit(model=FORECASTER, dataset=Path("/mnt/training/dataset"), out=Path("/mnt/training/out"), max_seconds=60.0)


def test_a_cluster_accepts_the_train_job_and_its_end_is_waited_for(
    cluster: Path, api: client.CustomObjectsApi, shared_dir: Path
) -> None:
    with Controller(api, "Complete") as controller:
        name = train_on_cluster(FIT, JOB, KubernetesSettings(kubeconfig=cluster, namespace=NAMESPACE))
    job = controller.seen
    assert job["metadata"]["name"] == name
    trainer = job["spec"]["trainer"]
    assert job["spec"]["runtimeRef"]["kind"] == "ClusterTrainingRuntime"
    assert job["spec"]["runtimeRef"]["name"] == "torch-distributed"
    assert trainer["command"] == ["torchrun"]
    assert trainer["args"] == ["-m", "clusterheal_components.training", *FIT.arguments()]
    assert trainer["numNodes"] == 2
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    pod = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    spec = pod["template"]["spec"]["template"]["spec"]
    assert spec["volumes"] == [{"name": "training", "persistentVolumeClaim": {"claimName": "training-data"}}]
    assert spec["containers"] == [
        {"name": "node", "volumeMounts": [{"name": "training", "mountPath": "/mnt/training"}]}
    ]
    crd = yaml.safe_load((shared_dir / "crds" / "trainer.kubeflow.org_trainjobs.yaml").read_text())
    jsonschema.validate(job, closed(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))


def test_a_train_job_that_fails_is_an_error(cluster: Path, api: client.CustomObjectsApi) -> None:
    with Controller(api, "Failed"), pytest.raises(PermanentError, match=r"training job \w+ failed"):
        train_on_cluster(FIT, JOB, KubernetesSettings(kubeconfig=cluster, namespace=NAMESPACE))


def test_a_runtime_that_the_cluster_lacks_is_named(cluster: Path) -> None:
    job = JOB.model_copy(update={"runtime": "no-such-runtime"})
    with pytest.raises(PermanentError, match="'no-such-runtime'"):
        train_on_cluster(FIT, job, KubernetesSettings(kubeconfig=cluster, namespace=NAMESPACE))


def test_what_the_jobs_pods_could_not_reach_is_refused_before_anything_is_created() -> None:
    settings = KubernetesSettings(kubeconfig=Path("/nowhere"))
    with pytest.raises(InvalidInput, match=r"train_job\.claim"):
        train_on_cluster(FIT, TrainJobSettings(image="x"), settings)
    with pytest.raises(InvalidInput, match="/tmp/out does not lie on the claim 'training-data'"):
        train_on_cluster(replace(FIT, out=Path("/tmp/out")), JOB, settings)


def closed(schema: Any) -> Any:
    """The structural schema as JSON Schema that refuses fields which an API server would drop."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    out = {k: ({n: closed(p) for n, p in v.items()} if k == "properties" else closed(v)) for k, v in schema.items()}
    if schema.get("properties") and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    return out
