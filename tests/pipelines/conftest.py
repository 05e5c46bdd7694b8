"""The platform that pipelines run against on one machine, over recorded telemetry where it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clusterheal.local.runner_platform import RunnerPlatform as Platform
from clusterheal.local.runner_platform import generate_history, newest_step, runner_platform

STEP_SECONDS = 300
DAYS = 10


def recorded_telemetry() -> Path:
    root = Path(os.environ.get("CLUSTERHEAL_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    return root / "data" / "anomaly"


@pytest.fixture(scope="module", params=["recorded" if recorded_telemetry().is_dir() else "generated"])
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    source = {}
    if request.param == "recorded":
        source = record(folder)
    else:
        generate_history(folder, days=DAYS, step_seconds=STEP_SECONDS)
    with runner_platform(folder, step_seconds=STEP_SECONDS) as started:
        yield replace(started, env={**started.env, **source, "CLUSTERHEAL_BUILD__GIT_COMMIT": "abc123"})


def record(folder: Path) -> dict[str, str]:
    """Slices of four recorded application servers as Prometheus' history, up to now; what the steps are told of it."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from clusterheal.local.demo_pipeline import write_recorded_catalogue
    from clusterheal.local.prometheus_history import create_blocks, write_openmetrics
    from clusterheal.local.replay import LIVE_ROWS, open_replay

    slices = folder / "slices"
    slices.mkdir()
    rows = DAYS * 86_400 // STEP_SECONDS + LIVE_ROWS
    for name in ("omi-1", "omi-2", "omi-3", "omi-4"):
        table = pq.read_table(recorded_telemetry() / f"ASD__{name}.parquet")
        quiet = table.filter(pc.equal(table["split"], 0)).slice(0, rows)  # the half that was recorded to train on
        pq.write_table(quiet.drop_columns(["split", "label"]), slices / f"{name}.parquet")
    replay = open_replay(slices)
    assert replay.step_seconds == STEP_SECONDS
    end, text = newest_step(STEP_SECONDS), folder / "history.om"
    write_openmetrics(replay.history(end), [text], start=end - DAYS * 86_400, end=end)
    create_blocks([text], folder / "prometheus" / "data")
    catalogue = write_recorded_catalogue(replay.metrics, folder / "catalogue.yaml")
    return {"CLUSTERHEAL_DATASET__CATALOGUE": str(catalogue)}
