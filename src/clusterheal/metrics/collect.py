"""From a Prometheus to a dataset: find out what exists, fetch what is missing, write it part by part."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from clusterheal.clock import Clock, SystemClock
from clusterheal.contracts import EntityKind, FeatureContract, MetricFrame, entity_key
from clusterheal.errors import DataQualityError, InvalidInput
from clusterheal.metrics.catalogue import Catalogue, load_catalogue
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.dataset import Dataset
from clusterheal.metrics.findings import Finding
from clusterheal.metrics.grid import NS_PER_MS
from clusterheal.metrics.parts import Extent, Part, kind_features
from clusterheal.metrics.plan import missing_extents
from clusterheal.metrics.storage import Storage
from clusterheal.metrics.tasks import gather
from clusterheal.metrics.windows import from_ms, step_ms, to_ms
from clusterheal.settings import Settings

log = logging.getLogger(__name__)

PROBES = 48
"""Times over the window at which the number of series of a feature is asked for."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many parts are done."""


@dataclass(frozen=True, kw_only=True)
class CollectReport:
    """What a collect did. `samples` counts cells that hold a number, of what was fetched now."""

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

    def summary(self) -> str:
        """Lines for people."""
        entities = ", ".join(f"{count} {kind}" for kind, count in self.entities.items()) or "nothing new"
        lines = [
            f"{self.path}: {self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC, contract "
            f"{self.contract_sha256[:12]}, {len(self.features)} features",
            f"fetched {self.samples:,} samples of {entities} in {self.parts_written} parts "
            f"({self.bytes_written / 2**20:.1f} MiB), {self.parts_present} parts were there, {self.seconds:.1f} s",
        ]
        lines += [f"{f.severity}: {f.code}: {f.subject}: {f.detail}" for f in self.findings if f.severity != "info"]
        return "\n".join(lines)


def collect(
    settings: Settings,
    *,
    start: datetime,
    end: datetime,
    progress: Progress | None = None,
    catalogue: Catalogue | None = None,
    clock: Clock | None = None,
) -> CollectReport:
    """Bring the dataset at `settings.dataset.path` up to `start <= t < end`, both rounded down to the step.

    Only what is missing is fetched: a second collect appends, an interrupted one goes on where it stopped.

    Raises:
        InvalidInput: a window or step that makes no sense, or a query that the server does not understand.
        ContractMismatch: the dataset holds other features or another step.
        DataQualityError: the server has no series for any feature, or the data fail a threshold.
        RetryableError, PermanentError: the server or the storage refuses.
    """
    return asyncio.run(
        collect_async(settings, start=start, end=end, progress=progress, catalogue=catalogue, clock=clock)
    )


