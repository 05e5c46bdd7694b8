"""A Prometheus API on loopback whose data are functions of time and whose faults are scripted."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterheal.metrics.client import PrometheusClient
from clusterheal.settings import Settings, load_settings

START = datetime(2026, 11, 1, tzinfo=UTC)

Value = Callable[[int], float | None]
Fault = Callable[["Handler", bytes], None]


class FakePrometheus:
    """`series` maps a query to its labels and values by second; `faults` are used up, one a request."""

    def __init__(self) -> None:
        self.series: dict[str, list[tuple[dict[str, str], Value]]] = {}
        self.faults: list[Fault | None] = []
        self.requests: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.samples_limit: int | None = None
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.fake = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def range_requests(self) -> list[dict[str, Any]]:
        return [r for r in self.requests if r["path"] == "/api/v1/query_range"]

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if path == "/api/v1/query_range":
            return self._range(form)
        if form["query"] == "time()":
            now = self.now().timestamp()
            return 200, {"status": "success", "data": {"resultType": "scalar", "result": [now, str(now)]}}
        return 200, {"status": "success", "data": {"resultType": "vector", "result": []}}

    def _range(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        query, step = form["query"], float(form["step"])
        times = [float(form["start"]) + i * step for i in range(20_000)]
        times = [t for t in times if t <= float(form["end"]) + 1e-6]
        counting = query.startswith("count(")
        series = self.series.get(query.removeprefix("count(").removesuffix("\n)") if counting else query, [])
        if self.samples_limit is not None and len(times) * len(series) > self.samples_limit:
            error = "query processing would load too many samples into memory in query execution"
            return 422, {"status": "error", "errorType": "execution", "error": error}
        if counting:
            counts = [(t, sum(value(int(t)) is not None for _, value in series)) for t in times]
            points = [[_number(t), str(n)] for t, n in counts if n]
            result = [{"metric": {}, "values": points}] if points else []
        else:
            result = []
            for labels, value in series:
                points = [[_number(t), _text(v)] for t in times if (v := value(int(t))) is not None]
                if points:
                    result.append({"metric": labels, "values": points})
        body: dict[str, Any] = {"status": "success", "data": {"resultType": "matrix", "result": result}}
        if self.warnings:
            body["warnings"] = self.warnings
        return 200, body


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        fake: FakePrometheus = self.server.fake  # type: ignore[attr-defined]
        url = urllib.parse.urlsplit(self.path)
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        fake.requests.append(
            {"path": url.path, "params": dict(urllib.parse.parse_qsl(url.query)), "headers": self.headers, **form}
        )
        status, body = fake.answer(url.path, form)
        text = json.dumps(body, separators=(",", ":")).encode()
        fault = fake.faults.pop(0) if fake.faults else None
        if fault is not None:
            fault(self, text)
        else:
            self.reply(text, status=status)

    def reply(self, body: bytes, *, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


class Faults:
    """Ways in which servers and what stands before them go wrong."""

    @staticmethod
    def status(code: int, text: str = "busy", **headers: str) -> Fault:
        return lambda handler, body: handler.reply(text.encode(), status=code, kind="text/plain", **headers)

    @staticmethod
    def html(handler: Handler, body: bytes) -> None:
        handler.reply(b"<html><title>Log in</title></html>", kind="text/html")

    @staticmethod
    def cut(handler: Handler, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        handler.wfile.flush()
        handler.close_connection = True

    @staticmethod
    def cut_without_length(handler: Handler, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2])
        handler.close_connection = True

    @staticmethod
    def gzipped(handler: Handler, body: bytes) -> None:
        handler.reply(gzip.compress(body), Content_Encoding="gzip")

    @staticmethod
    def reset(handler: Handler, body: bytes) -> None:
        handler.close_connection = True

    @staticmethod
    def drip(handler: Handler, body: bytes) -> None:
        """Fast enough for a timeout per read, too slow for the request as a whole."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        try:
            for byte in body:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                time.sleep(0.02)
        except OSError:
            handler.close_connection = True

    @staticmethod
    def says(text: bytes) -> Fault:
        return lambda handler, body: handler.reply(text)


class FakeClock:
    """Time that passes only by sleeping."""

    def __init__(self, now: datetime) -> None:
        self.time = now
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += timedelta(seconds=seconds)


def _number(time_s: float) -> float | int:
    return int(time_s) if time_s == int(time_s) else time_s


def _text(value: float) -> str:
    special = {np.inf: "+Inf", -np.inf: "-Inf"}
    return "NaN" if value != value else special.get(value, repr(value))


@pytest.fixture
def prometheus() -> Iterator[FakePrometheus]:
    fake = FakePrometheus()
    thread = threading.Thread(target=lambda: fake.server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def faults() -> type[Faults]:
    return Faults


@pytest.fixture
def clock(prometheus: FakePrometheus) -> FakeClock:
    clock = FakeClock(START + timedelta(days=40))
    prometheus.now = clock.now
    return clock


@pytest.fixture
def start() -> datetime:
    return START


@pytest.fixture
def make_settings(prometheus: FakePrometheus, tmp_path: Path) -> Callable[..., Settings]:
    def make(**sections: dict[str, Any]) -> Settings:
        merged: dict[str, dict[str, Any]] = {
            "prometheus": {"url": prometheus.url, **sections.get("prometheus", {})},
            "dataset": {"path": str(tmp_path / "dataset"), **sections.get("dataset", {})},
        }
        return load_settings(None, merged)

    return make


@pytest.fixture
def make_client(make_settings: Callable[..., Settings], clock: FakeClock) -> Callable[..., PrometheusClient]:
    def make(**options: Any) -> PrometheusClient:
        return PrometheusClient(make_settings(prometheus=options).prometheus, clock=clock, rng=random.Random(1))

    return make


@pytest.fixture
def wave() -> Callable[[float], Value]:
    """A value that is different at every step and for every phase."""
    return lambda phase: lambda t: 50.0 + 10.0 * float(np.sin(t / 7000 + phase))


@pytest.fixture
def record(prometheus: FakePrometheus, wave: Callable[[float], Value]) -> Callable[..., None]:
    """Lets the server have `recorded_metric` for some instances and metrics."""

    def fill(instances: Sequence[str], metrics: Sequence[str]) -> None:
        for m, metric in enumerate(metrics):
            query = f'max by (instance) (recorded_metric{{metric="{metric}"}})'
            prometheus.series[query] = [({"instance": n}, wave(i + m / 10)) for i, n in enumerate(instances)]

    return fill
