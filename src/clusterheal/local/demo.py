"""The main job: from metrics to a healed incident on one machine, with real parts, and a report of it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path

from clusterheal.errors import ClusterhealError, InvalidInput, PermanentError
from clusterheal.local import demo_pipeline, demo_platform, demo_scores, demo_source
from clusterheal.local.demo_config import DemoConfig, Ports, prepare_folder
from clusterheal.local.demo_incident import IncidentRun, cause, follow, require_healed
from clusterheal.local.demo_platform import Places, Platform, initial_settings
from clusterheal.local.exporter import fault_to_dict
from clusterheal.local.faults import FaultKind, choose
from clusterheal.local.kserve import LocalKServe
from clusterheal.local.processes import tree_rss_bytes
from clusterheal.local.prometheus import require_binaries
from clusterheal.local.replay import Replay, open_replay
from clusterheal.local.report import write_report
from clusterheal.local.report_record import RunRecord, iso
from clusterheal.local.supervisor import Supervisor
from clusterheal.local.timeline import StageRecord, Timeline
from clusterheal.local.world import default_cluster, recorded_cluster

SAMPLE_SECONDS = 0.5
HEALED = "healed"


class Interrupted(ClusterhealError):
    """Somebody asked the run to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}; everything that was started has been ended")
        self.number = number


def run_demo(config: DemoConfig, timeline: Timeline) -> RunRecord:
    """Do everything, write the report, leave nothing running.

    Raises:
        InvalidInput: bad options, data or folder; nothing was started.
        Interrupted: by SIGINT, SIGTERM or SIGHUP.
        ClusterhealError: what went wrong, or why the incident does not count as healed.
    """
    require_binaries("prometheus", "promtool", "prometheus-alertmanager")
    replay = open_replay(config.data, pattern=config.series) if config.data is not None else None
    kind = choose(config.fault, recorded=replay is not None or config.prometheus_url is not None)
    ports = Ports.choose(config.first_port)
    with exclusive(config.out):
        prepare_folder(config.out)
        return asyncio.run(_run(config, timeline, kind, replay, ports))


@contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Hold `out` for one run.

    Raises:
        InvalidInput: another run has it.
    """
    lock = out.with_name(out.name + ".lock")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as exc:
        raise InvalidInput(f"--out {out} cannot be used: {exc.strerror}; choose another folder") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise InvalidInput(f"--out {out} is in use by another run; wait for it or choose another folder") from exc
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


async def _run(
    config: DemoConfig, timeline: Timeline, kind: FaultKind, replay: Replay | None, ports: Ports
) -> RunRecord:
    """Run the stages under signal handlers; the record is saved whatever happens."""
    places = Places(out=config.out)
    record = RunRecord(source=describe_source(config, replay), notes=[], seed=config.seed, began=iso(timeline.now()))
    timeline.note(f"source: {record.source}")
    try:
        async with _interruptible(), Supervisor(logs=places.logs) as supervisor, _observed(timeline):
            if config.prometheus_url is not None:
                with timeline.stage("source") as stage:
                    config, replay, record.notes = await demo_source.copy_history(config, places, supervisor, timeline)
                    stage.summary = f"{replay.days:.1f} days of {len(replay.recordings)} entities copied"
            record.notes += replay.notes if replay else ()
            for note in record.notes:
                timeline.note(f"        {note}")
            step = replay.step_seconds if replay else 60
            platform = Platform(
                config=config,
                places=places,
                ports=ports,
                spec=recorded_cluster(replay.instances) if replay else default_cluster(),
                replay=replay,
                supervisor=supervisor,
                settings=initial_settings(config, places, ports, step_seconds=step),
                step_seconds=step,
            )
            await supervisor.guard(_Stages(platform, timeline, record, kind).run())
    except Interrupted as exc:
        if not (config.keep and record.result == HEALED):
            record.error = str(exc)
            raise
    except ClusterhealError as exc:
        record.error = str(exc)
        raise
    finally:
        if record.result != HEALED:
            record.result = "failed"
        _keep(record, timeline, places)
    return record


def _keep(record: RunRecord, timeline: Timeline, places: Places) -> None:
    """Save what is known of the run. A full disk must not hide the error that it caused."""
    record.stages = [{**asdict(stage), "began": iso(stage.began)} for stage in timeline.stages]
    record.events = [{**asdict(event), "at": iso(event.at)} for event in timeline.events]
    try:
        record.save(places.out)
    except OSError as exc:
        timeline.note(f"the run's record could not be written: {exc}", style="bold red")


@asynccontextmanager
async def _interruptible() -> AsyncIterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into `Interrupted`, once; a second one changes nothing."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            task.cancel()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    except asyncio.CancelledError as exc:
        if not received:
            raise
        task.uncancel()
        raise Interrupted(received[0]) from exc
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _observed(timeline: Timeline) -> AsyncIterator[None]:
    """Meanwhile, the running stage's memory is sampled and its line kept up to date."""

    async def look() -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            used = await asyncio.to_thread(tree_rss_bytes)
            if timeline.stages:
                stage = timeline.stages[-1]
                stage.peak_rss_bytes = max(stage.peak_rss_bytes, used)
            timeline.tick()

    looking = asyncio.create_task(look(), name="memory and progress")
    try:
        yield
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


def describe_source(config: DemoConfig, replay: Replay | None) -> str:
    """Where the metrics come from, in words."""
    if config.prometheus_url is not None:
        return f"the Prometheus at {config.prometheus_url}, read once: {config.days:g} days at 60 s, seed {config.seed}"
    if replay is not None:
        days = f"{replay.days:.1f} days replayed so that they end now"
        return f"recorded telemetry {config.data}, {days}, seed {config.seed}"
    return f"a generated OpenShift cluster, {config.days:g} days at 60 s, seed {config.seed}"


class _Stages:
    """The run's stages in order; each is one line of the timeline."""

    def __init__(self, platform: Platform, timeline: Timeline, record: RunRecord, kind: FaultKind) -> None:
        self._platform = platform
        self._timeline = timeline
        self._record = record
        self._kind = kind

    async def run(self) -> None:
        """Raises ClusterhealError: from whatever stage failed."""
        await self._metrics()
        await self._registry()
        async with self._kserve():
            await self._pipeline()
            await self._engine()
            run = await self._incident()
            await self._report(run)
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
        with self._stage("serving") as stage:
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
            _keep(self._record, self._timeline, platform.places)
            path = await asyncio.to_thread(write_report, self._record, platform.places.out)
            stage.summary = str(path)
        if self._record.result != HEALED:
            raise PermanentError(self._record.error or "the incident was not healed")

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


__all__ = ["HEALED", "Interrupted", "run_demo"]
