# mypy: disable-error-code="untyped-decorator,valid-type"
"""Decide whether a candidate may be rolled out."""

from typing import NamedTuple

from kfp import dsl

from clusterheal_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gate(evaluation: dsl.Input[dsl.Artifact], reasons: dsl.Output[dsl.Markdown]) -> NamedTuple(
    "Verdict", [("verdict", str), ("why", str)]
):
    """Compare the candidate with the version in service and with naive peers. A missing or NaN figure never passes.

    Args:
        evaluation: the figures, as the evaluation wrote them.
        reasons: the decision in words.

    Returns:
        verdict: `passed` or `rejected`.
        why: the reasons, one per line.
    """
    from pathlib import Path

    from clusterheal_components.judging import decide_gate

    return decide_gate(Path(evaluation.path), Path(reasons.path))
