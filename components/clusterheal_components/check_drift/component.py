# mypy: disable-error-code="untyped-decorator,valid-type"
"""Decide whether the metrics have drifted away from a model."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_drift(
    dataset: dsl.Input[dsl.Dataset], name: str, report: dsl.Output[dsl.Markdown], metrics: dsl.Output[dsl.Metrics],
    when: str = "drifted", min_days_between: float = 1.0,
) -> str:  # fmt: skip
    """Compare the newest day with what the version in service was trained on, by PSI per feature.

    Args:
        dataset: a frozen panel that ends now.
        name: the served model, `anomaly-detector` or `predictive-analytics`.
        report: the decision in words.
        metrics: PSI per feature.
        when: `drifted` decides by the data, `always` retrains in any case.
        min_days_between: a version younger than this many days is kept.

    Returns:
        `retrain` or `keep`.
    """
    from pathlib import Path

    from clusterheal_components.drift import decide_drift

    found = decide_drift(Path(dataset.path), name, when=when, min_days_between=min_days_between)
    Path(report.path).write_text(found.text)
    for feature, value in found.psi.items():
        metrics.log_metric(f"psi.{feature}", value)
    return found.decision
