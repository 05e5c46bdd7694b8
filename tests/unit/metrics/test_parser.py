"""The streaming parser, on any labels, numbers and ways in which bytes arrive."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterheal.errors import PermanentError, RetryableError
from clusterheal.metrics.grid import FrameBuilder
from clusterheal.metrics.parser import Envelope, MatrixParser
from clusterheal.metrics.points import StepGrid, decode_points, format_ms

GRID = StepGrid(start_ms=1_793_491_200_000, step_ms=1500, n_steps=12)
MINUTES = StepGrid(start_ms=1_793_491_200_000, step_ms=60_000, n_steps=12)

nasty = st.text(alphabet=st.sampled_from('"\\[]{},:=\n\t é\u2028😀ab') | st.characters(codec="utf-8"), max_size=12)
labels = st.dictionaries(nasty, nasty | st.just('"values":[[1,"2"]]}'), max_size=3)
numbers = st.floats(width=64) | st.sampled_from([0.0, -0.0, 5e-324, 1e22, 2.0**64, 1.7976931348623157e308])
scattered = st.dictionaries(st.integers(0, GRID.n_steps - 1), numbers, max_size=GRID.n_steps)
runs = st.tuples(st.integers(0, 8), st.lists(numbers, max_size=4)).map(
    lambda run: {run[0] + i: value for i, value in enumerate(run[1])}
)
series = st.tuples(labels, scattered | runs)


def go_number(value: float) -> str:
    """As Prometheus prints a sample."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e21:
        return str(int(value)) if value or math.copysign(1, value) > 0 else "-0"
    return repr(value)


def body(
    content: list[tuple[dict[str, str], dict[int, float]]],
    *,
    grid: StepGrid = GRID,
    spaced: bool = False,
    **extra: Any,
) -> bytes:
    result = []
    for names, points in content:
        times = {k: (grid.start_ms + k * grid.step_ms) / 1000 for k in points}
        values = [[int(t) if (t := times[k]) == int(t) else t, go_number(v)] for k, v in sorted(points.items())]
        result.append({"metric": names, "values": values})
    data = {"status": "success", "data": {"resultType": "matrix", "result": result}, **extra}
    separators = None if spaced else (",", ":")
    return json.dumps(data, separators=separators, indent=2 if spaced else None, ensure_ascii=spaced).encode()


def parse(
    text: bytes, sizes: list[int], grid: StepGrid = GRID
) -> tuple[list[tuple[dict[str, str], Any, Any]], Envelope]:
    seen = []
    parser = MatrixParser(lambda names, block: seen.append((json.loads(names), *decode_points(block, grid))))
    at = 0
    while at < len(text):
        size = sizes[at % len(sizes)]
        parser.feed(text[at : at + size])
        at += size
    return seen, parser.close()


def bits(values: Any) -> list[bytes]:
    return [struct.pack("<d", v) if v == v else b"nan" for v in values]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(series, max_size=4),
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([GRID, MINUTES]),
)
def test_any_answer_in_any_pieces_comes_back_bit_for_bit(content, sizes, spaced, grid) -> None:
    warnings = ['store "a" said: {"result":[[}]}', '"values":[']
    seen, envelope = parse(body(content, grid=grid, spaced=spaced, warnings=warnings), sizes, grid)
    assert envelope.warnings == tuple(warnings)
    assert len(seen) == len(content)
    for (names, steps, values), (expected, points) in zip(seen, content, strict=True):
        assert names == expected
        assert np.arange(grid.n_steps)[steps].tolist() == sorted(points)
        assert bits(values) == bits([points[k] for k in sorted(points)])


@pytest.mark.parametrize("grid", [MINUTES, StepGrid(start_ms=1_793_491_200_250, step_ms=1000, n_steps=12)])
@pytest.mark.parametrize("change", [b"1", b"9"])
def test_a_changed_time_stamp_in_a_dense_series_is_seen(grid: StepGrid, change: bytes) -> None:
    """Time stamps of dense series are compared as text: each byte of each has to count."""
    points = ",".join(f'[{format_ms(grid.start_ms + k * grid.step_ms)},"{k}.5"]' for k in range(12))
    whole = f"[{points}]".encode()
    assert decode_points(bytearray(whole), grid)[0] == slice(0, 12)
    for at, byte in enumerate(whole):
        stamp = whole.rfind(b"[", 0, at) > whole.rfind(b",", 0, at) and bytes([byte]).isdigit()
        if stamp and bytes([byte]) != change:
            with pytest.raises(PermanentError, match=r"off this grid|do not rise"):
                decode_points(bytearray(whole[:at] + change + whole[at + 1 :]), grid)


