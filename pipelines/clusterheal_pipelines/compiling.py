"""Compile the pipelines: packages for the dashboard, manifests for GitOps, READMEs of the components."""

from __future__ import annotations

import hashlib
import importlib
import re
from pathlib import Path
from typing import Any

from clusterheal.errors import InvalidInput, PermanentError
from clusterheal_pipelines.compatibility import newer_than_backend
from clusterheal_pipelines.readmes import component_readmes

PIPELINES = ("train", "release", "retrain", "backfill", "score")
MANIFESTS = "manifests"
DATA_PATH = "/data"

_CLAIM = re.compile(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
_DIGEST = re.compile(r"^\S+@sha256:[0-9a-f]{64}$")


def load_pipeline(name: str) -> Any:
    """The pipeline function by name.

    Raises:
        InvalidInput: no such pipeline.
    """
    if name not in PIPELINES:
        raise InvalidInput(f"no pipeline {name!r}; there are {', '.join(PIPELINES)}")
    return getattr(importlib.import_module(f"clusterheal_pipelines.{name}"), name)


def compile_pipeline(name: str, target: Path, *, image: str | None = None, data_claim: str | None = None) -> Path:
    """Write the package of pipeline `name` to `target` (.yaml).

    `image` replaces the components' image; the volume of `data_claim` is mounted at `/data` in every step.

    Raises:
        InvalidInput: no such pipeline, or an image that is not pinned by digest.
        PermanentError: the package uses what the oldest supported backend does not know.
    """
    from kfp import compiler

    pipeline = load_pipeline(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, str(target))
    _place_image(target, image)
    _mount(target, data_claim)
    if found := newer_than_backend(target.read_text()):
        raise PermanentError(f"pipeline {name} uses fields that a 2.14 backend does not know: {', '.join(found)}")
    return target


def compile_manifests(name: str, package: Path, target: Path, *, data_claim: str | None = None) -> Path:
    """Write `Pipeline` and `PipelineVersion` manifests for GitOps; the version's name carries the package's hash.

    A PipelineVersion is immutable: another content must have another name, and the same content the same.
    """
    from kfp import compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    digest = hashlib.sha256(package.read_bytes()).hexdigest()[:12]
    options = KubernetesManifestOptions(
        pipeline_name=f"clusterheal-{name}",
        pipeline_display_name=_display_name(package),
        pipeline_version_name=f"clusterheal-{name}-{digest}",
        pipeline_version_display_name=f"{_display_name(package)} {digest}",
        include_pipeline_manifest=True,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(
        load_pipeline(name), str(target), kubernetes_manifest_options=options, kubernetes_manifest_format=True
    )
    image = re.search(r"^ *image: (\S+)$", package.read_text(), re.MULTILINE)
    _place_image(target, image.group(1) if image else None, pinned=False)
    _mount(target, data_claim)
    return target


def compile_all(out: Path, *, image: str | None = None, data_claim: str | None = None) -> list[Path]:
    """Everything under `out`: `<pipeline>.yaml`, and in `manifests` a kustomize base of their objects."""
    made = []
    for name in PIPELINES:
        package = compile_pipeline(name, out / f"{name}.yaml", image=image, data_claim=data_claim)
        made += [package, compile_manifests(name, package, out / MANIFESTS / f"{name}.yaml", data_claim=data_claim)]
    return [*made, _kustomization(out / MANIFESTS / "kustomization.yaml")]


def _kustomization(target: Path) -> Path:
    """Make the folder a base that `manifests/pipelines` refers to."""
    listed = "".join(f"  - {name}.yaml\n" for name in sorted(PIPELINES))
    target.write_text(f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{listed}")
    return target


def write_readmes(components: Path) -> list[Path]:
    """The README.md of every component, from its signature."""
    made = []
    for name, text in component_readmes().items():
        path = components / name / "README.md"
        path.write_text(text)
        made.append(path)
    return made


def _display_name(package: Path) -> str:
    import yaml

    info = next(yaml.safe_load_all(package.read_text()))["pipelineInfo"]
    return str(info.get("displayName") or info["name"])


def _place_image(target: Path, image: str | None, *, pinned: bool = True) -> None:
    from clusterheal_components.image import IMAGE

    if image is None:
        return
    if pinned and not _DIGEST.match(image):
        raise InvalidInput(f"image {image!r} is not pinned by digest; expected REGISTRY/NAME@sha256:<64 hex digits>")
    text = target.read_text()
    target.write_text(re.sub(rf"(?m)^( *(?:image|value): ){re.escape(IMAGE)}$", rf"\g<1>{image}", text))


def _mount(target: Path, claim: str | None) -> None:
    """Add the claim to every executor of a package or manifest. Pods of one run may share a node or not: it should be
    ReadWriteMany."""
    import yaml

    if claim is None:
        return
    if not _CLAIM.match(claim):
        raise InvalidInput(
            f"data claim {claim!r}: expected the name of a PersistentVolumeClaim, such as clusterheal-data"
        )
    text = target.read_text()
    documents = list(yaml.safe_load_all(text))
    mount = {"mountPath": DATA_PATH, "constant": claim, "pvcNameParameter": {"runtimeValue": {"constant": claim}}}
    for document in documents:
        platform = document.get("platforms") or document.get("spec", {}).get("platformSpec", {}).get("platforms")
        for config in (platform or {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {}).values():
            config.setdefault("pvcMount", []).append(mount)
    comments = [line for line in text.splitlines() if line.startswith("#")]
    target.write_text("\n".join([*comments, yaml.safe_dump_all(documents, sort_keys=True)]))
