"""One measurement of `benchmarks.metrics`, in a process of its own so that its memory is its own.

`python -m benchmarks.metrics_cases CASE '{"...": ...}'` prints its figures as one line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import shutil
import sys
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from clusterheal.contracts import MetricFrame
from clusterheal.metrics.catalogue import recorded_catalogue
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.grid import FrameBuilder
from clusterheal.metrics.parser import MatrixParser
from clusterheal.metrics.points import StepGrid, decode_points, format_ms
from clusterheal.metrics.windows import from_ms, split_steps
from clusterheal.settings import Settings, load_settings

MIB = 2**20
STEP = timedelta(minutes=1)
STEP_MS = 60_000
PIECE = 64 << 10


class Meter:
    """Wall and CPU seconds and the highest resident memory of a stretch of code, above where it began, in MiB."""

    def __enter__(self) -> Meter:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
        self._before = _status("VmRSS")
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *exc: object) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu
        self.peak_mib = _status("VmHWM") / 1024
        self.extra_mib = (_status("VmHWM") - self._before) / 1024

    def figures(self, **more: Any) -> dict[str, Any]:
        return {"wall": self.wall, "cpu": self.cpu, "peak_mib": self.peak_mib, "extra_mib": self.extra_mib, **more}


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0])


def parse_ours(body: str, start_ms: int, n_steps: int) -> dict[str, Any]:
    """The streaming parser into the grid; the body is read from a file in pieces, as from a socket."""
    grid = StepGrid(start_ms=start_ms, step_ms=STEP_MS, n_steps=n_steps)

    def run() -> MetricFrame:
        builder = FrameBuilder(grid)
        writer = builder.window(0, n_steps)
        writer.clear()
        _feed(body, MatrixParser(writer.add))
        writer.commit()
        return builder.build()

    run()
    with Meter() as meter:
        frame = run()
    result = frame.values.nbytes / MIB
    blocks: dict[bytes, bytes] = {}
    _feed(body, MatrixParser(lambda labels, block: blocks.update({labels: decode_points(block, grid)[1].tobytes()})))
    keyed = {_key(orjson.loads(labels)): values for labels, values in blocks.items()}
    return meter.figures(result_mib=result, digest=_digest(keyed))


def _feed(body: str, parser: MatrixParser) -> None:
    with Path(body).open("rb") as file:
        while piece := file.read(PIECE):
            parser.feed(piece)
    parser.close()


def parse_prometheus_api_client(body: str, start_ms: int, n_steps: int) -> dict[str, Any]:
    """The peer's own path: the JSON library that `requests` uses, then `MetricRangeDataFrame`."""
    from prometheus_api_client import MetricRangeDataFrame

    text = Path(body).read_bytes()
    with Meter() as meter:
        frame = MetricRangeDataFrame(json.loads(text)["data"]["result"])
    names = [c for c in frame.columns if c != "value"]
    groups = frame.groupby(names, sort=False)["value"]
    keyed = {_key(dict(zip(names, key, strict=True))): series.to_numpy(np.float64).tobytes() for key, series in groups}
    return meter.figures(digest=_digest(keyed))


def parse_orjson(body: str, start_ms: int, n_steps: int) -> dict[str, Any]:
    """The straightforward fast way: orjson for everything, NumPy for the numbers."""
    text = Path(body).read_bytes()
    with Meter() as meter:
        result = orjson.loads(text)["data"]["result"]
        arrays = {_key(s["metric"]): np.array([float(v) for _, v in s["values"]]) for s in result}
    return meter.figures(digest=_digest({k: v.tobytes() for k, v in arrays.items()}))


def _key(labels: dict[str, str]) -> str:
    return json.dumps(labels, sort_keys=True)


