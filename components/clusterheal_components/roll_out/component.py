# mypy: disable-error-code="untyped-decorator,valid-type"
"""Bring a registered version into service."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def roll_out(name: str, version: str, report: dsl.Output[dsl.Markdown]) -> str:
    """Roll the version out and wait until it answers its golden requests.

    Args:
        name: the served model, `anomaly-detector` or `predictive-analytics`.
        version: the registered version.
        report: what was done, in words.

    Returns:
        How the rollout ended.
    """
    from pathlib import Path

    from clusterheal_components.releasing import roll_out_version

    return roll_out_version(name, version, Path(report.path))
