"""Stretches of steps that several pipelines share. Call them inside a pipeline function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clusterheal_components.build_dataset import build_dataset
from clusterheal_components.collect import collect
from clusterheal_components.evaluate import evaluate
from clusterheal_components.gate import gate
from clusterheal_components.notify import notify
from clusterheal_components.promote import promote
from clusterheal_components.register import register
from clusterheal_components.roll_back import roll_back
from clusterheal_components.roll_out import roll_out
from clusterheal_components.shadow import shadow
from clusterheal_components.stage import stage
from clusterheal_components.train_detector import train_detector
from clusterheal_components.train_forecaster import train_forecaster
from clusterheal_components.watch import watch
from kfp import dsl

from clusterheal.contracts import DETECTOR, FORECASTER
from clusterheal_pipelines.cluster import FETCH, FIT, JUDGE, PURE, QUICK, ROLL, on_cluster, on_gpu

TITLES = {DETECTOR: "detector", FORECASTER: "forecaster"}
TRAINERS = {DETECTOR: train_detector, FORECASTER: train_forecaster}


@dataclass(frozen=True, kw_only=True)
class Training:
    """Parameters of a training, constants or channels."""

    seed: Any
    device: Any
    max_seconds: Any
    accelerator: Any
    accelerators: Any
    node_selector: Any


def reporting() -> Any:
    """The exit task: whatever happens, the outcome is reported."""
    return on_cluster(notify(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER), "Report outcome")


def dataset_of(days: Any, train_share: Any, calibration_share: Any) -> Any:
    """Collect the last `days` and freeze them; returns the dataset's channel."""
    collected = on_cluster(collect(days=days), "Collect metrics", FETCH)
    built = build_dataset(
        start=collected.outputs["start"],
        end=collected.outputs["end"],
        train_share=train_share,
        calibration_share=calibration_share,
    )
    return on_cluster(built, "Build dataset", JUDGE).outputs["dataset"]


def judged_model(name: str, dataset: Any, training: Training) -> tuple[Any, Any]:
    """Train, evaluate, gate, register; returns the channels of the verdict and of the registered version."""
    title = TITLES[name]
    trainer = TRAINERS[name]
    # What the pod needs of GPUs and nodes also goes in as plain inputs: KFP passes a pipeline's parameters on to the
    # inner graph of an exit handler only when a step takes them as inputs, not when only its resources name them.
    fitted = on_cluster(trainer(dataset=dataset, **vars(training)), f"Train {title}", FIT, cached=True)
    on_gpu(fitted, training.accelerator, training.accelerators, training.node_selector)
    model = fitted.outputs["model"]
    judged = on_cluster(evaluate(dataset=dataset, model=model), f"Evaluate {title}", JUDGE)
    evaluation = judged.outputs["evaluation"]
    decided = on_cluster(gate(evaluation=evaluation), f"Gate {title}", PURE, cached=True)
    verdict = decided.outputs["Output"]
    registered = register(
        dataset=dataset,
        model=model,
        evaluation=evaluation,
        reasons=decided.outputs["reasons"],
        verdict=verdict,
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
    )
    return verdict, on_cluster(registered, f"Register {title}", QUICK).output


def rolled_out(name: str, version: Any) -> None:
    """All of the rollout in one step."""
    task = roll_out(name=name, version=version, run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    on_cluster(task, f"Roll out {TITLES[name]}", ROLL)


def released(name: Any, version: Any, what: str) -> None:
    """Stage, shadow, promote, watch, each a step of its own that can be looked at and repeated."""
    staged = on_cluster(stage(name=name, version=version), f"Stage {what}", QUICK)
    run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    shadowed = on_cluster(shadow(name=name, version=staged.output, run_id=run_id), f"Shadow {what}", ROLL)
    promoted = promote(name=name, version=staged.output, run_id=run_id).after(shadowed)
    on_cluster(promoted, f"Promote {what}", ROLL)
    watched = watch(name=name, version=staged.output, run_id=run_id).after(promoted)
    on_cluster(watched, f"Watch {what}", ROLL)


def taken_back(name: Any, what: str) -> None:
    """The version before, without shadow or canary."""
    task = roll_back(name=name, run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    on_cluster(task, f"Roll back {what}", ROLL)
