# mypy: disable-error-code="untyped-decorator,valid-type"
"""Move the traffic to a version that did well in shadow."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def promote(name: str, version: str, run_id: str, report: dsl.Output[dsl.Markdown]) -> str:
    """Go on with the rollout that `shadow` began: canary where KServe has it, then promotion; back on any breach.

    Args:
        name: the served model, `anomaly-detector` or `predictive-analytics`.
        version: the registered version.
        run_id: the pipeline run that holds the rollout.
        report: what was done, in words.

    Returns:
        `paused` when the version serves and `watch` is to decide whether it stays.
    """
    from pathlib import Path

    from clusterheal_components.releasing import promote_version
    from clusterheal_components.repeating import repeated

    return repeated(promote_version)(name, version, run_id, Path(report.path))
