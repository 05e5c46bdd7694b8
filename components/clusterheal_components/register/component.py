# mypy: disable-error-code="untyped-decorator,valid-type"
"""Store a package in its immutable place and enter it in the model registry."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    dataset: dsl.Input[dsl.Dataset], model: dsl.Input[dsl.Model], evaluation: dsl.Input[dsl.Artifact],
    reasons: dsl.Input[dsl.Markdown], verdict: str, run_id: str, run_name: str,
) -> str:  # fmt: skip
    """Register the package with its verdict, figures and lineage; a repeated call completes a half-finished one.

    Args:
        dataset: the training set it came from.
        model: the package.
        evaluation: the figures to record.
        reasons: the gate's reasons.
        verdict: `passed` registers a candidate, `rejected` a rejected version that is never served.
        run_id: the pipeline run, for the lineage.
        run_name: the run's readable name.

    Returns:
        The version's name, such as `v000003`.
    """
    from pathlib import Path

    from clusterheal_components.registering import register_package
    from clusterheal_components.repeating import repeated

    folders = Path(dataset.path), Path(model.path), Path(evaluation.path)
    why = str(reasons.metadata.get("why", ""))
    return repeated(register_package)(*folders, verdict=verdict, why=why, run_id=run_id, run_name=run_name)
