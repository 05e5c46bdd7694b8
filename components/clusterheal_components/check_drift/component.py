# mypy: disable-error-code="untyped-decorator,valid-type"
"""Decide whether the metrics have drifted away from a model."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_drift(
    dataset: dsl.Input[dsl.Dataset], name: str, report: dsl.Output[dsl.Markdown], metrics: dsl.Output[dsl.Metrics],
    when: str = "drifted", min_days_between: float = 1.0,
) -> str:  # fmt: skip
    """Compare the newest days with what the version in service was trained on, and how it does on them.

    Args:
        dataset: a frozen panel that ends now.
        name: the served model, `anomaly-detector` or `predictive-analytics`.
        report: the decision in words.
        metrics: PSI per feature, interval coverage or alarm rate, of the newest day.
        when: `drifted` decides by the data, `always` retrains in any case.
        min_days_between: nothing is retrained within this many days of the last training.

    Returns:
        `retrain` or `keep`.
    """
    from pathlib import Path

    from clusterheal_components.drift import decide_drift
    from clusterheal_components.repeating import repeated

    found = repeated(decide_drift)(Path(dataset.path), name, when=when, min_days_between=min_days_between)
    Path(report.path).write_text(found.text)
    for figure, value in {**{f"psi.{name}": psi for name, psi in found.psi.items()}, **found.figures}.items():
        metrics.log_metric(figure, value)
    return found.decision
