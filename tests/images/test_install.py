"""images/install.sh, the one line with which each image installs.

The engine's is carried out. The others' packages are gigabytes, so pip resolves their line against the packages that
the tests run with, and what the image's modules import is imported from a folder that has that extra's packages only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.images.reach import FOLDERS, needed, our_modules

ROOT = Path(__file__).resolve().parents[2]
INSTALL = ROOT / "images/install.sh"
PROJECT = "self-healing-platform"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def package_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = str(tmp_path_factory.mktemp("probe"))
    probe = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "six"]
    if subprocess.run(probe, capture_output=True, check=False, timeout=60).returncode != 0:
        pytest.skip("no package index can be reached")


def install(venv: Path, extra: str, wheel: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = ["bash", str(INSTALL), str(venv), extra, str(wheel)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=280, env=inherited | environment
    )


def site_packages() -> Path:
    """Where the packages that the tests run with are."""
    return Path(str(distribution("pip").locate_file("")))


def resolved(venv: Path, extra: str, wheel: Path, **environment: str) -> dict[str, str]:
    """Name and version of what the last line of install.sh would add to the packages that the tests run with."""
    report = venv.parent / "report.json"
    dry = {"PYTHONPATH": str(site_packages()), "PIP_DRY_RUN": "1", "PIP_REPORT": str(report), **environment}
    done = install(venv, extra, wheel, **dry)
    assert done.returncode == 0, done.stderr[-2000:]
    return {i["metadata"]["name"]: i["metadata"]["version"] for i in json.loads(report.read_text())["install"]}


def test_the_line_resolves_to_the_packages_that_the_tests_run_with(tmp_path: Path, wheel: Path) -> None:
    """The workbench's extra takes in all others, so what resolves for it resolves for each of them."""
    assert set(resolved(tmp_path / "venv", "workbench", wheel, PIP_NO_INDEX="1")) == {PROJECT}


@pytest.mark.install
def test_the_gpu_s_line_resolves_to_its_own_lock(tmp_path: Path, wheel: Path, package_index: None) -> None:
    found = resolved(tmp_path / "venv", "serving-gpu", wheel)
    locked = dict(
        line.split("==")
        for line in (ROOT / "images/constraints-gpu.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    assert found == locked


def closure(root: Distribution, extra: str) -> list[Distribution]:
    """What the distribution requires with the extra, and all that those require."""
    todo, found = [(root, extra)], dict[tuple[str, str], Distribution]()
    while todo:
        where, active = todo.pop()
        for requirement in map(Requirement, where.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": active}):
                for wanted in ("", *requirement.extras):
                    if (requirement.name, wanted) not in found:
                        found[requirement.name, wanted] = distribution(requirement.name)
                        todo.append((found[requirement.name, wanted], wanted))
    return list(found.values())


def view(folder: Path, wheel: Path, extra: str) -> Path:
    """A folder of links to what the extra's packages have, whole packages at once, and to no others."""
    entries: dict[Path, Path] = {}
    (metadata,) = (entry for entry in zipfile.Path(wheel).iterdir() if entry.name.endswith(".dist-info"))
    for found in closure(PathDistribution(metadata), extra):
        names = [file for file in found.files or [] if ".." not in file.parts and file.suffix != ".pth"]
        whole = {file.parent for file in names if file.name in ("__init__.py", "METADATA")}
        for file in names:
            entry = next((parent for parent in list(file.parents)[-2::-1] if parent in whole), file)
            entries[folder / entry] = Path(str(found.locate_file(entry)))
    for target, origin in sorted(
        entries.items(), key=lambda e: len(e[0].parts)
    ):  # a package before what others put into it
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(origin)
    return folder


def imports(extra: str) -> str:
    """Python that imports what the image's modules import anywhere; the workbench's, which take long, are looked up."""
    ours = list(our_modules())
    entries = {
        "engine": ["clusterheal.commands.engine"],
        "serving": ["clusterheal.commands.serve"],
        "pipelines": [m for m in ours if m.startswith(("clusterheal_components", "clusterheal_pipelines"))],
        "workbench": ours,
    }
    optional = (
        {"clusterheal.inference.grpc"} if extra in ("engine", "pipelines") else set()
    )  # it says itself what it lacks
    names = needed(entries[extra], frozenset(optional))
    assert names > {"numpy", "pydantic"}
    if extra == "workbench":
        tops = sorted({name.partition(".")[0] for name in names})
        return f"import importlib.util as u, jupyterlab; assert all(map(u.find_spec, {tops}))"
    return f"import {', '.join([*entries[extra], *sorted(names)])}"


@pytest.mark.parametrize(
    ("extra", "absent"),
    [("serving", ("torch", "kfp")), ("pipelines", ("kserve", "jupyterlab")), ("workbench", ("checkov", "pytest"))],
)
def test_the_extra_s_packages_are_all_that_its_image_imports(
    tmp_path: Path, wheel: Path, extra: str, absent: tuple[str, ...]
) -> None:
    packages = view(tmp_path / "packages", wheel, extra)
    for name in absent:
        assert not (packages / name).exists()
    path = [packages, *(ROOT / folder for folder in FOLDERS)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": ":".join(map(str, path))}
    command = [sys.executable, "-S", "-P", "-c", imports(extra)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.install
def test_the_engine_starts_with_its_own_extra_alone(tmp_path: Path, wheel: Path, package_index: None) -> None:
    venv = tmp_path / "venv"
    done = install(venv, "engine", wheel)
    assert done.returncode == 0, done.stderr[-1000:]
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    started = subprocess.run(
        [venv / "bin/clusterheal", "engine", "--help"], capture_output=True, text=True, check=False, env=clean
    )
    assert started.returncode == 0, started.stderr
    code = f"{imports('engine')}, sys; print(sorted(sys.modules))"
    imported = subprocess.run([venv / "bin/python", "-c", code], capture_output=True, text=True, check=False, env=clean)
    assert imported.returncode == 0, imported.stderr
    for heavy in ("torch", "kfp", "kserve", "pandas"):
        assert f"'{heavy}'" not in imported.stdout
        assert not list(venv.glob(f"lib/python*/site-packages/{heavy}"))
    assert not (venv / "bin/pip").exists(), "nothing installs packages in a running image"
