"""What is stored under pipelines/compiled, and the components' READMEs, are what the code makes today."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusterheal_pipelines.cluster import CA_BUNDLES, SECRET_VARIABLES, VARIABLES
from clusterheal_pipelines.compatibility import newer_than_backend
from clusterheal_pipelines.compiling import PIPELINES, compile_all, compile_pipeline
from clusterheal_pipelines.readmes import component_readmes

from clusterheal.errors import InvalidInput
from clusterheal.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "pipelines" / "compiled"
GROUPS = ("comp-condition", "comp-exit-handler", "comp-for-loop")
DIGEST = "quay.io/example/clusterheal-pipeline@sha256:" + "a" * 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compiled")
    compile_all(out)
    return out


def _spec(path: Path) -> dict[str, Any]:
    spec = next(yaml.safe_load_all(path.read_text()))
    assert isinstance(spec, dict)
    return spec


def _tasks(spec: dict[str, Any]) -> list[dict[str, Any]]:
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    return [task for dag in dags for task in dag["tasks"].values()]


def test_stored_packages_are_what_the_code_compiles_to(made: Path) -> None:
    fresh = {p.relative_to(made): p.read_text() for p in made.rglob("*.yaml")}
    stored = {p.relative_to(STORED): p.read_text() for p in STORED.rglob("*.yaml")}
    assert set(stored) == set(fresh)
    different = [str(path) for path, text in fresh.items() if stored[path] != text]
    assert different == [], "run `make compile` and commit the result"


def test_stored_readmes_are_what_the_signatures_say() -> None:
    for name, text in component_readmes().items():
        stored = ROOT / "components" / "clusterheal_components" / name / "README.md"
        assert stored.read_text() == text, f"{name}: run `make compile` and commit the result"


def test_every_input_and_output_of_every_component_is_explained() -> None:
    for name, text in component_readmes().items():
        empty = [line for line in text.splitlines() if line.startswith("| `") and line.endswith("|  |")]
        assert empty == [], name


def test_components_are_thin() -> None:
    for path in (ROOT / "components" / "clusterheal_components").glob("*/component.py"):
        assert len(path.read_text().splitlines()) <= 40, path


@pytest.mark.parametrize("name", PIPELINES)
def test_packages_use_nothing_that_a_2_14_backend_lacks(made: Path, name: str) -> None:
    assert newer_than_backend((made / f"{name}.yaml").read_text()) == []


def test_fields_that_are_too_new_are_noticed(made: Path) -> None:
    documents = list(yaml.safe_load_all((made / "train.yaml").read_text()))
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors["exec-collect"]["secretAsEnv"][0]["optional"] = False
    documents[1]["platforms"]["kubernetes"]["pipelineConfig"] = {"activeDeadlineSeconds": 5}
    assert newer_than_backend(yaml.safe_dump_all(documents)) == [
        "kfp_kubernetes.SecretAsEnv.optional",
        "ml_pipelines.PipelineConfig.active_deadline_seconds",
    ]


@pytest.mark.parametrize("name", PIPELINES)
def test_parameters_have_defaults_and_descriptions(made: Path, name: str) -> None:
    spec = _spec(made / f"{name}.yaml")
    assert spec["pipelineInfo"]["displayName"]
    for parameter, entry in spec["root"]["inputDefinitions"]["parameters"].items():
        assert "defaultValue" in entry, parameter
        assert entry.get("description"), parameter


@pytest.mark.parametrize("name", PIPELINES)
def test_the_outcome_is_always_reported(made: Path, name: str) -> None:
    tasks = _spec(made / f"{name}.yaml")["root"]["dag"]["tasks"]
    last = next(t for t in tasks.values() if t["taskInfo"]["name"] == "Report outcome")
    assert last["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


@pytest.mark.parametrize("name", PIPELINES)
def test_what_reads_the_world_is_never_cached(made: Path, name: str) -> None:
    pure = re.compile(r"^(Train|Gate) (detector|forecaster)$")
    for task in _tasks(_spec(made / f"{name}.yaml")):
        if "dag" in task["componentRef"]["name"] or not task["componentRef"]["name"].startswith("comp-"):
            continue
        cached = task.get("cachingOptions", {}).get("enableCache", False)
        groups = task["componentRef"]["name"].startswith(GROUPS)
        assert groups or cached == bool(pure.match(task["taskInfo"]["name"])), task["taskInfo"]["name"]


def _executors(made: Path, name: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Executor -> its container and what Kubernetes is told about it."""
    spec, platform = yaml.safe_load_all((made / f"{name}.yaml").read_text())
    configured = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = spec["deploymentSpec"]["executors"]
    assert set(configured) == set(executors)
    return {key: (executors[key]["container"], config) for key, config in configured.items()}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_has_limits_and_ends_in_time(made: Path, name: str) -> None:
    for container, config in _executors(made, name).values():
        assert int(config["activeDeadlineSeconds"]) > 0
        assert re.fullmatch(r"\d+Gi", container["resources"]["resourceMemoryLimit"])
        assert container["resources"]["resourceCpuLimit"]


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_gets_addresses_credentials_and_authorities(made: Path, name: str) -> None:
    for container, config in _executors(made, name).values():
        (addresses,), (credentials,) = config["configMapAsEnv"], config["secretAsEnv"]
        assert addresses["configMapName"] == "clusterheal-pipelines"
        assert tuple(k["configMapKey"] for k in addresses["keyToEnv"]) == VARIABLES
        assert all(k["configMapKey"] == k["envVar"] for k in addresses["keyToEnv"])
        assert credentials["secretName"] == "model-storage"
        assert tuple(k["secretKey"] for k in credentials["keyToEnv"]) == SECRET_VARIABLES
        mounted = {v["configMapName"]: (v["mountPath"], v["optional"]) for v in config["configMapAsVolume"]}
        assert mounted == {bundle: (path, True) for bundle, path in CA_BUNDLES.items()}
        assert container["env"] == [{"name": "CLUSTERHEAL_BUILD__IMAGE", "value": container["image"]}]


