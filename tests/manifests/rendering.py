"""Renders the manifests as a person would, in a copy of them, so that overlays can be varied and added."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = ("development", "production")
NAMESPACES = {"development": "self-healing-platform-dev", "production": "self-healing-platform"}
PLATFORMS = ("rhoai-2x", "rhoai-3x", "vanilla-kubernetes")
OPTIONS = (
    "external-secrets",
    "grafana",
    "istio",
    "keda",
    "mco-access",
    "network-policy",
    "nvidia-gpu",
    "remediation-enforce",
    "remediation-nodes",
)
INCLUDED = ("images", "model-server-monitor", "storage-odf", "storage-standard")
"""Components that the overlays or other components take in by themselves."""

Manifest = dict[str, Any]


def kustomize(path: Path) -> list[Manifest]:
    """What `kubectl kustomize` makes of a folder."""
    done = subprocess.run(["kubectl", "kustomize", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [doc for doc in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if doc]


def copy_of_manifests(target: Path) -> Path:
    """The folder `manifests` of a copy, with the compiled pipelines where it looks for them."""
    shutil.copytree(MANIFESTS, target / "manifests")
    shutil.copytree(ROOT / "pipelines/compiled/manifests", target / "pipelines/compiled/manifests")
    return target / "manifests"


class Variants:
    """Overlays with another platform and more options; each is rendered once for all processes that share `kept`."""

    def __init__(self, manifests: Path, kept: Path) -> None:
        self.manifests = manifests
        self._kept = kept
        self._made: dict[tuple[str, str, frozenset[str]], list[Manifest]] = {}

    def __call__(self, overlay: str, platform: str = "rhoai-3x", options: Sequence[str] = ()) -> list[Manifest]:
        key = (overlay, platform, frozenset(options))
        if key not in self._made:
            kept = self._kept / "-".join([overlay, platform, *sorted(options), "rendered.json"])
            if not kept.exists():
                half = kept.with_suffix(f".{os.getpid()}")
                half.write_text(json.dumps(kustomize(self.folder(overlay, platform, options))))
                half.replace(kept)
            self._made[key] = json.loads(kept.read_text())
        return self._made[key]

    def everywhere(self) -> dict[str, list[Manifest]]:
        """By what it is: every overlay on every platform, as it stands and with all options."""
        chosen = [(o, p, options) for o in OVERLAYS for p in PLATFORMS for options in ((), OPTIONS)]
        return {f"{o}/{p}{', all options' if options else ''}": self(o, p, options) for o, p, options in chosen}

    def folder(self, overlay: str, platform: str, options: Sequence[str]) -> Path:
        """A copy of the overlay's folder beside it: its platform replaced, options put first."""
        name = "-".join(["variant", overlay, platform, *sorted(options)])
        folder = self.manifests / "overlays" / name
        if not folder.exists():
            shutil.copytree(self.manifests / "overlays" / overlay, folder)
            edit_components(folder / "kustomization.yaml", platform, options)
        return folder


def edit_components(kustomization: Path, platform: str, options: Sequence[str]) -> None:
    """Options first, then the platform, then the images: the order that manifests/README.md asks for."""
    content = yaml.safe_load(kustomization.read_text())
    given = [Path(c).name for c in content["components"]]
    assert given[-1] == "images"
    assert given[-2] in PLATFORMS
    chosen = [o for o in options if o not in given] + given[:-2] + [platform, "images"]
    content["components"] = [f"../../components/{name}" for name in chosen]
    kustomization.write_text(yaml.safe_dump(content, sort_keys=False))


def one(objects: Sequence[Manifest], kind: str, name: str) -> Manifest:
    """The only object of that kind and name."""
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)} found"
    return found[0]


def label(o: Manifest) -> str:
    return f"{o['kind']}/{o['metadata']['name']}"


def pods(o: Manifest) -> Iterator[Manifest]:
    """Specifications of the pods that come of an object, custom resources' included."""
    spec = o.get("spec") or {}
    if o["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job", "Notebook"):
        yield spec["template"]["spec"]
    elif o["kind"] == "CronJob":
        yield spec["jobTemplate"]["spec"]["template"]["spec"]
    elif o["kind"] == "ServingRuntime":
        yield spec
    elif o["kind"] == "InferenceService":
        model = {"name": "kserve-container", **spec["predictor"]["model"]}
        yield {**spec["predictor"], "containers": [model]}


def containers(o: Manifest) -> Iterator[tuple[Manifest, Manifest]]:
    """Each container with its pod, of objects that bring whole containers; an InferenceService only amends one."""
    if o["kind"] == "InferenceService":
        return
    for pod in pods(o):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield pod, container


def environment(container: Manifest) -> dict[str, str]:
    return {e["name"]: e.get("value", "") for e in container.get("env", [])}


def engine(objects: Sequence[Manifest]) -> Manifest:
    """The engine's container."""
    found: Manifest = one(objects, "Deployment", "coordination-engine")["spec"]["template"]["spec"]["containers"][0]
    return found
