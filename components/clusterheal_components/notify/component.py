# mypy: disable-error-code="untyped-decorator,valid-type"
"""Report how a run ended."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def notify(status: dsl.PipelineTaskFinalStatus, run_id: str, report: dsl.Output[dsl.Markdown]) -> str:
    """Say how the run ended and where its models stand; posted to the address in the settings, if one is set.

    Args:
        status: given by Kubeflow Pipelines.
        run_id: the pipeline run; the versions it registered carry it.
        report: the same in words.

    Returns:
        One line: state and the versions with their states.
    """
    from pathlib import Path

    from clusterheal_components.notifying import report_outcome

    return report_outcome(status.state, status.error_message, run_id, Path(report.path))
