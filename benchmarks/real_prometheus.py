"""A real Prometheus on loopback, filled through its remote-write endpoint: any labels, times and values, fast."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import numpy as np
import numpy.typing as npt

STALE_MARKER = np.array([0x7FF0000000000002], np.uint64).view(np.float64)[0]
"""The NaN by which Prometheus says that a series has ended here."""

IN_ORDER = "global: {scrape_interval: 1h}\n"
ANY_ORDER = IN_ORDER + "storage: {tsdb: {out_of_order_time_window: 1000d}}\n"
PORT_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Written:
    """One series to write: `times_ms` int64 `(n,)` rising, `values` float64 `(n,)`."""

    labels: Mapping[str, str]
    times_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


class RealPrometheus:
    """A server process with its own folder; a context manager that ends it.

    With `any_order` it takes samples older than those it has. 2.42 then loses some of them while it compacts (60,064 of
    8.64 million in one trial, none in order), so whoever counts samples writes them in order: no batch may reach
    back more than an hour behind the newest sample of any series.
    """

    def __init__(self, folder: Path, *flags: str, any_order: bool = False) -> None:
        self.folder = folder
        self._flags = flags
        self._config = ANY_ORDER if any_order else IN_ORDER
        self.url = ""

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "prometheus.yml"
        config.write_text(self._config)
        for _ in range(PORT_TRIES):
            self._start(config)
            if self._ready():
                return self
            self.__exit__(None, None, None)
        raise RuntimeError(f"prometheus did not start; see {self.folder / 'prometheus.log'}")

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _start(self, config: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        with (self.folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    "--storage.tsdb.retention.time=10y",
                    "--web.enable-remote-write-receiver",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--log.level=warn",
                    *self._flags,
                ],
                stdout=log,
                stderr=log,
            )

    def _ready(self) -> bool:
        for _ in range(200):
            if self._process.poll() is not None:
                return False
            try:
                if httpx.get(f"{self.url}/-/ready", trust_env=False).status_code == httpx.codes.OK:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        return False

    def write(self, series: Iterable[Written]) -> None:
        """One remote-write request."""
        body = b"".join(_field(1, _time_series(s)) for s in series)
        answer = httpx.post(
            f"{self.url}/api/v1/write",
            content=_snappy(body),
            headers={
                "Content-Encoding": "snappy",
                "Content-Type": "application/x-protobuf",
                "X-Prometheus-Remote-Write-Version": "0.1.0",
            },
            timeout=60,
            trust_env=False,
        )
        if answer.status_code >= httpx.codes.BAD_REQUEST:
            raise RuntimeError(f"remote write: {answer.status_code} {answer.text}")


def settled(server: RealPrometheus, *, longest_seconds: float = 300) -> None:
    """Wait until old samples have gone from the head into blocks: compaction would run beside what is measured."""
    for _ in range(round(longest_seconds)):
        text = httpx.get(f"{server.url}/metrics", trust_env=False, timeout=60).text
        head = {name: float(re.findall(rf"^prometheus_tsdb_head_{name}_time (\S+)", text, re.M)[0]) for name in _ENDS}
        if head["max"] - head["min"] < SETTLED_MS:
            return
        time.sleep(1)


_ENDS = ("min", "max")
SETTLED_MS = 4 * 3_600_000


def _time_series(series: Written) -> bytes:
    labels = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in sorted(series.labels.items())
    )
    return labels + _samples(series.times_ms, series.values)


def _samples(times_ms: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> bytes:
    """`Sample` messages. Times of our century take six bytes as a varint, so all messages are of one length."""
    if len(times_ms) == 0:
        return b""
    assert times_ms.min() >= 1 << 35
    assert times_ms.max() < 1 << 42
    out = np.empty((len(times_ms), 18), np.uint8)
    out[:, 0], out[:, 1] = 0x12, 16
    out[:, 2] = 0x09
    out[:, 3:11] = values.astype("<f8").view(np.uint8).reshape(-1, 8)
    out[:, 11] = 0x10
    for i in range(6):
        out[:, 12 + i] = (times_ms >> (7 * i)) & 0x7F | (0x80 if i < 5 else 0)
    return out.tobytes()


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _snappy(data: bytes) -> bytes:
    """The block format with one literal: valid, uncompressed."""
    return _varint(len(data)) + bytes([63 << 2]) + (len(data) - 1).to_bytes(4, "little") + data