def test_every_variable_of_the_pods_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a value it is taken, and an empty one, which a ConfigMap may have to hold, counts as not set."""
    defaults = load_settings().model_dump()
    for name in VARIABLES:
        monkeypatch.setenv(name, "https://example.test/" if "URL" in name else "/somewhere")
    given = load_settings().model_dump(exclude_defaults=True)
    assert sum(len(section) for section in given.values()) == len(VARIABLES)
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    assert load_settings().model_dump() == defaults


@pytest.mark.parametrize("name", PIPELINES)
def test_pods_can_be_told_apart_in_a_bill(made: Path, name: str) -> None:
    for key, (_, config) in _executors(made, name).items():
        labels = config["podMetadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "self-healing-platform"
        assert labels["clusterheal.io/cost"] in ("collection", "training", "judging", "registry", "rollout"), key
        assert all(re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", v) for v in labels.values())
    assert all(
        (c["podMetadata"]["labels"]["clusterheal.io/cost"] == "training") == key.startswith("exec-train")
        for key, (_, c) in _executors(made, name).items()
    )


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_has_room_of_its_own_to_write(made: Path, name: str) -> None:
    for key, (_, config) in _executors(made, name).items():
        volumes = {v["mountPath"]: v for v in config["emptyDirMounts"]}
        assert volumes["/tmp"]["sizeLimit"]
        assert ("/dev/shm" in volumes) == key.startswith("exec-train")
        assert all(v.get("medium") == "Memory" for path, v in volumes.items() if path == "/dev/shm")


def test_trainings_alone_ask_for_gpus_and_for_nodes(made: Path) -> None:
    for name in PIPELINES:
        gpu = {key for key, (container, _) in _executors(made, name).items() if "accelerator" in container["resources"]}
        assert all(key.startswith("exec-train") for key in gpu)
        assert len(gpu) == (2 if name in ("train", "retrain") else 0)
        for key, (_, config) in _executors(made, name).items():
            assert ("tolerations" in config) == (key in gpu)
            selector = {"nodeSelectorJson": {"componentInputParameter": "pipelinechannel--node_selector"}}
            assert config.get("nodeSelector") == (selector if key in gpu else None)
            if key in gpu:
                assert config["tolerations"] == [
                    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
                ]


@pytest.mark.parametrize("name", PIPELINES)
def test_no_step_is_repeated_whatever_made_it_fail(made: Path, name: str) -> None:
    assert [t["taskInfo"]["name"] for t in _tasks(_spec(made / f"{name}.yaml")) if "retryPolicy" in t] == []


@pytest.mark.parametrize("name", PIPELINES)
def test_every_artifact_is_of_a_type_that_the_backend_knows(made: Path, name: str) -> None:
    known = {"Artifact", "Dataset", "Model", "Metrics", "ClassificationMetrics", "Markdown", "HTML"}
    for component in _spec(made / f"{name}.yaml")["components"].values():
        for side in ("inputDefinitions", "outputDefinitions"):
            for key, entry in component.get(side, {}).get("artifacts", {}).items():
                assert entry["artifactType"]["schemaTitle"] in {f"system.{kind}" for kind in known}, key
                assert entry["artifactType"]["schemaVersion"] == "0.0.1"


@pytest.mark.parametrize("name", PIPELINES)
def test_placeholders_stand_alone_where_the_driver_fills_them_in(made: Path, name: str) -> None:
    """The driver compares the whole constant with the placeholder's name; inside other text it stays as it is."""
    known = {"{{$.pipeline_job_uuid}}", "{{$.pipeline_job_name}}"}
    for task in _tasks(_spec(made / f"{name}.yaml")):
        for key, entry in task.get("inputs", {}).get("parameters", {}).items():
            constant = entry.get("runtimeValue", {}).get("constant")
            if isinstance(constant, str) and "{{" in constant:
                assert constant in known or constant.startswith("{{$.inputs.parameters['pipelinechannel--"), key


