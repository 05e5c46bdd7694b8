# mypy: disable-error-code="untyped-decorator,valid-type,type-arg"
"""Train the forecaster and export it as a sealed package."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_forecaster(
    dataset: dsl.Input[dsl.Dataset], model: dsl.Output[dsl.Model], seed: int = 7, device: str = "auto",
    max_seconds: float = 3600.0, accelerator: str = "none", accelerators: str = "0",
    node_selector: dict = {},  # noqa: B006 - KFP reads the default, nothing changes it
) -> None:  # fmt: skip
    """Train the forecaster and export it as a sealed package.

    Args:
        dataset: the frozen training set.
        model: the package: ONNX model, contract, calibration, card, manifest.
        seed: same seed, data and machine give the same model.
        device: `auto` takes CUDA when there is one; `cpu` or `cuda` insist.
        max_seconds: stop training after this long, in seconds; it stops before when it no longer improves.
        accelerator: resource name of the GPUs this step was given, for the record.
        accelerators: how many GPUs this step was given; with one or more, training without CUDA is an error.
        node_selector: labels of the nodes that this step may run on, for the record.
    """
    from pathlib import Path

    from clusterheal_components.training import train_forecaster

    paths = Path(dataset.path), Path(model.path)
    about = train_forecaster(*paths, seed=seed, device=device, max_seconds=max_seconds, accelerators=int(accelerators))
    model.metadata.update(
        about | {"accelerator": accelerator, "accelerators": accelerators, "nodes": str(node_selector)}
    )
