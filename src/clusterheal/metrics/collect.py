"""From a Prometheus to a dataset: find out what exists, fetch what is missing, write it part by part."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from clusterheal.clock import Clock, SystemClock
from clusterheal.errors import DataQualityError, InvalidInput
from clusterheal.metrics.catalogue import Catalogue, load_catalogue
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.dataset import Dataset
from clusterheal.metrics.fetch import PartFetcher
from clusterheal.metrics.findings import Finding
from clusterheal.metrics.lock import Holder, hold
from clusterheal.metrics.parts import Extent, Part
from clusterheal.metrics.plan import missing_extents
from clusterheal.metrics.probe import count_series
from clusterheal.metrics.quality import QualityReport, Thresholds
from clusterheal.metrics.quality_meter import QualityMeter
from clusterheal.metrics.quality_report import write_report
from clusterheal.metrics.server_checks import check_server, counter_resets
from clusterheal.metrics.shards import WHOLE, Shard
from clusterheal.metrics.storage import Storage
from clusterheal.metrics.windows import from_ms, step_ms, to_ms
from clusterheal.settings import Settings

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many parts are done."""


@dataclass(frozen=True, kw_only=True)
class CollectReport:
    """What a collect did.

    `entities` by kind and `samples` (cells that hold a number) are of what was fetched now. `quality` is `None` when
    nothing was missing; `report` is where its JSON lies.
    """

    path: str
    contract_sha256: str
    start: datetime
    end: datetime
    entities: Mapping[str, int]
    features: tuple[str, ...]
    parts_written: int
    parts_present: int
    samples: int
    bytes_written: int
    seconds: float
    findings: tuple[Finding, ...]
    quality: QualityReport | None = None
    report: str | None = None

    def summary(self) -> str:
        """Lines for people."""
        entities = ", ".join(f"{count} {kind}" for kind, count in self.entities.items()) or "nothing new"
        lines = [
            f"{self.path}: {self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC, contract "
            f"{self.contract_sha256[:12]}, {len(self.features)} features",
            f"fetched {self.samples:,} samples of {entities} in {self.parts_written} parts "
            f"({self.bytes_written / 2**20:.1f} MiB), {self.parts_present} parts were there, {self.seconds:.1f} s",
        ]
        if self.quality is not None and self.quality.coverage is not None:
            lines.append(f"coverage {self.quality.coverage:.1%}; report: {self.report}")
        lines += [f"{f.severity}: {f.code}: {f.subject}: {f.detail}" for f in self.findings if f.severity != "info"]
        return "\n".join(lines)


def collect(
    settings: Settings,
    *,
    start: datetime,
    end: datetime,
    progress: Progress | None = None,
    catalogue: Catalogue | None = None,
    shard: Shard = WHOLE,
    clock: Clock | None = None,
) -> CollectReport:
    """Bring the dataset at `settings.dataset.path` up to `start <= t < end`, both rounded down to the step.

    Only what is missing is fetched: a second collect appends, an interrupted one goes on where it stopped.
    With `shard` only its entities are collected; several shards may be collected side by side into one dataset.

    Raises:
        InvalidInput: a window or step that makes no sense, or a query that the server does not understand.
        ContractMismatch: the dataset holds other features or another step.
        DatasetBusy: another collector is writing this dataset (this shard of it).
        DataQualityError: the server has no series for any feature, or the data fail a threshold.
        RetryableError, PermanentError: the server or the storage refuses.
    """
    return asyncio.run(
        collect_async(settings, start=start, end=end, progress=progress, catalogue=catalogue, shard=shard, clock=clock)
    )


async def collect_async(
    settings: Settings,
    *,
    start: datetime,
    end: datetime,
    progress: Progress | None = None,
    catalogue: Catalogue | None = None,
    shard: Shard = WHOLE,
    clock: Clock | None = None,
) -> CollectReport:
    """`collect` for callers that run an event loop."""
    clock = clock or SystemClock()
    window = collect_window(start, end, settings.dataset.step, now=clock.now())
    wanted = catalogue or load_catalogue(settings.dataset.catalogue)
    storage = Storage.open(settings.dataset.path, settings.dataset)
    name = "collect" if shard == WHOLE else f"collect-{shard.index}of{shard.count}"
    async with (
        PrometheusClient(settings.prometheus, clock=clock) as client,
        hold(storage, name, clock, random.Random()) as holder,
    ):
        run = _Run(client, storage, wanted, settings, window, shard, holder, clock)
        return await run.run(progress or _silent)


