"""The stage that copies the history of a user's own Prometheus."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from clusterheal.local.demo_config import DemoConfig
from clusterheal.local.demo_platform import Places, python_module
from clusterheal.local.processes import ChildSpec
from clusterheal.local.replay import Replay, open_replay
from clusterheal.local.replay_copy import write_recordings
from clusterheal.local.supervisor import Supervisor
from clusterheal.local.timeline import Timeline


async def copy_history(
    config: DemoConfig, places: Places, supervisor: Supervisor, timeline: Timeline
) -> tuple[DemoConfig, Replay, list[str]]:
    """Collect from the user's Prometheus with `clusterheal collect` and turn the dataset into recordings.

    Returns the configuration that replays them, the replay, and notes for people.

    Raises:
        ChildDied: the server cannot be reached or read; the message says why.
        DataQualityError, InvalidInput: too little history.
    """
    from clusterheal.metrics.dataset import Dataset

    assert config.prometheus_url is not None, "there is no server to copy from"
    dataset, recordings = places.out / "source-dataset", places.out / "source"
    argv = [*python_module("clusterheal.cli"), "collect", "--prometheus-url", config.prometheus_url]
    argv += ["--dataset", str(dataset), "--days", f"{config.days:g}"]
    if config.prometheus_token_file is not None:
        argv += ["--token-file", str(config.prometheus_token_file)]
    if config.prometheus_ca_file is not None:
        argv += ["--ca-file", str(config.prometheus_ca_file)]
    child = ChildSpec(name="source", argv=argv)
    await supervisor.run(child, on_line=lambda line: timeline.progress(line.strip()))
    panel = await asyncio.to_thread(lambda: Dataset.open(dataset).panel())
    notes = await asyncio.to_thread(write_recordings, panel, recordings)
    replayed = replace(config, data=recordings, prometheus_url=None)
    return replayed, open_replay(recordings), list(notes)


__all__ = ["copy_history"]
