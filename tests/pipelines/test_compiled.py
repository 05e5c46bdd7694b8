"""What is stored under pipelines/compiled, and the components' READMEs, are what the code makes today."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusterheal_pipelines.compatibility import newer_than_backend
from clusterheal_pipelines.compiling import PIPELINES, compile_all, compile_pipeline
from clusterheal_pipelines.readmes import component_readmes

from clusterheal.errors import InvalidInput

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "pipelines" / "compiled"
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
        groups = task["componentRef"]["name"].startswith(("comp-condition", "comp-exit-handler", "comp-for-loop"))
        assert groups or cached == bool(pure.match(task["taskInfo"]["name"])), task["taskInfo"]["name"]


def test_every_step_has_limits_labels_addresses_and_credentials(made: Path) -> None:
    for name in PIPELINES:
        spec, platform = yaml.safe_load_all((made / f"{name}.yaml").read_text())
        configured = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        executors = spec["deploymentSpec"]["executors"]
        assert set(configured) == set(executors)
        for key, config in configured.items():
            assert int(config["activeDeadlineSeconds"]) > 0
            assert config["podMetadata"]["labels"]["app.kubernetes.io/part-of"] == "self-healing-platform"
            assert config["secretAsEnv"][0]["secretName"] == "model-storage"
            assert config["configMapAsEnv"][0]["configMapName"] == "clusterheal-pipelines"
            assert executors[key]["container"]["resources"]["resourceMemoryLimit"]
        gpu = [config for config in configured.values() if config.get("tolerations")]
        assert len(gpu) == (2 if name in ("train", "retrain") else 0)


@pytest.mark.parametrize("name", PIPELINES)
def test_no_step_is_called_like_its_pipeline(made: Path, name: str) -> None:
    # Loading such a package gives that one component instead of the pipeline, without a word.
    assert f"comp-{name}" not in _spec(made / f"{name}.yaml")["components"]


def test_gpus_are_parameters_that_reach_the_inner_graph(made: Path) -> None:
    spec = _spec(made / "train.yaml")
    inner = spec["components"]["comp-exit-handler-1"]["inputDefinitions"]["parameters"]
    assert {"pipelinechannel--accelerator", "pipelinechannel--accelerators"} <= set(inner)
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


@pytest.mark.parametrize("image", ["quay.io/example/image", "quay.io/example/image:1.0", "image@sha256:abc"])
def test_an_image_without_a_digest_is_refused(tmp_path: Path, image: str) -> None:
    with pytest.raises(InvalidInput, match="pinned by digest"):
        compile_pipeline("score", tmp_path / "score.yaml", image=image)


def test_an_unknown_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="train, release, retrain, backfill, score"):
        compile_pipeline("tarin", tmp_path / "x.yaml")
