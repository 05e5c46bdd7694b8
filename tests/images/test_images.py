"""The images' recipes, without a container engine: what they say, and that the install lines make what starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
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
    assert "no-such-engine is not installed" in _build(tmp_path, "quay.io/example", "0.1.0").stderr
    assert "'latest' is nobody's version" in _build(tmp_path, "quay.io/example", "latest").stderr


def _copy(target: Path, digest: str | None) -> None:
    (target / "images").mkdir()
    (target / "images/build.sh").write_text((IMAGES / "build.sh").read_text())
    bases = (IMAGES / "bases.env").read_text()
    (target / "images/bases.env").write_text(re.sub(r"@sha256:0{64}", f"@sha256:{digest}" if digest else "", bases))


@pytest.mark.install
@pytest.mark.timeout(600)
def test_the_engine_starts_with_its_own_extra_alone(tmp_path: Path) -> None:
    """Runs the image's install line; needs a package index, and skips where there is none."""
    wheel = _wheel(tmp_path)
    venv = tmp_path / "venv"
    done = _install(venv, "engine", wheel)
    assert done.returncode == 0, done.stderr[-1000:]
    started = subprocess.run([venv / "bin/clusterheal", "engine", "--help"], **_CLEAN)  # type: ignore[call-overload]
    assert started.returncode == 0, started.stderr
    code = "import clusterheal.engine.app, clusterheal.commands.engine, sys; print(sorted(m for m in sys.modules))"
    imported = subprocess.run([venv / "bin/python", "-c", code], **_CLEAN)  # type: ignore[call-overload]
    assert imported.returncode == 0, imported.stderr
    for heavy in ("torch", "kfp", "kserve", "pandas"):
        assert f"'{heavy}'" not in imported.stdout
        assert not list(venv.glob(f"lib/python*/site-packages/{heavy}"))
    assert not (venv / "bin/pip").exists(), "nothing installs packages in a running image"


_CLEAN = {"capture_output": True, "text": True, "check": False, "env": {"PATH": os.environ["PATH"], "HOME": "/tmp"}}


def _wheel(target: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(target), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    return next(target.glob("*.whl"))


def _install(venv: Path, extra: str, wheel: Path) -> subprocess.CompletedProcess[str]:
    probe = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(venv.parent / "probe"),
        "six",
    ]
    if subprocess.run(probe, capture_output=True, check=False, timeout=60).returncode != 0:
        pytest.skip("no package index can be reached")
    command = ["bash", str(IMAGES / "install.sh"), str(venv), extra, str(wheel)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, env=environment)