async def collect_async(
    settings: Settings,
    *,
    start: datetime,
    end: datetime,
    progress: Progress | None = None,
    catalogue: Catalogue | None = None,
    clock: Clock | None = None,
) -> CollectReport:
    """`collect` for callers that run an event loop."""
    clock = clock or SystemClock()
    window = collect_window(start, end, settings.dataset.step, now=clock.now())
    wanted = catalogue or load_catalogue(settings.dataset.catalogue)
    storage = Storage.open(settings.dataset.path, settings.dataset)
    async with PrometheusClient(settings.prometheus, clock=clock) as client:
        return await _Run(client, storage, wanted, settings, window, progress or _silent).run()


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
    def __init__(
        self,
        client: PrometheusClient,
        storage: Storage,
        catalogue: Catalogue,
        settings: Settings,
        window: tuple[int, int],
        progress: Progress,
    ) -> None:
        self._client = client
        self._storage = storage
        self._catalogue = catalogue
        self._settings = settings
        self._start_ms, self._end_ms = window
        self._step = settings.dataset.step
        self._step_ms = step_ms(self._step)
        self._progress = progress
        self._findings: list[Finding] = []
        self._entities: dict[str, set[str]] = {}
        self._samples = self._bytes = 0

    async def run(self) -> CollectReport:
        began = time.perf_counter()
        dataset, series = await self._dataset()
        have = await asyncio.to_thread(dataset.extents)
        todo = missing_extents(have, start_ms=self._start_ms, end_ms=self._end_ms, step_ms=self._step_ms, series=series)
        done = 0
        self._progress("collect", done, len(todo))
        async for part in self._fetched(todo, dataset.contract):
            self._bytes += await asyncio.to_thread(dataset.write, part)
            done += 1
            self._progress("collect", done, len(todo))
        return CollectReport(
            path=self._storage.url,
            contract_sha256=dataset.contract.sha256,
            start=from_ms(self._start_ms),
            end=from_ms(self._end_ms),
            entities={kind: len(keys) for kind, keys in sorted(self._entities.items())},
            features=dataset.contract.feature_names,
            parts_written=len(todo),
            parts_present=len(have),
            samples=self._samples,
            bytes_written=self._bytes,
            seconds=time.perf_counter() - began,
            findings=tuple(self._findings + self._client.findings),
        )

    async def _dataset(self) -> tuple[Dataset, dict[str, int]]:
        """The dataset, new if there is none, and how many series each entity kind has."""
        found = await asyncio.to_thread(Dataset.find, self._storage)
        catalogue = self._catalogue
        if found is not None:
            known = [n for n in found.contract.feature_names if n in {f.name for f in catalogue.features}]
            found.require((catalogue.only(known) if known else catalogue).contract(self._step))
            catalogue = catalogue.only(known)
        counts = await self._count_series(catalogue)
        present = [f.name for f in catalogue.features if counts[f.name]]
        if found is None:
            if not present:
                raise DataQualityError(
                    f"{self._settings.prometheus.url}: no series for any of the {len(counts)} features of "
                    f"{catalogue.source} between {from_ms(self._start_ms)} and {from_ms(self._end_ms)}; "
                    "is this the right Prometheus, and does its history reach back so far?"
                )
            for name in sorted(set(counts) - set(present)):
                self._finding("feature-absent", "info", name, "no series; left out of the contract")
            catalogue = catalogue.only(present)
            found = await asyncio.to_thread(Dataset.create, self._storage, catalogue.contract(self._step))
        series: Counter[str] = Counter()
        for feature in catalogue.features:
            series[feature.spec.entity_kind] += max(1, counts[feature.name])
        return found, dict(series)

    async def _count_series(self, catalogue: Catalogue) -> dict[str, int]:
        """The most series that each feature has at one time, looked up now and then over the window."""
        last = self._end_ms - self._step_ms
        width = max(self._step_ms, (last - self._start_ms) // PROBES // self._step_ms * self._step_ms)
        steps = (last - self._start_ms) // width

        async def most(promql: str) -> int:
            frame = await self._client.query_range(
                f"count({promql})",
                start=from_ms(last - steps * width),
                end=from_ms(last),
                step=timedelta(milliseconds=width),
            )
            return int(np.nanmax(frame.values)) if frame.labels else 0

        counts = await gather([most(f.spec.promql) for f in catalogue.features])
        return {f.name: n for f, n in zip(catalogue.features, counts, strict=True)}

    async def _fetched(self, todo: Sequence[Extent], contract: FeatureContract) -> AsyncIterator[Part]:
        """Parts in order; the next one is being fetched while the caller writes this one."""
        ahead: asyncio.Task[Part] | None = None
        try:
            for i in range(len(todo)):
                current = ahead or asyncio.create_task(self._fetch(todo[i], contract))
                part = await current
                following = todo[i + 1] if i + 1 < len(todo) else None
                ahead = asyncio.create_task(self._fetch(following, contract)) if following else None
                yield part
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _fetch(self, extent: Extent, contract: FeatureContract) -> Part:
        features = [contract.features[i] for i in kind_features(contract, extent.kind)]
        frames = await gather(
            [
                self._client.query_range(
                    f.promql,
                    start=from_ms(extent.start_ms),
                    end=from_ms(extent.end_ms - self._step_ms),
                    step=self._step,
                )
                for f in features
            ]
        )
        kind = next(k for k in contract.entity_kinds if k.name == extent.kind)
        return await asyncio.to_thread(self._assemble, extent, kind, frames)

    def _assemble(self, extent: Extent, kind: EntityKind, frames: Sequence[MetricFrame]) -> Part:
        keys = [[entity_key(kind, labels) for labels in frame.labels] for frame in frames]
        entities = sorted(set().union(*keys))
        rows = {key: i for i, key in enumerate(entities)}
        n_steps = (extent.end_ms - extent.start_ms) // self._step_ms
        values = np.full((len(frames), len(entities), n_steps), np.nan, np.float32)
        for f, (frame, own) in enumerate(zip(frames, keys, strict=True)):
            doubled = sorted(key for key, count in Counter(own).items() if count > 1)
            if doubled:
                self._finding(
                    "entity-doubled", "warning", doubled[0], f"{len(doubled)} entities have more than one series"
                )
            values[f, [rows[key] for key in own]] = frame.values.T
        self._entities.setdefault(kind.name, set()).update(entities)
        self._samples += int(np.count_nonzero(~np.isnan(values)))
        return Part(extent=extent, entities=tuple(entities), values=values)

    def _finding(self, code: str, severity: str, subject: str, detail: str) -> None:
        finding = Finding(code=code, severity=severity, subject=subject, detail=detail)  # type: ignore[arg-type]
        if finding not in self._findings:
            self._findings.append(finding)


def _silent(_what: str, _done: int, _total: int) -> None:
    return


__all__ = ["NS_PER_MS", "CollectReport", "collect", "collect_async", "collect_window"]
