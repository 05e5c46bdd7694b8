"""The main job: from metrics to a healed incident on one machine, with real parts, and a report of it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from clusterheal.errors import ClusterhealError, InvalidInput
from clusterheal.local import demo_source
from clusterheal.local.demo_config import DemoConfig, Ports, prepare_folder
from clusterheal.local.demo_models import EarlierModels, open_models, require_same_metrics
from clusterheal.local.demo_platform import Places, Platform, initial_settings
from clusterheal.local.demo_stages import HEALED, Stages, save_record
from clusterheal.local.faults import FaultKind, choose
from clusterheal.local.processes import tree_rss_bytes
from clusterheal.local.prometheus import require_binaries
from clusterheal.local.replay import Replay, open_replay
from clusterheal.local.report_record import RunRecord, iso
from clusterheal.local.supervisor import Supervisor
from clusterheal.local.timeline import Timeline
from clusterheal.local.world import default_cluster, recorded_cluster

SAMPLE_SECONDS = 0.5


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
    config.require_days()
    require_binaries("prometheus", "promtool", "prometheus-alertmanager")
    replay = open_replay(config.data, pattern=config.series) if config.data is not None else None
    kind = choose(config.fault, recorded=replay is not None or config.prometheus_url is not None)
    earlier = open_models(config.models_of, out=config.out) if config.models_of is not None else None
    ports = Ports.choose(config.first_port)
    with exclusive(config.out):
        prepare_folder(config.out)
        return asyncio.run(_run(config, timeline, kind, replay, earlier, ports))


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
    config: DemoConfig,
    timeline: Timeline,
    kind: FaultKind,
    replay: Replay | None,
    earlier: EarlierModels | None,
    ports: Ports,
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
            if earlier is not None:
                require_same_metrics(earlier, replay)
                record.notes.append(f"the models are those that the run in {earlier.folder} trained")
            for note in record.notes:
                timeline.note(f"        {note}")
            step, days = (replay.step_seconds, replay.days) if replay else (60, config.days)
            platform = Platform(
                config=config,
                places=places,
                ports=ports,
                spec=recorded_cluster(replay.instances) if replay else default_cluster(),
                replay=replay,
                supervisor=supervisor,
                settings=initial_settings(config, places, ports, step_seconds=step, days=days),
                step_seconds=step,
            )
            await supervisor.guard(Stages(platform, timeline, record, kind, earlier).run())
    except Interrupted as exc:
        if not (config.keep and record.result == HEALED):
            record.error = str(exc)
            raise
        timeline.note("everything that was started has been ended")
    except ClusterhealError as exc:
        record.error = str(exc)
        raise
    finally:
        if record.result != HEALED:
            record.result = "failed"
        save_record(record, timeline, places)
    return record


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


__all__ = ["Interrupted", "run_demo"]
