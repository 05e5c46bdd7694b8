"""Asynchronous client of the Prometheus HTTP API: Prometheus, Thanos Querier, and what speaks like them."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import orjson

from clusterheal.clock import Clock, SystemClock
from clusterheal.contracts import MetricFrame
from clusterheal.errors import PermanentError
from clusterheal.metrics.findings import Finding, Severity
from clusterheal.metrics.grid import NS_PER_MS, FrameBuilder, Labels, WindowWriter
from clusterheal.metrics.http import AnswerTooLarge, Exchange
from clusterheal.metrics.parser import Envelope, MatrixParser, parse_envelope
from clusterheal.metrics.points import format_ms
from clusterheal.metrics.retry import retried
from clusterheal.metrics.tasks import gather
from clusterheal.metrics.windows import split_steps, step_grid, to_ms
from clusterheal.settings import PrometheusSettings

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_FINDINGS = 1000
"""Findings kept; a client that lives as long as the engine must not grow."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One element of an instant vector. `time_ns`: nanoseconds since the epoch, UTC."""

    labels: Mapping[str, str]
    value: float
    time_ns: int


class PrometheusClient:
    """Queries one server, at most `settings.concurrency` requests at a time.

    An async context manager. What servers warn of, such as a partial answer of Thanos, is kept in `findings`.
    """

    def __init__(
        self,
        settings: PrometheusSettings,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.settings = settings
        self.findings: list[Finding] = []
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._exchange = Exchange(settings, clock=self._clock, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._exchange.aclose()

    async def query(self, promql: str, at: datetime | None = None) -> tuple[Sample, ...]:
        """Evaluate at one time, by default the server's now. A scalar is one sample without labels.

        Raises:
            InvalidInput: the server does not understand the query.
            RetryableError: no usable answer after all attempts.
            PermanentError: refused, not a Prometheus, or an answer of another form.
        """
        data = await self.query_raw(promql, at)
        kind, result = data.get("resultType"), data.get("result") or ()
        if kind == "scalar":
            return (_sample({}, result),)
        if kind != "vector":
            raise PermanentError(f"expected a vector, got {kind!r} for {promql!r}; use query_range for time series")
        for item in result:
            if "value" not in item:
                raise PermanentError(f"series {item.get('metric')} is a native histogram; query a number of it instead")
        return tuple(_sample(item["metric"], item["value"]) for item in result)

    async def query_raw(self, promql: str, at: datetime | None = None) -> Mapping[str, Any]:
        """`data` of an instant query as the server gave it: `resultType` and `result`. For range vectors.

        Raises:
            InvalidInput, RetryableError, PermanentError: as `query`.
        """
        form = {"query": promql}
        if at is not None:
            form["time"] = format_ms(to_ms(at))

        async def once() -> bytes:
            async with self._exchange.post("/api/v1/query", form) as response:
                body = await response.aread()
            self._check(parse_envelope(body), promql)
            return body

        try:
            data: Mapping[str, Any] = orjson.loads(await self._retried(once))["data"]
        except AnswerTooLarge as exc:
            raise PermanentError(f"the answer is too large for the server: {exc}; ask for fewer series") from exc
        return data

    async def query_range(
        self,
        promql: str,
        *,
        start: datetime,
        end: datetime,
        step: timedelta,
        keep: Callable[[Labels], bool] | None = None,
    ) -> MetricFrame:
        """Evaluate at `start`, `start + step`, ... up to and including `end`.

        The window is split into requests of at most `settings.max_points` steps, and further where the server says
        that an answer is too large. `keep` drops series by their labels before they take memory.
        A query without series gives a frame without columns.

        Raises:
            InvalidInput: a step or window that makes no sense, or a query that the server does not understand.
            RetryableError: no complete answer after all attempts.
            PermanentError: refused, not a Prometheus, native histograms, or an answer of another form.
        """
        grid = step_grid(start, end, step, now=self._clock.now())
        builder = FrameBuilder(grid, keep)
        # one point more is asked for, to compare with the window before
        windows = split_steps(grid.n_steps, self.settings.max_points - 1, self.settings.concurrency)
        await gather([self._fill(promql, builder, first, count) for first, count in windows])
        frame = builder.build()
        if builder.disagreements:
            self._note(
                "chunks-disagree",
                "warning",
                promql,
                f"{builder.disagreements} values differ between two answers for the same time; data may be arriving "
                "late, or replicas behind the querier differ",
            )
        return frame

    async def _fill(self, promql: str, builder: FrameBuilder, first: int, count: int) -> None:
        """One window into the grid; halved where the server finds it too large."""
        writer = builder.window(first, count)
        try:
            await self._retried(lambda: self._stream(promql, writer))
        except AnswerTooLarge as exc:
            if count == 1:
                raise PermanentError(f"one step is too much for the server: {exc}; ask for fewer series") from exc
            log.info("window halved", extra={"steps": count, "why": str(exc)})
            half = count // 2
            await self._fill(promql, builder, first, half)
            await self._fill(promql, builder, first + half, count - half)

    async def _stream(self, promql: str, writer: WindowWriter) -> None:
        grid = writer.grid
        form = {
            "query": promql,
            "start": format_ms(grid.start_ms),
            "end": format_ms(grid.start_ms + (grid.n_steps - 1) * grid.step_ms),
            "step": format_ms(grid.step_ms),
        }
        writer.clear()
        parser = MatrixParser(writer.add)
        async with self._exchange.post("/api/v1/query_range", form) as response:
            async for piece in response.aiter_bytes():
                parser.feed(piece)
        envelope = parser.close()
        self._check(envelope, promql)
        if envelope.result_type != "matrix":
            raise PermanentError(f"expected a matrix, got {envelope.result_type!r} for {promql!r}")
        writer.commit()

    async def _retried(self, call: Callable[[], Awaitable[T]]) -> T:
        return await retried(
            call,
            attempts=self.settings.attempts,
            longest_wait=self.settings.retry_after_max.total_seconds(),
            clock=self._clock,
            rng=self._rng,
        )

    def _check(self, envelope: Envelope, promql: str) -> None:
        for text in envelope.warnings:
            self._note("server-warning", "warning", promql, text)
        for text in envelope.infos:
            self._note("server-info", "info", promql, text)
        if envelope.status != "success":
            raise PermanentError(f"{self.settings.url}: {envelope.error_type}: {envelope.error} for {promql!r}")

    def _note(self, code: str, severity: Severity, subject: str, detail: str) -> None:
        finding = Finding(code=code, severity=severity, subject=subject, detail=detail)
        if finding not in self.findings and len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)
            log.warning("finding", extra={"code": code, "subject": subject, "detail": detail})


def _sample(labels: Mapping[str, str], value: Any) -> Sample:
    try:
        time, text = value
        return Sample(labels=labels, value=float(text), time_ns=round(float(time) * 1000) * NS_PER_MS)
    except (TypeError, ValueError) as exc:
        raise PermanentError(f'expected [time, "value"], got {value!r}') from exc
