"""The other faults of the generated cluster, each to its verified end; these runs end by themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from demo_kit import DemoRun
from e2e_kit import decisions, require_healed

pytestmark = [pytest.mark.e2e, pytest.mark.local, pytest.mark.timeout(580)]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("bad-rollout", ("crash-loop-after-rollout", "crash-loop-after-rollout", "undo", "shop/checkout")),
        ("cpu-saturation", ("saturation", "saturation", "scale", "shop/payments")),
    ],
)
def test_each_fault_is_healed_by_its_own_playbook(
    start_demo: Callable[..., DemoRun], fault: str, expected: tuple[str, str, str, str]
) -> None:
    run = start_demo("--fault", fault)
    assert run.end() == 0, run.errors
    decided = decisions(require_healed(run))
    assert (decided["cause"], decided["playbook"], decided["action"], decided["target"]) == expected
    assert decided["origin"] == "rule"
    assert run.lines[-1].startswith("healed: ")
    run.require_ended()
