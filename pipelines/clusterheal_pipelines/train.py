# mypy: disable-error-code="untyped-decorator,type-arg"
"""The pipeline `train`: collect, build the dataset, then per model train, evaluate, gate, register and roll out."""

from kfp import dsl

from clusterheal.contracts import DETECTOR, FORECASTER
from clusterheal_pipelines.steps import Training, dataset_of, judged_model, reporting, rolled_out


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
    release: str = "yes",
    accelerator: str = "nvidia.com/gpu",
    accelerators: str = "0",
    node_selector: dict = {},  # noqa: B006 - KFP reads the default, nothing changes it
) -> None:
    """Train both models on collected metrics.

    Args:
        days: how far back to collect, in days.
        seed: same seed, data and machine give the same models.
        device: auto takes a GPU when there is one; cpu or cuda insist.
        max_seconds: stop each training after this long, in seconds; it stops before when it no longer improves.
        train_share: share of the time to train on; the oldest part.
        calibration_share: share of the time to calibrate on; what follows judges the models.
        release: yes rolls out what passed the gate; anything else stops after the registration.
        accelerator: resource name of the GPU, such as nvidia.com/gpu or a MIG profile's nvidia.com/mig-1g.10gb.
        accelerators: how many GPUs each training gets; 0 trains on the CPU.
        node_selector: labels that the nodes of the trainings must have, as JSON, such as
            {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}; {} takes any node.
    """
    with dsl.ExitHandler(reporting(), name="Train"):
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
            verdict, version = judged_model(name, dataset, options)
            with dsl.If(verdict == "passed", name=f"{title} passed"), dsl.If(release == "yes", name=f"release {title}"):
                rolled_out(name, version)
