# mypy: disable-error-code=untyped-decorator
"""The pipeline `release`: stage, shadow and promote a registered version."""

from kfp import dsl

from clusterheal_pipelines.steps import released, reporting


@dsl.pipeline(
    name="release",
    display_name="Release a model",
    description="Takes a registered version through staging, shadow scoring beside the version in service, promotion "
    "and a watched bake time. Any breach goes back to what was in service.",
)
def release(name: str = "predictive-analytics", version: str = "newest") -> None:
    """Release one version.

    Args:
        name: the served model, anomaly-detector or predictive-analytics.
        version: a registered version such as v000003, or newest for the newest candidate.
    """
    with dsl.ExitHandler(reporting(), name="Release"):
        released(name, version, "model")