def _digest(series: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for key in sorted(series):
        digest.update(key.encode() + series[key])
    return digest.hexdigest()


def pull_ours(url: str, query: str, end_ms: int, n_steps: int) -> dict[str, Any]:
    """A range query into one array."""

    async def run() -> MetricFrame:
        async with PrometheusClient(_settings(url).prometheus) as client:
            start = from_ms(end_ms - (n_steps - 1) * STEP_MS)
            return await client.query_range(query, start=start, end=from_ms(end_ms), step=STEP)

    with Meter() as meter:
        frame = asyncio.run(run())
    missing = int(np.isnan(frame.values).sum())
    return meter.figures(array_mib=frame.values.nbytes / MIB, shape=list(frame.values.shape), missing=missing)


def pull_bare(url: str, query: str, end_ms: int, n_steps: int, way: str) -> dict[str, Any]:
    """The same requests, the bodies thrown away: by the same HTTP library, or by the standard library's threads."""
    settings = _settings(url).prometheus
    forms = _forms(query, end_ms, n_steps)
    with Meter() as meter:
        if way == "httpx":
            size = asyncio.run(_download(url, forms))
        else:
            with ThreadPoolExecutor(settings.concurrency) as pool:
                size = sum(pool.map(lambda form: _download_plain(url, form), forms))
    return meter.figures(bytes=size)


def _forms(query: str, end_ms: int, n_steps: int) -> list[dict[str, str]]:
    """The requests that `query_range` makes, with the step by which windows overlap."""
    settings = load_settings().prometheus
    start = end_ms - (n_steps - 1) * STEP_MS
    forms = []
    for first, count in split_steps(n_steps, settings.max_points - 1, settings.concurrency):
        begin, last = start + (first - (first > 0)) * STEP_MS, start + (first + count - 1) * STEP_MS
        forms.append({"query": query, "start": format_ms(begin), "end": format_ms(last), "step": "60"})
    return forms


async def _download(url: str, forms: list[dict[str, str]]) -> int:
    import httpx

    limits = asyncio.Semaphore(_settings(url).prometheus.concurrency)
    sizes = []
    async with httpx.AsyncClient(timeout=600, trust_env=False, headers={"Accept-Encoding": "identity"}) as http:

        async def one(form: dict[str, str]) -> None:
            size = 0
            async with limits, http.stream("POST", f"{url}/api/v1/query_range", data=form) as response:
                response.raise_for_status()
                async for piece in response.aiter_raw():
                    size += len(piece)
            sizes.append(size)

        await asyncio.gather(*(one(form) for form in forms))
    return sum(sizes)


def _download_plain(url: str, form: dict[str, str]) -> int:
    where = urllib.parse.urlsplit(url)
    connection = HTTPConnection(str(where.hostname), where.port, timeout=600)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/api/v1/query_range", urllib.parse.urlencode(form), kind)
    response = connection.getresponse()
    assert response.status == 200, response.read(500)
    buffer, size = bytearray(1 << 20), 0
    while got := response.readinto(buffer):
        size += got
    connection.close()
    return size


def collect_case(url: str, metrics: list[str], path: str, start_ms: int, end_ms: int, times: int) -> dict[str, Any]:
    """A collect into a new dataset, `times` times, the quickest counts; memory of the first."""
    from clusterheal.metrics.collect import collect

    best: dict[str, Any] = {}
    for _ in range(times):
        shutil.rmtree(path, ignore_errors=True)
        with Meter() as meter:
            report = collect(
                _settings(url, path),
                start=from_ms(start_ms),
                end=from_ms(end_ms),
                catalogue=recorded_catalogue(metrics),
            )
        figures = meter.figures(samples=report.samples, parts=report.parts_written, mib=report.bytes_written / MIB)
        best = min(best or figures, figures, key=lambda f: float(f["wall"])) | {
            "extra_mib": (best or figures)["extra_mib"]
        }
    return best


def incremental(
    url: str, metrics: list[str], path: str, start_ms: int, end_ms: int, hour_ms: int, times: int
) -> dict[str, Any]:
    """Alternately: one new hour appended to a dataset; that hour into a new dataset; and only queried."""
    from clusterheal.metrics.collect import collect

    catalogue = recorded_catalogue(metrics)
    hour = from_ms(end_ms - hour_ms)

    def into(where: str, since: Any, until: Any) -> float:
        began = time.perf_counter()
        collect(_settings(url, where), start=since, end=until, catalogue=catalogue)
        return time.perf_counter() - began

    async def query() -> None:
        async with PrometheusClient(_settings(url).prometheus) as client:
            for metric in metrics:
                promql = f'max by (instance) (recorded_metric{{metric="{metric}"}})'
                await client.query_range(promql, start=hour, end=from_ms(end_ms - STEP_MS), step=STEP)

    into(path, from_ms(start_ms), hour)
    appended, fresh, queried = [], [], []
    for _ in range(times):
        copy, new = f"{path}-copy", f"{path}-new"
        for folder in (copy, new):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(path, copy)
        appended.append(into(copy, from_ms(start_ms), from_ms(end_ms)))
        fresh.append(into(new, hour, from_ms(end_ms)))
        began = time.perf_counter()
        asyncio.run(query())
        queried.append(time.perf_counter() - began)
    return {"appended": min(appended), "fresh": min(fresh), "queried": min(queried)}


def _settings(url: str, path: str | None = None) -> Settings:
    return load_settings(None, {"prometheus": {"url": url, "timeout": 600}, "dataset": {"path": path}})


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "parse_ours": parse_ours,
    "parse_prometheus_api_client": parse_prometheus_api_client,
    "parse_orjson": parse_orjson,
    "pull_ours": pull_ours,
    "pull_bare": pull_bare,
    "collect": collect_case,
    "incremental": incremental,
}


if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](**json.loads(sys.argv[2]))))
