"""Reads range-query answers as they arrive, one series at a time, so that memory does not follow the answer's size.

An answer is `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{...},"values":[[t,"v"],...]},...]},
"warnings":[...]}`. Only the span of bytes of one series' `values` is held. Inside a JSON string every quote is escaped,
so the keys searched for here (`"result":[`, `"values":[`) cannot be part of a label value or a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from clusterheal.errors import PermanentError, RetryableError

MAX_ENVELOPE = 4 << 20
"""Bytes allowed around the series: warnings, errors, statistics."""
MAX_SERIES = 64 << 20
"""Bytes allowed for one series; 11,000 points take less than one MiB."""

_RESULT = re.compile(rb'"result"\s*:\s*\[')
_POINTS = re.compile(rb'"(values|histograms)"\s*:\s*\[')
_BLOCK_END = re.compile(rb"[\[\]]\s*\]\s*\Z")
_GAP = re.compile(rb"[\s,]*")
_BETWEEN = re.compile(rb"\s*,\s*\Z")
_OWN_LABELS = re.compile(rb'\s*\{\s*"metric"\s*:\s*(?=\{)')


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What an answer says besides its series."""

    status: str
    result_type: str | None
    error_type: str | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    infos: tuple[str, ...] = ()


class MatrixParser:
    """Push parser of one answer: `feed` the body's bytes, then `close`.

    `on_series(labels, block)` is called once per series with the JSON of its labels and of its points,
    `[[t,"v"],...]`, both complete; the points are the callee's to change.
    """

    def __init__(self, on_series: Callable[[bytes, bytearray], None]) -> None:
        self._on_series = on_series
        self._buffer = bytearray()
        self._scan = 0
        # functions, not bound methods: these would be a cycle, and the array behind `on_series` would outlive its use
        self._state: Callable[[MatrixParser], bool] = MatrixParser._before_result
        self._prefix = b""
        self._labels = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            PermanentError: the bytes are not a range-query answer, or hold native histograms.
        """
        self._buffer += data
        while self._state(self):
            pass

    def close(self) -> Envelope:
        """The answer is complete.

        Raises:
            RetryableError: it ends in the middle.
            PermanentError: it is not an answer of the Prometheus API.
        """
        if self._state == MatrixParser._before_result:
            body = bytes(self._buffer)
        elif self._state == MatrixParser._after_result:
            body = self._prefix + b"]" + bytes(self._buffer)
        else:
            raise RetryableError("the answer was cut off in the middle of a series; asking again may help")
        return parse_envelope(body)

    def _before_result(self) -> bool:
        found = _RESULT.search(self._buffer)
        if found is None:
            if len(self._buffer) > MAX_ENVELOPE:
                raise PermanentError(f"expected a query result, got {excerpt(self._buffer)}; check the URL")
            return False
        self._prefix = bytes(self._buffer[: found.end()])
        self._drop(found.end())
        self._state = MatrixParser._between_series
        return True

    def _between_series(self) -> bool:
        gap = _GAP.match(self._buffer)
        self._drop(gap.end() if gap else 0)
        if not self._buffer:
            return False
        if self._buffer[0] == ord("]"):
            self._drop(1)
            self._state = MatrixParser._after_result
        elif self._buffer[0] == ord("{"):
            self._state = MatrixParser._in_labels
        else:
            raise PermanentError(f"expected a series in the query result, got {excerpt(self._buffer)}")
        return True

    def _in_labels(self) -> bool:
        found = _POINTS.search(self._buffer, max(0, self._scan - 32))
        if found is None:
            self._scan = len(self._buffer)
            if self._scan > MAX_ENVELOPE:
                raise PermanentError(f"expected the points of a series, got {excerpt(self._buffer)}")
            return False
        head = _OWN_LABELS.match(self._buffer)
        labels = bytes(self._buffer[head.end() if head else 0 : found.start()])
        tail = _BETWEEN.search(labels)
        if head is None or tail is None:
            raise PermanentError(f"expected a series to start with its labels, got {excerpt(self._buffer)}")
        self._labels = labels[: tail.start()]
        if found.group(1) == b"histograms":
            raise _histogram(self._labels)
        self._drop(found.end() - 1)
        self._state = MatrixParser._in_points
        return True

    def _in_points(self) -> bool:
        # points hold no brace, so the first one closes the series
        end = self._buffer.find(b"}", self._scan)
        if end < 0:
            self._scan = len(self._buffer)
            if self._scan > MAX_SERIES:
                raise PermanentError(f"a series has more than {MAX_SERIES} bytes; ask for fewer points at a time")
            return False
        block = self._buffer[:end]
        self._drop(end + 1)
        if not _BLOCK_END.search(block, max(0, end - 4096)):
            if b'"histograms"' in block:
                raise _histogram(self._labels)
            raise PermanentError(f"expected the points of a series to end, got {excerpt(block[-80:])}")
        self._on_series(self._labels, block)
        self._state = MatrixParser._between_series
        return True

    def _after_result(self) -> bool:
        if len(self._buffer) > MAX_ENVELOPE:
            raise PermanentError(f"expected the end of the answer, got {excerpt(self._buffer)}")
        return False

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._scan = 0


def _histogram(labels: bytes) -> PermanentError:
    return PermanentError(
        f"series {labels.decode(errors='replace')} holds native histograms; "
        "query a number of it instead, for example histogram_quantile(0.99, rate(...))"
    )


def parse_envelope(body: bytes) -> Envelope:
    """The answer without its series.

    Raises:
        RetryableError: the JSON is cut off.
        PermanentError: not an answer of the Prometheus API.
    """
    try:
        data: Any = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        if body.lstrip().startswith(b"{"):
            raise RetryableError(f"the answer is not complete JSON ({exc}): {excerpt(body)}") from exc
        raise PermanentError(f"expected JSON, got {excerpt(body)}; is this the address of a Prometheus?") from exc
    if not isinstance(data, dict) or not isinstance(data.get("status"), str):
        raise PermanentError(f"expected an answer of the Prometheus API, got {excerpt(body)}")
    inner = data.get("data")
    return Envelope(
        status=data["status"],
        result_type=inner.get("resultType") if isinstance(inner, dict) else None,
        error_type=data.get("errorType"),
        error=data.get("error"),
        warnings=tuple(map(str, data.get("warnings") or ())),
        infos=tuple(map(str, data.get("infos") or ())),
    )


def excerpt(body: bytes | bytearray) -> str:
    return repr(bytes(body[:120]).decode(errors="replace"))
