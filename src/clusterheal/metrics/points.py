"""The points of one series as numbers, as fast as Python can: text is compared and moved, only values are parsed."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import orjson

from clusterheal.errors import PermanentError
from clusterheal.metrics.parser import excerpt

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Words = npt.NDArray[np.complex128]

_WORD = 16
"""Bytes of text that are compared or written at once, as NumPy's only number so wide."""
_BLANK, _COMMA = np.frombuffer(b" " * _WORD + b",".ljust(_WORD), np.complex128)
_BRACKET, _SPACE = ord("["), ord(" ")


@dataclass(frozen=True, kw_only=True)
class StepGrid:
    """The times a range query is evaluated at: `start_ms + k * step_ms` for `0 <= k < n_steps`."""

    start_ms: int
    step_ms: int
    n_steps: int
    _cache: list[_Separators] = field(default_factory=list, repr=False, compare=False)

    @property
    def separators(self) -> _Separators:
        """What stands between two values of an answer without gaps."""
        if not self._cache:
            self._cache.append(_Separators(self))
        return self._cache[0]


class _Separators:
    """The text `"],[1435781430,"` from one value of a dense series to the next, as words to compare with.

    `offsets` are where in the text the words begin; the last may overlap the one before.
    """

    def __init__(self, grid: StepGrid) -> None:
        times = range(grid.start_ms, grid.start_ms + grid.n_steps * grid.step_ms, grid.step_ms)
        texts = [f'"],[{format_ms(t)},"'.encode() for t in times]
        self.opening = b"[" + texts[0][3:]
        self.length = len(texts[0]) if len({len(t) for t in texts}) == 1 else 0
        self.offsets: list[int] = []
        self.words: list[Words] = []
        if self.length >= _WORD:
            table = np.frombuffer(b"".join(texts), np.uint8).reshape(len(texts), self.length)
            self.offsets = [*range(0, self.length - _WORD, _WORD), self.length - _WORD]
            self.words = [np.ascontiguousarray(table[:, s : s + _WORD]).view(np.complex128)[:, 0] for s in self.offsets]


def decode_points(block: bytearray, grid: StepGrid) -> tuple[slice | Index, Float64]:
    """The points of one series: which steps of `grid` they are on, and their values, float64, bit for bit.

    `block`, `[[t,"v"],...]`, may be changed. The usual series has a point at every step from its first to its last:
    then its time stamps are compared as text, sixteen bytes at a time, and blanked; what is left is a JSON list.

    Raises:
        PermanentError: a point off the grid, or something that is not a point.
    """
    quote = block.find(b'"')
    if quote < 0:
        if block.translate(None, b"[] \n\r\t"):
            raise PermanentError(f'expected points [time, "value"], got {excerpt(block)}')
        return slice(0, 0), np.empty(0)
    opening = bytes(block[: quote + 1])
    first = 0 if opening == grid.separators.opening else int(_steps_of([opening[:-1]], grid)[0])
    values = _dense_values(block, len(opening), first, grid)
    if values is not None:
        return slice(first, first + len(values)), values
    parts = bytes(block).split(b'"')
    if len(parts) % 2 == 0:
        raise PermanentError(f"expected values in quotes, got {excerpt(block)}")
    texts = parts[1::2]
    return _decode_steps(parts[0::2][: len(texts)], grid), _decode_values(texts)


