"""Compile pipelines to packages."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from clusterheal.errors import InvalidInput

PIPELINES = ("train",)


def load_pipeline(name: str) -> Any:
    """The pipeline function by name.

    Raises:
        InvalidInput: no such pipeline.
    """
    if name not in PIPELINES:
        raise InvalidInput(f"no pipeline {name!r}; there are {', '.join(PIPELINES)}")
    return getattr(importlib.import_module(f"clusterheal_pipelines.{name}"), name)


def compile_pipeline(name: str, target: Path, *, image: str | None = None) -> Path:
    """Write the package of pipeline `name` to `target` (.yaml); `image` replaces the components' image.

    Raises:
        InvalidInput: no such pipeline.
    """
    from clusterheal_components.image import IMAGE
    from kfp import compiler

    pipeline = load_pipeline(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, str(target))
    if image is not None:
        text = target.read_text()
        target.write_text(text.replace(f"image: {IMAGE}\n", f"image: {image}\n"))
    return target
