# mypy: disable-error-code="untyped-decorator,valid-type"
"""Watch a version that has just been promoted, and go back on any breach."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def watch(name: str, version: str, run_id: str, report: dsl.Output[dsl.Markdown]) -> str:
    """Watch errors, latency, alarms and identity for the bake time; then the version is in service for good.

    Args:
        name: the served model, `anomaly-detector` or `predictive-analytics`.
        version: the registered version.
        run_id: the pipeline run that holds the rollout.
        report: what was seen, in words.

    Returns:
        `promoted`.
    """
    from pathlib import Path

    from clusterheal_components.releasing import watch_version
    from clusterheal_components.repeating import repeated

    return repeated(watch_version)(name, version, run_id, Path(report.path))
