"""Handing the detector its memory back: when it moves on, and when it is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest

from clusterheal.contracts import (
    EntityKind,
    FeatureContract,
    FeatureSpec,
    ModelInputs,
    default_window,
)
from clusterheal.errors import PermanentError
from clusterheal.inference.memory import DetectorMemory
from clusterheal.inference.wire import Answer

STEP = timedelta(minutes=1)
STEP_NS = 60_000_000_000


@pytest.fixture
def contract() -> FeatureContract:
    kind = EntityKind(name="node", labels=("node",))
    feature = FeatureSpec(name="load", promql="load", unit="1", entity_kind="node")
    return FeatureContract(entity_kinds=(kind,), features=(feature,), step=STEP, window=default_window(STEP))


def window(time_ns: int, *entities: str) -> ModelInputs:
    rows = len(entities)
    return ModelInputs(
        recent=np.zeros((rows, 1, 1), np.float32),
        seasonal=np.zeros((rows, 0, 1, 1), np.float32),
        timestamp=np.full(rows, time_ns, np.int64),
        entity=entities,
    )


def answer(*values: float, package: str = "a") -> Answer:
    memory = np.array(values, np.float32).reshape(-1, 1)
    return Answer(tensors={"memory_after": memory}, model_version="v1", contract_sha256="c", package_sha256=package)


def rounds(memory: DetectorMemory, times: Sequence[int], **changes: str) -> list[float | None]:
    """What is handed in at these times, each answered with the number of the round."""
    handed = []
    for number, time_ns in enumerate(times, 1):
        inputs = window(time_ns, "node/a")
        tensor = memory.handed_in(inputs)
        handed.append(None if tensor is None or np.isnan(tensor[0, 0]) else float(tensor[0, 0]))
        memory.keep(inputs, tensor, answer(float(number), **changes))
    return handed


def test_each_step_gets_what_the_last_answer_asked_for(contract: FeatureContract) -> None:
    assert rounds(DetectorMemory(contract), [0, STEP_NS, 2 * STEP_NS]) == [None, 1.0, 2.0]


def test_asking_more_often_than_the_step_does_not_make_time_pass_faster(contract: FeatureContract) -> None:
    half = STEP_NS // 2
    assert rounds(DetectorMemory(contract), [0, half, half, STEP_NS, STEP_NS + half, 2 * STEP_NS]) == [
        None, None, None, 1.0, 1.0, 4.0,
    ]  # fmt: skip


def test_a_long_silence_and_a_clock_that_goes_back_forget(contract: FeatureContract) -> None:
    limit = contract.window.recent_steps * STEP_NS
    assert rounds(DetectorMemory(contract), [0, limit, 2 * limit + STEP_NS]) == [None, 1.0, None]
    assert rounds(DetectorMemory(contract), [10 * STEP_NS, 5 * STEP_NS, 11 * STEP_NS]) == [None, None, 1.0]


def test_entities_do_not_share_and_those_that_are_gone_leave_nothing(contract: FeatureContract) -> None:
    memory = DetectorMemory(contract)
    memory.keep(window(0, "node/a", "node/b"), None, answer(1.0, 2.0))
    inputs = window(STEP_NS, "node/b", "node/c")
    np.testing.assert_array_equal(memory.handed_in(inputs), [[2.0], [np.nan]])
    late = window((contract.window.recent_steps + 1) * STEP_NS, "node/c")
    memory.keep(late, memory.handed_in(late), answer(3.0))
    assert np.isnan(memory.handed_in(window(STEP_NS, "node/a"))).all()


def test_another_package_begins_anew(contract: FeatureContract) -> None:
    memory = DetectorMemory(contract)
    rounds(memory, [0, STEP_NS])
    assert rounds(memory, [2 * STEP_NS, 3 * STEP_NS, 4 * STEP_NS], package="b") == [2.0, None, 2.0]


def test_a_package_without_memory_is_asked_without(contract: FeatureContract) -> None:
    memory = DetectorMemory(contract)
    plain = Answer(tensors={}, model_version="v1", contract_sha256="c", package_sha256="a")
    memory.keep(window(0, "node/a"), None, plain)
    assert memory.handed_in(window(STEP_NS, "node/a")) is None


def test_a_memory_of_another_shape_is_refused(contract: FeatureContract) -> None:
    with pytest.raises(PermanentError, match="memory_after"):
        DetectorMemory(contract).keep(window(0, "node/a"), None, answer(1.0, 2.0))
