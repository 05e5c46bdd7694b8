# mypy: disable-error-code=untyped-decorator
"""The pipeline `release`: stage, shadow, promote and watch a registered version, or go back to the one before."""

from kfp import dsl

from clusterheal_pipelines.steps import released, reporting, taken_back


@dsl.pipeline(
    name="release",
    display_name="Release a model",
    description="Takes a registered version through staging, shadow scoring beside the version in service, promotion "
    "and a watched bake time. Any breach goes back to what was in service. With the version previous it goes back "
    "to the version before, at once.",
)
def release(name: str = "predictive-analytics", version: str = "newest") -> None:
    """Release one version.

    Args:
        name: the served model, anomaly-detector or predictive-analytics.
        version: a registered version such as v000003, newest for the newest candidate, or previous to go back.
    """
    with dsl.ExitHandler(reporting(), name="Release"):
        with dsl.If(version == "previous", name="go back"):
            taken_back(name, "model")
        with dsl.Else(name="go forward"):
            released(name, version, "model")
