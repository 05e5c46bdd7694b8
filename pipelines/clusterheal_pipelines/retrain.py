# mypy: disable-error-code="untyped-decorator,type-arg"
"""The pipeline `retrain`: when the metrics have drifted, or always, train anew and release what passed the gate."""

from clusterheal_components.check_drift import check_drift
from kfp import dsl

from clusterheal.contracts import DETECTOR, FORECASTER
from clusterheal_pipelines.cluster import JUDGE, on_cluster
from clusterheal_pipelines.steps import Training, dataset_of, judged_model, released, reporting


@dsl.pipeline(
    name="retrain",
    display_name="Retrain and release",
    description="Compares recent metrics with those that the models in service were trained on. Where they drifted, "
    "or when told to, both models are trained anew, judged against those in service, and released step by step.",
)
def retrain(
    days: float = 14.0,
    seed: int = 7,
    device: str = "auto",
    max_seconds: float = 3600.0,
    train_share: float = 0.7,
    calibration_share: float = 0.15,
    when: str = "drifted",
    min_days_between: float = 1.0,
    accelerator: str = "nvidia.com/gpu",
    accelerators: str = "0",
    node_selector: dict = {},  # noqa: B006 - KFP reads the default, nothing changes it
) -> None:
    """Train anew and release.

    Args:
        days: how far back to collect, in days.
        seed: same seed, data and machine give the same models.
        device: auto takes a GPU when there is one; cpu or cuda insist.
        max_seconds: stop each training after this long, in seconds; it stops before when it no longer improves.
        train_share: share of the time to train on; the oldest part.
        calibration_share: share of the time to calibrate on; what follows judges the models.
        when: drifted retrains only when metrics, coverage or alarms have drifted; always retrains now.
        min_days_between: drift starts no training within this many days of the last one.
        accelerator: resource name of the GPU, such as nvidia.com/gpu or a MIG profile's nvidia.com/mig-1g.10gb.
        accelerators: how many GPUs each training gets; 0 trains on the CPU.
        node_selector: labels that the nodes of the trainings must have, as JSON, such as
            {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}; {} takes any node.
    """
    with dsl.ExitHandler(reporting(), name="Retrain"):
        dataset = dataset_of(days, train_share, calibration_share)
        options = Training(
            seed=seed,
            device=device,
            max_seconds=max_seconds,
            accelerator=accelerator,
            accelerators=accelerators,
            node_selector=node_selector,
        )
        for name, title in ((DETECTOR, "detector"), (FORECASTER, "forecaster")):
            drift = check_drift(dataset=dataset, name=name, when=when, min_days_between=min_days_between)
            on_cluster(drift, f"Check drift {title}", JUDGE)
            with dsl.If(drift.outputs["Output"] == "retrain", name=f"retrain {title}"):
                verdict, version = judged_model(name, dataset, options)
                with dsl.If(verdict == "passed", name=f"{title} passed"):
                    released(name, version, title)
