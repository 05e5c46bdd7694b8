"""The pipeline `train` as a job of the demo, and what it leaves: registered versions in service."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from clusterheal.contracts import DETECTOR, FORECASTER
from clusterheal.errors import PermanentError
from clusterheal.kube import resources
from clusterheal.kube.ports import ApiError
from clusterheal.local.demo_config import NAMESPACE
from clusterheal.local.demo_platform import Platform, python_module
from clusterheal.local.processes import ChildSpec
from clusterheal.local.timeline import Timeline
from clusterheal.metrics.catalogue import recorded_catalogue

SCORING_SECONDS = 60.0
TITLES = {DETECTOR: "detector", FORECASTER: "forecaster"}


@dataclass(frozen=True, kw_only=True)
class PipelineOutcome:
    """`run` as the local runner recorded it, one entry of `models` per registered version, `summary` for people."""

    run: dict[str, Any]
    models: list[dict[str, Any]]
    summary: str


async def run_train(platform: Platform, timeline: Timeline) -> PipelineOutcome:
    """Run the pipeline to its end and read what it left.

    Raises:
        ChildDied: a step failed; the message has the end of its log.
        PermanentError: the gate rejected a model, so there is nothing to serve.
    """
    config, places = platform.config, platform.places
    use_recorded_catalogue(platform)
    days = platform.replay.days if platform.replay else config.days
    settings = [f"days={float(days)!r}", f"seed={config.seed}", "device=cpu"]
    if config.train_seconds is not None:
        settings.append(f"max_seconds={float(config.train_seconds)!r}")
    argv = [*python_module("clusterheal.cli"), "pipeline", "run", "train", "--out", str(places.runs)]
    for setting in settings:
        argv += ["--set", setting]
    child = ChildSpec(name="pipeline", argv=argv, env=platform.environment())
    await platform.supervisor.run(child, on_line=lambda line: timeline.progress(line.strip()))
    run = read_run(places.runs)
    models = [model_of(run, name, places.models) for name in TITLES]
    for model in models:
        timeline.event(f"{model['name']} {model['version']}: gate {model['verdict']}: {_reasons(model)}")
    rejected = [f"{m['name']}: {_reasons(m)}" for m in models if m["verdict"] != "passed"]
    if rejected:
        raise PermanentError(f"the gate rejected {'; '.join(rejected)}; nothing was rolled out for it")
    versions = ", ".join(f"{m['name']} {m['version']}" for m in models)
    return PipelineOutcome(run=run, models=models, summary=f"{len(run['steps'])} steps, rolled out {versions}")


def _reasons(model: dict[str, Any]) -> str:
    """The gate's reasons on one line: of a pass what was beaten, without intervals; else all but the checks."""
    lines = [line for line in str(model["why"]).splitlines() if line and not line.startswith("check ")]
    if model["verdict"] == "passed":
        lines = [line.split(", difference", 1)[0] for line in lines if " beats " in line]
    return "; ".join(lines) or str(model["why"])


def use_recorded_catalogue(platform: Platform) -> None:
    """Point every process at the queries for replayed metrics, where they are replayed."""
    if platform.replay is not None:
        path = write_recorded_catalogue(platform.replay.metrics, platform.places.out / "catalogue.yaml")
        platform.use("dataset", catalogue=str(path.resolve()))


def write_recorded_catalogue(metrics: tuple[str, ...], path: Path) -> Path:
    """The query catalogue for replayed metrics, as a file that every process can be pointed to."""
    catalogue = recorded_catalogue(metrics)
    data = {
        "version": 1,
        "entity_kinds": {kind.name: {"labels": list(kind.labels)} for kind in catalogue.entity_kinds},
        "features": [
            {
                "name": feature.spec.name,
                "kind": feature.spec.entity_kind,
                "unit": feature.spec.unit,
                "low": feature.spec.low,
                "high": feature.spec.high,
                "why": feature.why,
                "promql": feature.spec.promql,
            }
            for feature in catalogue.features
        ],
    }
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def read_run(runs: Path) -> dict[str, Any]:
    """The newest run's record.

    Raises:
        PermanentError: the pipeline left none.
    """
    found = sorted(runs.glob("*/run.json"))
    if not found:
        raise PermanentError(f"the pipeline left no run.json below {runs}")
    data = json.loads(found[-1].read_text())
    assert isinstance(data, dict)
    return data


def model_of(run: dict[str, Any], name: str, storage: Path) -> dict[str, Any]:
    """What a run says of one model: version, verdict and why, evaluation, model card."""
    title = TITLES[name]
    version = str((_step(run, f"Register {title}").get("parameters") or {}).get("Output", ""))
    gate = _step(run, f"Gate {title}")
    evaluation_file = _artifact(_step(run, f"Evaluate {title}"), "evaluation")
    card = storage / name / version / "MODEL_CARD.md"
    evaluation = _read_json(evaluation_file)
    return {
        "name": name,
        "version": version,
        "verdict": (gate.get("parameters") or {}).get("Output"),
        "why": str(gate.get("artifacts", {}).get("reasons", {}).get("metadata", {}).get("why", "")).strip(),
        "evaluation": evaluation.get("candidate", evaluation),
        "card": card.read_text() if card.is_file() else "",
    }


def _step(run: dict[str, Any], title: str) -> dict[str, Any]:
    return next((step for step in run["steps"] if step["title"] == title), {})


def _artifact(step: dict[str, Any], name: str) -> Path | None:
    entry = (step.get("artifacts") or {}).get(name)
    return Path(entry["path"]) if entry else None


def _read_json(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    data = json.loads(path.read_text())
    return data if isinstance(data, dict) else {}


async def served_urls(platform: Platform) -> dict[str, str]:
    """Where the two InferenceServices answer, by `detector` and `forecaster`.

    Raises:
        PermanentError: one of them is not there or not ready.
    """
    urls = {}
    async with platform.cluster() as cluster:
        for name, title in TITLES.items():
            try:
                service = await cluster.get(resources.INFERENCE_SERVICES, name, namespace=NAMESPACE)
            except ApiError as exc:
                raise PermanentError(f"InferenceService {name} is not there after the rollout: {exc}") from exc
            url = (service.get("status") or {}).get("url")
            if not url:
                raise PermanentError(f"InferenceService {name} has no address: {service.get('status')}")
            urls[title] = str(url)
    return urls


async def wait_for_scoring(engine_url: str, timeline: Timeline) -> None:
    """Until the engine has scored the live windows with both models.

    Raises:
        PermanentError: it does not within a minute; says what it reports instead.
    """
    deadline = time.monotonic() + SCORING_SECONDS
    status: dict[str, Any] = {}
    async with httpx.AsyncClient(base_url=engine_url, timeout=5.0) as client:
        while time.monotonic() < deadline:
            answer = await client.get("/api/v1/status")
            status = answer.json() if answer.is_success else {"status": answer.status_code}
            if (status.get("models") or {}).get("scored_at"):
                return
            timeline.progress("waiting for the first verdicts of the models")
            await asyncio.sleep(0.5)
    raise PermanentError(f"the engine has no verdict of the models after {SCORING_SECONDS:g} s: {status}")


__all__ = [
    "PipelineOutcome",
    "model_of",
    "read_run",
    "run_train",
    "served_urls",
    "use_recorded_catalogue",
    "wait_for_scoring",
]
