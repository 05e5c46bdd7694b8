# mypy: disable-error-code="untyped-decorator,valid-type"
"""Train the anomaly detector and export it as a sealed package."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_detector(
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    seed: int = 7,
    device: str = "auto",
    max_seconds: float = 3600.0,
) -> None:
    """Train the anomaly detector and export it as a sealed package.

    Args:
        dataset: the frozen training set.
        model: the package: ONNX model, contract, calibration, card, manifest.
        seed: same seed, data and machine give the same model.
        device: `auto` takes CUDA when there is one; `cpu` or `cuda` insist.
        max_seconds: stop training after this long, in seconds; it stops before when it no longer improves.
    """
    from pathlib import Path

    from clusterheal_components.training import train_detector

    model.metadata.update(train_detector(Path(dataset.path), Path(model.path), seed, device, max_seconds))
