"""The stages of the demo, in order, each with its line in the timeline and its part of the run's record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict

from clusterheal.errors import PermanentError
from clusterheal.local import demo_models, demo_pipeline, demo_platform, demo_scores
from clusterheal.local.demo_incident import IncidentRun, cause, follow, require_healed
from clusterheal.local.demo_models import EarlierModels
from clusterheal.local.demo_platform import Places, Platform
from clusterheal.local.exporter import fault_to_dict
from clusterheal.local.faults import FaultKind
from clusterheal.local.kserve import LocalKServe
from clusterheal.local.processes import tree_rss_bytes
from clusterheal.local.report import write_report
from clusterheal.local.report_record import RunRecord, iso
from clusterheal.local.timeline import StageRecord, Timeline

HEALED = "healed"


class Stages:
    """The run's stages in order; each is one line of the timeline."""

    def __init__(
        self,
        platform: Platform,
        timeline: Timeline,
        record: RunRecord,
        kind: FaultKind,
        earlier: EarlierModels | None = None,
    ) -> None:
        self._platform = platform
        self._timeline = timeline
        self._record = record
        self._kind = kind
        self._earlier = earlier

    async def run(self) -> None:
        """Raises ClusterhealError: from whatever stage failed."""
        await self._metrics()
        await self._registry()
        async with self._kserve():
            if self._earlier is None:
                await self._pipeline()
            await self._serving()
            await self._engine()
            run = await self._incident()
            await self._report(run)
            self._conclude()
            if self._platform.config.keep:
                await self._stay()

    @contextmanager
    def _stage(self, name: str) -> Iterator[StageRecord]:
        with self._timeline.stage(name) as stage:
            stage.peak_rss_bytes = tree_rss_bytes()
            yield stage

    async def _metrics(self) -> None:
        platform, timeline = self._platform, self._timeline
        with self._stage("metrics") as stage:
            timeline.progress("starting the Kubernetes API emulator")
            await demo_platform.start_kubernetes(platform)
            end = int(time.time()) // platform.step_seconds * platform.step_seconds
            timeline.progress("writing the history")
            lines: list[str] = []

            def heard(line: str) -> None:
                lines.append(line)
                timeline.progress(line)

            await demo_platform.fill_history(platform, end=end, on_line=heard)
            await demo_platform.start_exporter(platform, history_end=end)
            await demo_platform.start_alerting(platform)
            await demo_platform.start_metrics(platform)
            stage.summary = f"{lines[-1] if lines else 'history'} at http://127.0.0.1:{platform.ports.prometheus}"

    async def _registry(self) -> None:
        with self._stage("registry") as stage:
            self._timeline.progress("starting the model registry")
            await demo_platform.start_registry(self._platform)
            stage.summary = f"http://127.0.0.1:{self._platform.ports.registry}"

    @asynccontextmanager
    async def _kserve(self) -> AsyncIterator[None]:
        platform = self._platform
        async with (
            platform.cluster() as cluster,
            LocalKServe(
                cluster,
                workdir=platform.places.logs,
                marker=platform.supervisor.marker,
                on_death=lambda service, death: platform.supervisor.report_death(death),
            ),
        ):
            yield

    async def _pipeline(self) -> None:
        with self._stage("pipeline") as stage:
            self._timeline.progress("compiling")
            outcome = await demo_pipeline.run_train(self._platform, self._timeline)
            self._record.pipeline = outcome.run
            self._record.models = outcome.models
            stage.summary = outcome.summary

    async def _serving(self) -> None:
        with self._stage("serving") as stage:
            if self._earlier is not None:
                self._record.models = await demo_models.serve_earlier(self._platform, self._earlier, self._timeline)
            urls = await demo_pipeline.served_urls(self._platform)
            self._platform.use("engine", detector_url=urls["detector"], forecaster_url=urls["forecaster"])
            stage.summary = f"anomaly-detector at {urls['detector']}, predictive-analytics at {urls['forecaster']}"

    async def _engine(self) -> None:
        platform = self._platform
        with self._stage("engine") as stage:
            self._timeline.progress("starting the coordination engine")
            await demo_platform.start_engine(platform)
            url = f"http://127.0.0.1:{platform.ports.engine}"
            await platform.supervisor.guard(demo_pipeline.wait_for_scoring(url, self._timeline))
            stage.summary = f"{url}, mode auto"

    async def _incident(self) -> IncidentRun:
        platform, timeline = self._platform, self._timeline
        with self._stage("incident") as stage:
            async with platform.cluster() as cluster:
                fault = await cause(platform, self._kind, cluster)
                self._record.fault = fault_to_dict(fault)
                timeline.event(
                    f"fault {fault.kind} on {fault.namespace}/{fault.workload}: {self._kind.summary}", kind="fault"
                )
                run = await platform.supervisor.guard(follow(platform, fault, cluster, timeline))
                self._record.incident, self._record.others = run.incident, run.others
                try:
                    verified = await require_healed(platform, run, cluster)
                except PermanentError as exc:
                    self._record.error = str(exc)
                    timeline.event(str(exc), kind="bad")
                    stage.summary = "not healed"
                else:
                    self._record.result = HEALED
                    stage.summary = f"resolved and verified in {run.seconds:.0f} s: {verified}"
        return run

    async def _report(self, run: IncidentRun) -> None:
        platform = self._platform
        with self._stage("report") as stage:
            self._timeline.progress("scoring the incident once more for the plots")
            work = demo_scores.scores_of(platform, run, now=self._timeline.now())
            self._record.scores = await platform.supervisor.guard(work)
            stage.seconds = (self._timeline.now() - stage.began).total_seconds()
            save_record(self._record, self._timeline, platform.places)
            await asyncio.to_thread(write_report, self._record, platform.places.out)
            stage.summary = str(platform.places.report)
        if self._record.result != HEALED:
            raise PermanentError(self._record.error or "the incident was not healed")

    def _conclude(self) -> None:
        timeline = self._timeline
        peak = max(stage.peak_rss_bytes for stage in timeline.stages)
        timeline.note(
            f"{self._record.result}: {timeline.elapsed_seconds:.0f} s, at most {peak / 2**20:.0f} MiB; "
            f"report: {self._platform.places.report}",
            style="bold green",
        )

    async def _stay(self) -> None:
        platform, timeline = self._platform, self._timeline
        ports = platform.ports
        timeline.note("everything stays up until Ctrl-C:", style="bold")
        for name, url in (
            ("Prometheus", f"http://127.0.0.1:{ports.prometheus}"),
            ("Alertmanager", f"http://127.0.0.1:{ports.alertmanager}"),
            ("engine", f"http://127.0.0.1:{ports.engine}/docs"),
            ("model registry", f"http://127.0.0.1:{ports.registry}"),
            ("Kubernetes", f"KUBECONFIG={platform.places.kubeconfig.resolve()} kubectl get pods -A"),
            ("our commands", f"clusterheal COMMAND --config {platform.places.settings}"),
        ):
            timeline.note(f"  {name:<15}{url}")
        await platform.supervisor.guard(asyncio.Event().wait())


def save_record(record: RunRecord, timeline: Timeline, places: Places) -> None:
    """Save what is known of the run. A full disk must not hide the error that it caused."""
    record.stages = [{**asdict(stage), "began": iso(stage.began)} for stage in timeline.stages]
    record.events = [{**asdict(event), "at": iso(event.at)} for event in timeline.events]
    try:
        record.save(places.out)
    except PermanentError as exc:
        timeline.note(f"the run's record is lost: {exc}", style="bold red")


__all__ = ["HEALED", "Stages", "save_record"]