@settings(max_examples=100, deadline=None)
@given(st.lists(series, min_size=1, max_size=3), st.data())
def test_an_answer_cut_anywhere_never_counts(content, data) -> None:
    text = body(content)
    with pytest.raises((RetryableError, PermanentError)):
        parse(text[: data.draw(st.integers(0, len(text) - 1))], [7])


def test_warnings_before_the_data_are_read_too() -> None:
    text = b'{"warnings":["\\"result\\":[ lost"],"status":"success","data":{"result":[],"resultType":"matrix"}}'
    seen, envelope = parse(text, [3])
    assert seen == []
    assert envelope.warnings == ('"result":[ lost',)
    assert envelope.result_type == "matrix"


@pytest.mark.parametrize("time", ["1793491200.7", "1793491199", "1793491218", '"1793491200"', "null"])
def test_time_stamps_off_the_grid_are_refused(time: str) -> None:
    with pytest.raises(PermanentError, match=r"expected (a )?time"):
        decode_points(bytearray(f'[[{time},"1"]]'.encode()), GRID)


def test_time_stamps_must_rise() -> None:
    with pytest.raises(PermanentError, match="do not rise"):
        decode_points(bytearray(b'[[1793491203,"1"],[1793491200,"1"]]'), GRID)


@pytest.mark.parametrize(
    "block",
    [
        b"[[1793491200,1]]",
        b'[[1793491200,"1,2"]]',
        b'[[1793491200,"1","2"]]',
        b'[[1793491200,"1],[2"]]',
        b'[[1793491200,""]]',
        b'[[1793491200,"1]]',
        b'[[1793491200,"true"]]',
        b'[[1793491200,"false"]]',
        b'[[1793491200,"null"]]',
        b"[1]",
    ],
)
def test_things_that_are_no_points_are_refused(block: bytes) -> None:
    with pytest.raises(PermanentError, match="expected"):
        decode_points(bytearray(block), GRID)


def test_memory_does_not_follow_the_size_of_the_answer() -> None:
    """Twenty million bytes of answer, never more than one series of it held."""
    one = body([({"n": "0"}, dict.fromkeys(range(GRID.n_steps), 1.5))])
    head, series, tail = one[: one.index(b'{"metric"')], one[one.index(b'{"metric"') : -3], one[-3:]
    parser = MatrixParser(lambda names, block: None)
    parser.feed(head)
    most = 0
    for i in range(20_000):
        parser.feed(series.replace(b'"0"', b'"%d"' % i, 1) + (b"," if i < 19_999 else b""))
        most = max(most, len(parser._buffer))
    parser.feed(tail)
    assert parser.close().status == "success"
    assert most < 2 * len(series)


def test_the_frame_does_not_depend_on_the_order_of_answers() -> None:
    def build(order: list[int], firsts: list[int]) -> Any:
        builder = FrameBuilder(GRID)
        for first in firsts:
            writer = builder.window(first, 6)
            writer.clear()
            for i in order:
                points = [(GRID.start_ms + (first + k) * GRID.step_ms, i * 100 + first + k) for k in range(6)]
                block = "[" + ",".join(f'[{t / 1000:.3f},"{v}"]' for t, v in points) + "]"
                writer.add(json.dumps({"i": f"{i:02d}"}).encode(), bytearray(block.encode()))
            writer.commit()
        return builder.build()

    a, b = build(list(range(40)), [0, 6]), build(list(range(39, -1, -1)), [6, 0])
    assert a.labels == b.labels
    np.testing.assert_array_equal(a.values, b.values)
    assert a.values[3, 7] == 703


def test_a_failed_attempt_leaves_nothing_behind() -> None:
    builder = FrameBuilder(GRID)
    writer = builder.window(0, 12)
    writer.clear()
    writer.add(b'{"i":"gone"}', bytearray(b'[[1793491200,"1"]]'))
    writer.add(b'{"i":"kept"}', bytearray(b'[[1793491200,"1"],[1793491201.500,"2"]]'))
    writer.clear()
    writer.add(b'{"i":"kept"}', bytearray(b'[[1793491200,"3"]]'))
    writer.commit()
    frame = builder.build()
    assert [x["i"] for x in frame.labels] == ["kept"]
    assert frame.values[0, 0] == 3
    assert np.isnan(frame.values[1:, 0]).all()
