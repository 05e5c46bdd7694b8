# mypy: disable-error-code="untyped-decorator,valid-type"
"""Freeze a range of the dataset into the training set that all later steps share."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def build_dataset(
    start: str, end: str, dataset: dsl.Output[dsl.Dataset], train_share: float = 0.7, calibration_share: float = 0.15
) -> None:
    """Cut the range out of the dataset, check that it can be trained on, and split it in time.

    Args:
        start: begin of the range, ISO 8601 UTC.
        end: end of the range, ISO 8601 UTC.
        dataset: the frozen panel with its contract and split.
        train_share: share of the time to train on; the oldest part.
        calibration_share: share of the time to calibrate on; what follows is held out for the evaluation.
    """
    from pathlib import Path

    from clusterheal_components.collecting import freeze_range
    from clusterheal_components.repeating import repeated

    dataset.metadata.update(repeated(freeze_range)(start, end, Path(dataset.path), train_share, calibration_share))
