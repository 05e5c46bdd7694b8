"""What the registering component does."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clusterheal.contracts import ModelPackage
from clusterheal.errors import InvalidInput
from clusterheal.settings import BuildSettings, load_settings
from clusterheal_components.judging import PASSED, REJECTED, figures
from clusterheal_components.snapshot import thaw

MAX_PROPERTY = 2000  # characters; the registry's database column is not endless


def register_package(
    dataset: Path, model: Path, evaluation: Path, *, verdict: str, why: str, run_id: str, run_name: str
) -> str:
    """Enter the package with all that explains it; returns its version.

    Raises:
        InvalidInput: a verdict that the gate does not give.
        RetryableError: the registry does not answer; a repeated call completes what was begun.
    """
    from clusterheal.registry import Lineage, Registry, State

    if verdict not in (PASSED, REJECTED):
        raise InvalidInput(f"verdict: expected {PASSED} or {REJECTED}, got {verdict!r}")
    settings = load_settings()
    snapshot = thaw(dataset)
    package = ModelPackage.load(model)
    snapshot.panel.contract.require_same(package.contract.sha256, where=str(model))
    judged = json.loads(evaluation.read_text())
    properties: dict[str, bool | int | float | str] = {
        "gate_verdict": verdict,
        "gate_reasons": why[:MAX_PROPERTY],
        "compared_with": str(judged["incumbent_version"] or "naive peers only"),
        "dataset_sha256": snapshot.sha256,
        "dataset_start": snapshot.start.isoformat(),
        "dataset_end": snapshot.end.isoformat(),
        **built_by(settings.build),
        **{f"metric.{name}": value for name, value in figures(judged["candidate"]).items()},
        **{f"calibration.{name}": value for name, value in scalars(package.calibration).items()},
    }
    with tempfile.TemporaryDirectory() as aside:
        version = Registry(settings.registry).register(
            with_results(package, judged["candidate"], Path(aside) / package.name),
            properties=properties,
            lineage=Lineage(run_id=run_id, run_name=run_name),
            state=State.CANDIDATE if verdict == PASSED else State.REJECTED,
        )
    return version.version


def with_results(package: ModelPackage, evaluation: Mapping[str, Any], copy: Path) -> ModelPackage:
    """A copy of the package, the step's input being read-only, whose metrics and card tell the evaluation."""
    from clusterheal_models.cards import attach_evaluation

    shutil.copytree(package.path, copy)
    for path in (copy, *copy.iterdir()):
        path.chmod(path.stat().st_mode | 0o200)
    return attach_evaluation(ModelPackage.load(copy), evaluation)


def built_by(build: BuildSettings) -> dict[str, str]:
    """What made the version, as far as the image or the caller says it."""
    known = {"git_commit": build.git_commit, "image": build.image}
    return {name: value for name, value in known.items() if value}


def scalars(calibration: Mapping[str, Any]) -> dict[str, float]:
    """The calibration's own figures; tables per entity or step stay in the package."""
    return {
        name: float(value)
        for name, value in calibration.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
