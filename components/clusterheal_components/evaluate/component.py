# mypy: disable-error-code="untyped-decorator,valid-type"
"""Score a candidate, the version in service and naive peers on held-out time."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    dataset: dsl.Input[dsl.Dataset], model: dsl.Input[dsl.Model], evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics], roc: dsl.Output[dsl.ClassificationMetrics], plots: dsl.Output[dsl.HTML],
) -> None:  # fmt: skip
    """Score the candidate, the version in service and naive peers on time that nothing was fitted on.

    Args:
        dataset: the frozen training set with its split.
        model: the candidate's package.
        evaluation: all figures as JSON, for the gate.
        metrics: the candidate's figures, for the dashboard.
        roc: how a detector tells injected faults from untouched windows, per threshold; empty for a forecaster.
        plots: the same curve, or forecasts beside what came, as one HTML file.
    """
    from pathlib import Path

    from clusterheal.registry import Registry
    from clusterheal.settings import load_settings
    from clusterheal_components.judging import evaluate_both, plot_candidate
    from clusterheal_components.repeating import repeated

    paths = Path(dataset.path), Path(model.path)
    registry = Registry(load_settings().registry)
    repeated(evaluate_both)(*paths, Path(evaluation.path), metrics.log_metric, registry=registry)
    plot_candidate(*paths, Path(plots.path), roc.log_roc_curve)
