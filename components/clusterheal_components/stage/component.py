# mypy: disable-error-code="untyped-decorator,valid-type"
"""Choose the version to release and prove that its package can be served."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def stage(name: str, version: str = "newest") -> str:
    """Choose the version, fetch its package, and have it answer its own sample request.

    Args:
        name: the served model, `anomaly-detector` or `predictive-analytics`.
        version: a registered version such as `v000003`, or `newest` for the newest candidate.

    Returns:
        The version's name.
    """
    from clusterheal_components.releasing import stage_version
    from clusterheal_components.repeating import repeated

    return repeated(stage_version)(name, version)
