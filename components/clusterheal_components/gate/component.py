# mypy: disable-error-code="untyped-decorator,valid-type"
"""Decide whether a candidate may be rolled out."""

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(evaluation: dsl.Input[dsl.Artifact], reasons: dsl.Output[dsl.Markdown]) -> str:
    """Compare the candidate with the version in service and with naive peers. A missing or NaN figure never passes.

    Args:
        evaluation: the figures, as the evaluation wrote them.
        reasons: the decision in words; its metadata carries them for the registry, too.

    Returns:
        `passed` or `rejected`.
    """
    from pathlib import Path

    from clusterheal_components.judging import decide_gate

    verdict, why = decide_gate(Path(evaluation.path), Path(reasons.path))
    reasons.metadata["why"] = why
    return verdict
