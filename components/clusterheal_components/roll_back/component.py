# mypy: disable-error-code="untyped-decorator,valid-type"
"""Return to the version that was in service before."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def roll_back(name: str, run_id: str, report: dsl.Output[dsl.Markdown]) -> str:
    """Serve the previous version again, without shadow or canary: it has been in service.

    Args:
        name: the served model, `anomaly-detector` or `predictive-analytics`.
        run_id: the pipeline run.
        report: what was done, in words.

    Returns:
        The version that is in service now.
    """
    from pathlib import Path

    from clusterheal_components.releasing import roll_back_version
    from clusterheal_components.repeating import repeated

    return repeated(roll_back_version)(name, run_id, Path(report.path))