def collect_window(start: datetime, end: datetime, step: timedelta, *, now: datetime) -> tuple[int, int]:
    """`start` and `end` in milliseconds, on the step grid that starts at the epoch.

    Raises:
        InvalidInput: end before start, no whole step, or a window in the future.
    """
    width = step_ms(step)
    first, last = to_ms(start) // width * width, to_ms(end) // width * width
    if last <= first:
        raise InvalidInput(f"a collect from {start.isoformat()} to {end.isoformat()} holds no step of {step}")
    if last > to_ms(now) + width:
        raise InvalidInput(f"a collect until {end.isoformat()} is in the future; now is {now.isoformat()}")
    return first, last


class _Run:
    """One collect, its lock held."""

    def __init__(
        self,
        client: PrometheusClient,
        storage: Storage,
        catalogue: Catalogue,
        settings: Settings,
        window: tuple[int, int],
        shard: Shard,
        holder: Holder,
        clock: Clock,
    ) -> None:
        self._client = client
        self._storage = storage
        self._catalogue = catalogue
        self._settings = settings
        self._start_ms, self._end_ms = window
        self._shard = shard
        self._holder = holder
        self._clock = clock
        self._step_ms = step_ms(settings.dataset.step)
        self._findings: list[Finding] = []

    async def run(self, progress: Progress) -> CollectReport:
        began = time.perf_counter()
        dataset = await asyncio.to_thread(Dataset.find, self._storage)
        if dataset is None:
            dataset, cells = await self._begin()
            have: list[Extent] = []
        else:
            self._catalogue = self._fitting(dataset)
            have = await asyncio.to_thread(dataset.extents)
            cells = await self._known_cells(dataset, have)
        todo = missing_extents(
            have,
            start_ms=self._start_ms,
            end_ms=self._end_ms,
            step_ms=self._step_ms,
            cells=cells,
            shard=self._shard,
        )
        fetcher = PartFetcher(self._client, dataset.contract)
        meter = QualityMeter(
            dataset.contract,
            min((e.start_ms for e in todo), default=self._start_ms),
            max((e.end_ms for e in todo), default=self._end_ms),
        )
        entities: dict[str, set[str]] = {}
        samples = size = 0
        progress("collect", 0, len(todo))
        async for part in fetcher.parts(todo):
            size += await asyncio.to_thread(self._store, dataset, meter, part)
            samples += int(np.count_nonzero(~np.isnan(part.values)))
            entities.setdefault(part.extent.kind, set()).update(part.entities)
            progress("collect", sum(1 for e in todo if e <= part.extent), len(todo))
        quality = await self._judge(meter, todo, fetcher) if todo else None
        report = CollectReport(
            path=self._storage.url,
            contract_sha256=dataset.contract.sha256,
            start=from_ms(self._start_ms),
            end=from_ms(self._end_ms),
            entities={kind: len(keys) for kind, keys in sorted(entities.items())},
            features=dataset.contract.feature_names,
            parts_written=len(todo),
            parts_present=len(have),
            samples=samples,
            bytes_written=size,
            seconds=time.perf_counter() - began,
            findings=quality.findings if quality else tuple(self._findings + self._client.findings),
            quality=quality,
            report=await asyncio.to_thread(self._write_report, quality) if quality else None,
        )
        _require_ok(report)
        return report

    async def _begin(self) -> tuple[Dataset, dict[str, int]]:
        """A new dataset with the features that the server has series for."""
        counts = await count_series(
            self._client, self._catalogue, start_ms=self._start_ms, end_ms=self._end_ms, step_ms=self._step_ms
        )
        present = [name for name, count in counts.items() if count]
        if not present:
            raise DataQualityError(
                f"{self._settings.prometheus.url}: no series for any of the {len(counts)} features of "
                f"{self._catalogue.source} between {from_ms(self._start_ms)} and {from_ms(self._end_ms)}; "
                "is this the right Prometheus, and does its history reach back so far?"
            )
        for name in sorted(set(counts) - set(present)):
            self._note("feature-absent", name, "no series; left out of the contract")
        self._catalogue = self._catalogue.only(present)
        contract = self._catalogue.contract(self._settings.dataset.step)
        dataset = await asyncio.to_thread(Dataset.find, self._storage)  # another shard may have been quicker
        if dataset is None:
            dataset = await asyncio.to_thread(Dataset.create, self._storage, contract)
        dataset.require(contract)
        return dataset, self._cells(counts)

    def _cells(self, series: Mapping[str, int]) -> dict[str, int]:
        """Cells a step per entity kind in this shard, from the series of each feature."""
        kinds = {f.name: f.spec.entity_kind for f in self._catalogue.features}
        features = Counter(kinds.values())
        entities = {kind: max(series[name] for name, own in kinds.items() if own == kind) for kind in features}
        return {kind: max(1, -(-entities[kind] // self._shard.count)) * n for kind, n in features.items()}

    def _fitting(self, dataset: Dataset) -> Catalogue:
        """The part of the catalogue that the dataset holds.

        Raises:
            ContractMismatch: the two do not fit.
        """
        names = {f.name for f in self._catalogue.features}
        known = [n for n in dataset.contract.feature_names if n in names]
        fitting = self._catalogue.only(known) if known else self._catalogue
        dataset.require(fitting.contract(self._settings.dataset.step))
        for name in sorted(names - set(known)):
            self._note("feature-outside", name, "not in this dataset's contract; not collected")
        return fitting

    async def _known_cells(self, dataset: Dataset, have: list[Extent]) -> dict[str, int]:
        """As `_cells`, where possible from each kind's newest part rather than from the server."""
        newest = {e.kind: e for e in sorted(have)}
        if any(kind.name not in newest for kind in dataset.contract.entity_kinds):
            window = {"start_ms": self._start_ms, "end_ms": self._end_ms, "step_ms": self._step_ms}
            return self._cells(await count_series(self._client, self._catalogue, **window))
        entities = {k: len(await asyncio.to_thread(dataset.entities, e)) * e.shard.count for k, e in newest.items()}
        return self._cells({f.name: entities[f.spec.entity_kind] for f in self._catalogue.features})

    def _store(self, dataset: Dataset, meter: QualityMeter, part: Part) -> int:
        meter.add(part)
        self._holder.require()
        return dataset.write(part)

    async def _judge(self, meter: QualityMeter, todo: list[Extent], fetcher: PartFetcher) -> QualityReport:
        end = max(e.end_ms for e in todo)
        span = timedelta(milliseconds=end - min(e.start_ms for e in todo))
        server = await check_server(self._client, self._clock)
        resets = await counter_resets(self._client, self._catalogue.features, from_ms(end - self._step_ms), span)
        limits = self._settings.dataset
        return meter.report(
            Thresholds(
                min_coverage=limits.min_coverage,
                max_out_of_range=limits.max_out_of_range,
                max_clock_skew=limits.max_clock_skew,
            ),
            server=server,
            resets=resets,
            findings=(*self._findings, *fetcher.findings.values(), *self._client.findings),
        )

    def _write_report(self, quality: QualityReport) -> str:
        return write_report(self._storage, quality, self._shard, html=self._settings.dataset.html_report)

    def _note(self, code: str, subject: str, detail: str) -> None:
        self._findings.append(Finding(code=code, severity="info", subject=subject, detail=detail))


def _require_ok(report: CollectReport) -> None:
    if report.quality is not None and not report.quality.ok:
        errors = [f"{f.code} ({f.subject}): {f.detail}" for f in report.findings if f.severity == "error"]
        raise DataQualityError(
            f"{report.path}: the data fail {len(errors)} checks: {'; '.join(errors)}; report: {report.report}"
        )


def _silent(_what: str, _done: int, _total: int) -> None:
    return
