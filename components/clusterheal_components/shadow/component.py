# mypy: disable-error-code="untyped-decorator,valid-type"
"""Score a version beside the one in service."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def shadow(name: str, version: str, run_id: str, report: dsl.Output[dsl.Markdown]) -> str:
    """Serve the version beside the one in service, ask both the same, and stop before any traffic moves.

    Args:
        name: the served model, `anomaly-detector` or `predictive-analytics`.
        version: the registered version.
        run_id: the pipeline run, which holds the rollout until it is promoted.
        report: what was compared, in words.

    Returns:
        `paused` when the version may be promoted.
    """
    from pathlib import Path

    from clusterheal_components.releasing import shadow_version
    from clusterheal_components.repeating import repeated

    return repeated(shadow_version)(name, version, run_id, Path(report.path))