def test_a_claim_for_large_data_is_mounted_in_every_step_where_one_is_named(tmp_path: Path) -> None:
    compile_all(tmp_path, data_claim="clusterheal-data")
    wanted = {
        "mountPath": "/data",
        "constant": "clusterheal-data",
        "pvcNameParameter": {"runtimeValue": {"constant": "clusterheal-data"}},
    }
    for name in PIPELINES:
        text = (tmp_path / f"{name}.yaml").read_text()
        assert text.startswith("# PIPELINE DEFINITION\n# Name: ")
        assert newer_than_backend(text) == []
        assert all(config["pvcMount"] == [wanted] for _, config in _executors(tmp_path, name).values())
        version = list(yaml.safe_load_all((tmp_path / "manifests" / f"{name}.yaml").read_text()))[1]
        platform = version["spec"]["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert all(config["pvcMount"] == [wanted] for config in platform.values())
    with pytest.raises(InvalidInput, match="PersistentVolumeClaim"):
        compile_pipeline("score", tmp_path / "x.yaml", data_claim="Not A Name")


@pytest.mark.parametrize("name", PIPELINES)
def test_no_step_is_called_like_its_pipeline(made: Path, name: str) -> None:
    # Loading such a package gives that one component instead of the pipeline, without a word.
    assert f"comp-{name}" not in _spec(made / f"{name}.yaml")["components"]


def test_gpus_are_parameters_that_reach_the_inner_graph(made: Path) -> None:
    spec = _spec(made / "train.yaml")
    inner = spec["components"]["comp-exit-handler-1"]["inputDefinitions"]["parameters"]
    wanted = {f"pipelinechannel--{name}" for name in ("accelerator", "accelerators", "node_selector")}
    assert wanted <= set(inner)
    resources = spec["deploymentSpec"]["executors"]["exec-train-forecaster"]["container"]["resources"]
    assert "pipelinechannel--accelerators" in resources["accelerator"]["resourceCount"]


def test_a_version_is_named_by_its_content(made: Path, tmp_path: Path) -> None:
    def names(path: Path) -> list[str]:
        return [d["metadata"]["name"] for d in yaml.safe_load_all(path.read_text())]

    compile_all(tmp_path, image=DIGEST)
    plain, pinned = names(made / "manifests" / "train.yaml"), names(tmp_path / "manifests" / "train.yaml")
    assert plain[0] == pinned[0] == "clusterheal-train"
    assert plain[1] != pinned[1]
    assert all(re.fullmatch(r"clusterheal-train-[0-9a-f]{12}", version) for version in (plain[1], pinned[1]))
    version = list(yaml.safe_load_all((tmp_path / "manifests" / "train.yaml").read_text()))[1]
    assert version["spec"]["pipelineName"] == "clusterheal-train"
    executors = version["spec"]["pipelineSpec"]["deploymentSpec"]["executors"]
    assert {e["container"]["image"] for e in executors.values()} == {DIGEST}
    assert {e["container"]["env"][0]["value"] for e in executors.values()} == {DIGEST}


@pytest.mark.parametrize("image", ["quay.io/example/image", "quay.io/example/image:1.0", "image@sha256:abc"])
def test_an_image_without_a_digest_is_refused(tmp_path: Path, image: str) -> None:
    with pytest.raises(InvalidInput, match="pinned by digest"):
        compile_pipeline("score", tmp_path / "score.yaml", image=image)


def test_an_unknown_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="train, release, retrain, backfill, score"):
        compile_pipeline("tarin", tmp_path / "x.yaml")
