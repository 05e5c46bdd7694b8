# mypy: disable-error-code=untyped-decorator
"""The pipeline `train`: collect, build the dataset, then per model train, evaluate, gate, register and roll out."""

from typing import Any

from clusterheal_components.build_dataset import build_dataset
from clusterheal_components.collect import collect
from clusterheal_components.evaluate import evaluate
from clusterheal_components.gate import gate
from clusterheal_components.register import register
from clusterheal_components.roll_out import roll_out
from clusterheal_components.train_detector import train_detector
from clusterheal_components.train_forecaster import train_forecaster
from kfp import dsl

from clusterheal.contracts import DETECTOR, FORECASTER

TITLES = {DETECTOR: "detector", FORECASTER: "forecaster"}


def _judge_and_release(name: str, dataset: Any, training: Any) -> None:
    """The steps after training, the same for both models."""
    title = TITLES[name]
    model = training.set_display_name(f"Train {title}").outputs["model"]
    judged = evaluate(dataset=dataset, model=model).set_display_name(f"Evaluate {title}")
    judged.set_caching_options(enable_caching=False)  # it compares with what is in service
    evaluation = judged.outputs["evaluation"]
    decided = gate(evaluation=evaluation).set_display_name(f"Gate {title}")
    registered = register(
        dataset=dataset,
        model=model,
        evaluation=evaluation,
        verdict=decided.outputs["verdict"],
        why=decided.outputs["why"],
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
    ).set_display_name(f"Register {title}")
    registered.set_caching_options(enable_caching=False)
    with dsl.If(decided.outputs["verdict"] == "passed", name=f"{title} passed"):
        released = roll_out(name=name, version=registered.output).set_display_name(f"Roll out {title}")
        released.set_caching_options(enable_caching=False)


@dsl.pipeline(
    name="train",
    display_name="Train, judge and roll out",
    description="Collects cluster metrics, trains both models, registers them with the gate's verdict, and rolls out "
    "what passed. A model that does not beat its peers is registered as rejected and stays out of service.",
)
def train(
    days: float = 7.0,
    seed: int = 7,
    device: str = "auto",
    max_seconds: float = 3600.0,
    train_share: float = 0.7,
    calibration_share: float = 0.15,
) -> None:
    """Train both models on collected metrics.

    Args:
        days: how far back to collect, in days.
        seed: same seed, data and machine give the same models.
        device: auto takes a GPU when there is one; cpu or cuda insist.
        max_seconds: stop training after this long, in seconds; it stops before when it no longer improves.
        train_share: share of the time to train on; the oldest part.
        calibration_share: share of the time to calibrate on; what follows judges the models.
    """
    collected = collect(days=days).set_display_name("Collect metrics").set_caching_options(enable_caching=False)
    built = build_dataset(
        start=collected.outputs["start"],
        end=collected.outputs["end"],
        train_share=train_share,
        calibration_share=calibration_share,
    ).set_display_name("Build dataset")
    built.set_caching_options(enable_caching=False)  # it reads the stored dataset, which is no input of KFP's
    dataset = built.outputs["dataset"]
    options = {"dataset": dataset, "seed": seed, "device": device, "max_seconds": max_seconds}
    _judge_and_release(DETECTOR, dataset, train_detector(**options))
    _judge_and_release(FORECASTER, dataset, train_forecaster(**options))
