"""The models of an earlier run, in place of training: registered and rolled out as that run's pipeline did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from clusterheal.contracts import DETECTOR, FORECASTER, ModelPackage
from clusterheal.errors import InvalidInput
from clusterheal.local.demo_pipeline import use_recorded_catalogue
from clusterheal.local.demo_platform import Platform, python_module
from clusterheal.local.processes import ChildSpec
from clusterheal.local.replay import Replay
from clusterheal.local.report_record import RunRecord
from clusterheal.local.timeline import Timeline
from clusterheal.metrics.catalogue import load_catalogue, recorded_catalogue


@dataclass(frozen=True, kw_only=True)
class EarlierModels:
    """`models` as the run in `folder` recorded them."""

    folder: Path
    models: Sequence[dict[str, Any]]

    def package(self, model: dict[str, Any]) -> Path:
        """Where that run stored one of them."""
        return self.folder / "models" / str(model["name"]) / str(model["version"])


def open_models(folder: Path, *, out: Path) -> EarlierModels:
    """The models that a run left in `folder`, their packages verified.

    Raises:
        InvalidInput: no run, one without two models, or one in `out`, which is about to be emptied.
        PackageInvalid: a package that is incomplete or was changed.
    """
    if folder.resolve().is_relative_to(out.resolve()):
        raise InvalidInput(f"--models-of {folder} is in this run's own folder; give an earlier run's, or another --out")
    earlier = EarlierModels(folder=folder, models=RunRecord.load(folder).models)
    names = {str(model["name"]) for model in earlier.models}
    if names != {DETECTOR, FORECASTER}:
        found = ", ".join(sorted(names)) or "none"
        raise InvalidInput(
            f"--models-of {folder}: expected a run that trained {DETECTOR} and {FORECASTER}, got {found}"
        )
    for model in earlier.models:
        ModelPackage.load(earlier.package(model))
    return earlier


def require_same_metrics(earlier: EarlierModels, replay: Replay | None) -> None:
    """Raises InvalidInput: the models read other metrics than this run's source has."""
    catalogue = load_catalogue() if replay is None else recorded_catalogue(replay.metrics)
    step = timedelta(seconds=60 if replay is None else replay.step_seconds)
    here = catalogue.contract(step)
    for model in earlier.models:
        contract = ModelPackage.load(earlier.package(model)).contract
        other = sorted({f.name for f in contract.features if f not in here.features})
        if other or contract.step != here.step:
            raise InvalidInput(
                f"--models-of {earlier.folder}: its {model['name']} reads {', '.join(other) or 'the same metrics'} "
                f"every {contract.step.total_seconds():g} s; this run's source has {', '.join(here.feature_names)} "
                f"every {here.step.total_seconds():g} s; train on this source"
            )


async def serve_earlier(platform: Platform, earlier: EarlierModels, timeline: Timeline) -> list[dict[str, Any]]:
    """Register and roll out both models; returns their entries for the record, with this run's versions.

    Raises:
        ChildDied: a step failed; the message has the end of its log.
    """
    use_recorded_catalogue(platform)
    entries = []
    for model in earlier.models:
        name = model["name"]
        lines: list[str] = []
        timeline.progress(f"registering {name}")
        package = str(earlier.package(model))
        await _job(platform, f"register-{name}", ["register", "--package", package], lines)
        version = lines[-1].split()[1]
        timeline.progress(f"rolling out {name} {version}")
        await _job(platform, f"rollout-{name}", ["rollout", "--name", name, "--version", version], lines)
        entries.append({**model, "version": version})
    return entries


async def _job(platform: Platform, name: str, arguments: list[str], lines: list[str]) -> None:
    child = ChildSpec(
        name=name, argv=[*python_module("clusterheal.cli"), *arguments], env=platform.environment(threads=1)
    )
    await platform.supervisor.run(child, on_line=lines.append)


__all__ = ["EarlierModels", "open_models", "require_same_metrics", "serve_earlier"]
