"""The images' recipes, without a container engine: what they say, and that the install lines make what starts."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "images"
FILES = sorted(IMAGES.glob("*.Containerfile"))
EXTRAS = {"engine": "engine", "model-server": "${EXTRA}", "pipeline": "pipelines", "workbench": "workbench"}


def stages(file: Path) -> list[str]:
    return re.split(r"(?m)^FROM ", file.read_text())[1:]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_each_installs_its_extra_and_runs_as_nobody_in_particular(file: Path) -> None:
    build, run = stages(file)
    assert build.startswith("${BUILD_BASE} AS build")
    assert f"RUN bash /src/images/install.sh /opt/clusterheal {EXTRAS[file.stem]}\n" in build
    assert run.startswith("${BUILD_BASE}" if file.stem == "workbench" else "${RUNTIME_BASE}")
    assert re.findall(r"(?m)^USER (\S+)", run) == ["1001"]
    assert re.findall(r"(?m)^COPY (.*)", run) == ["--from=build /opt/clusterheal /opt/clusterheal"]
    assert "HEALTHCHECK" in run
    for name in ("title", "description", "source", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in run
    assert "pip install" not in run
    assert "latest" not in file.read_text()


def test_there_is_a_recipe_for_every_image_that_the_manifests_name() -> None:
    text = (ROOT / "manifests/components/images/kustomization.yaml").read_text()
    named = {name.removesuffix("-gpu") for name in re.findall(r"name: clusterheal-([a-z-]+)", text)}
    assert named - {"development-minio"} == {f.stem for f in FILES}


def _build(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CONTAINER_ENGINE": "no-such-engine"}
    command = ["bash", str(root / "images/build.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("digest", ["0" * 64, "abc", None])
def test_a_base_that_is_not_pinned_is_refused(tmp_path: Path, digest: str | None) -> None:
    _copy(tmp_path, digest)
    done = _build(tmp_path, "quay.io/example", "0.1.0", "engine")
    assert done.returncode == 1
    assert "does not pin registry.access.redhat.com/ubi9/python-311" in done.stderr


def test_a_pinned_base_goes_on_to_the_container_engine_but_not_for_latest(tmp_path: Path) -> None:
    _copy(tmp_path, "a" * 64)
    assert "no-such-engine is not installed" in _build(IMAGES.parent, "quay.io/example", "0.1.0").stderr
    assert "no-such-engine is not installed" in _build(tmp_path, "quay.io/example", "0.1.0").stderr
    assert "'latest' is nobody's version" in _build(tmp_path, "quay.io/example", "latest").stderr


def _copy(target: Path, digest: str | None) -> None:
    (target / "images").mkdir()
    (target / "images/build.sh").write_text((IMAGES / "build.sh").read_text())
    bases = (IMAGES / "bases.env").read_text()
    (target / "images/bases.env").write_text(
        re.sub(r"@sha256:[0-9a-f]{64}", f"@sha256:{digest}" if digest else "", bases)
    )


def test_the_workflow_s_actions_are_pinned_to_commits() -> None:
    used = re.findall(r"(?m)uses: *(\S+)(.*)$", (IMAGES / "workflow.yaml").read_text())
    assert len(used) >= 5
    for action, comment in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action), (
            f"{action} is a tag or a branch, which can be moved"
        )
        assert re.match(r" # v\d+\.\d+\.\d+", comment), f"{action} does not say its version"
