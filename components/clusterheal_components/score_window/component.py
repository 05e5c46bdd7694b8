# mypy: disable-error-code="untyped-decorator,valid-type"
"""Score a window with the version in service."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def score_window(
    dataset: dsl.Input[dsl.Dataset], name: str, scores: dsl.Output[dsl.Dataset], metrics: dsl.Output[dsl.Metrics],
    hours: float = 24.0,
) -> None:  # fmt: skip
    """Run the version in service over the newest hours, and keep every verdict.

    Args:
        dataset: a frozen panel that ends now.
        name: the served model, `anomaly-detector` or `predictive-analytics`.
        scores: Parquet, one row per entity and time, or per forecast series and time.
        metrics: alarm rate or interval coverage, and how much was scored.
        hours: length of the window, in hours.
    """
    from pathlib import Path

    from clusterheal_components.repeating import repeated
    from clusterheal_components.scoring import run_over_window

    for figure, value in repeated(run_over_window)(Path(dataset.path), name, Path(scores.path), hours=hours).items():
        metrics.log_metric(figure, value)