def _dense_values(block: bytearray, begin: int, first: int, grid: StepGrid) -> Float64 | None:
    """The values of a series without gaps, the first at byte `begin`; or `None` with `block` as it was."""
    separators = grid.separators
    octets = np.frombuffer(block, np.uint8)
    # of each point but the first, where the text before its value begins
    between = np.flatnonzero(octets[begin:] == _BRACKET) + (begin - len(b'"],'))
    count = len(between) + 1
    if not separators.offsets or first + count > grid.n_steps or not block.endswith(b'"]]'):
        return None
    if count > 1 and between[-1] + separators.length > len(block):
        return None
    words: Words = np.ndarray((max(0, len(block) - _WORD + 1),), np.complex128, buffer=block, strides=(1,))
    at = [between + offset for offset in separators.offsets]
    for index, expected in zip(at, separators.words, strict=True):
        if not np.array_equal(words[index].view(np.uint64), expected[first + 1 : first + count].view(np.uint64)):
            return None
    for index in at[1:]:
        words[index] = _BLANK
    words[at[0]] = _COMMA
    octets[1:begin] = _SPACE
    octets[-3:-1] = _SPACE
    return _list_values(block, count)


def _list_values(block: bytearray, count: int) -> Float64:
    """The numbers of `[ 1.5, 2 ]`, `count` of them."""
    try:
        values = _floats(block)
        # JSON's integer zero has no sign
        if len(values) == count and (values.all() or not (b"-0," in block or b"-0 " in block)):
            return values
    except _NOT_NUMBERS:
        pass  # a form of number that JSON does not have: the slower way reads it or says what is wrong
    texts = [text.strip() for text in bytes(block[1:-1]).split(b",")]
    if len(texts) != count:
        raise PermanentError(f"expected {count} numbers as values, got {excerpt(block)}")
    return _decode_values(texts)


def _floats(text: bytes | bytearray) -> Float64:
    """A JSON list of numbers. `struct` takes them from Python's objects at twice the speed of NumPy.

    Raises one of `_NOT_NUMBERS`.
    """
    if b"t" in text or b"f" in text:
        raise ValueError("true and false are no numbers")
    numbers = orjson.loads(text)
    return np.frombuffer(struct.pack(f"{len(numbers)}d", *numbers))


_NOT_NUMBERS = (orjson.JSONDecodeError, ValueError, TypeError, struct.error)


def format_ms(time_ms: int) -> str:
    """Seconds as Prometheus writes them: `1435781430` or `1435781430.781`."""
    seconds, rest = divmod(time_ms, 1000)
    return f"{seconds}.{rest:03d}" if rest else str(seconds)


def _decode_steps(before: list[bytes], grid: StepGrid) -> Index:
    steps = _steps_of(before, grid)
    if bool((np.diff(steps) <= 0).any()):
        raise PermanentError("time stamps of a series do not rise; expected each step at most once")
    return steps


def _steps_of(before: list[bytes], grid: StepGrid) -> Index:
    try:
        texts = b"".join(before).translate(None, b"[] \n\r\t").replace(b",,", b",").strip(b",")
        seconds = _floats(b"[" + texts + b"]")
    except _NOT_NUMBERS as exc:
        raise PermanentError(f"expected time stamps in seconds, got {excerpt(before[0])}") from exc
    if len(seconds) != len(before) or not bool(np.isfinite(seconds).all()):
        raise PermanentError(f"expected a time stamp for each value, got {excerpt(before[0])}")
    offsets = np.rint(seconds * 1000).astype(np.int64) - grid.start_ms
    steps: Index = offsets // grid.step_ms
    if bool(((offsets % grid.step_ms != 0) | (steps < 0) | (steps >= grid.n_steps)).any()):
        raise PermanentError(
            f"expected times from {grid.start_ms} ms every {grid.step_ms} ms, {grid.n_steps} of them; "
            "got a time stamp off this grid; is a cache or proxy answering for Prometheus?"
        )
    return steps


def _decode_values(texts: list[bytes]) -> Float64:
    try:
        values = _floats(b"[" + b",".join(texts) + b"]")
        if len(values) == len(texts) and (values.all() or b"-0" not in texts):
            return values
    except _NOT_NUMBERS:
        pass
    try:
        return np.array([float(t) for t in texts], dtype=np.float64)
    except ValueError as exc:
        raise PermanentError(f"expected a number as a point's value: {exc}") from exc
