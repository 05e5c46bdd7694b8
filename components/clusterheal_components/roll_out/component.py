# mypy: disable-error-code="untyped-decorator,valid-type"
"""Bring a registered version into service in one step."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def roll_out(name: str, version: str, run_id: str, report: dsl.Output[dsl.Markdown]) -> str:
    """Roll the version out: shadow, canary where KServe has it, promotion, bake; back on any breach.

    Args:
        name: the served model, `anomaly-detector` or `predictive-analytics`.
        version: the registered version.
        run_id: the pipeline run that holds the rollout.
        report: what was done, in words.

    Returns:
        `promoted`.
    """
    from pathlib import Path

    from clusterheal_components.releasing import watch_version
    from clusterheal_components.repeating import repeated

    return repeated(watch_version)(name, version, run_id, Path(report.path))
