"""Time and memory of each stage of the demo.

    .venv/bin/python -m benchmarks.demo [--quick] [--json FILE] [--data PATH] [--series GLOB]

Memory is the highest resident size of the whole process tree while the stage ran. `--quick` measures the metrics side
alone (cluster, history, exporter, Prometheus) on two days of history, which takes seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clusterheal.local import demo_platform
from clusterheal.local.demo import run_demo
from clusterheal.local.demo_config import DemoConfig, Ports, prepare_folder
from clusterheal.local.demo_platform import Places, Platform, initial_settings
from clusterheal.local.processes import tree_rss_bytes
from clusterheal.local.supervisor import Supervisor
from clusterheal.local.timeline import Timeline
from clusterheal.local.world import default_cluster

MIB = 2**20
QUICK_DAYS = 2.0


def full(out: Path, data: Path | None, series: str | None) -> dict[str, Any]:
    """A whole run; raises what the run raises when the incident is not healed."""
    timeline = Timeline(console=Console(stderr=True))
    record = run_demo(DemoConfig(out=out, data=data, series=series), timeline)
    stages = [
        {"stage": s.name, "seconds": round(s.seconds, 2), "peak_mib": round(s.peak_rss_bytes / MIB)}
        for s in timeline.stages
    ]
    steps = [{"step": step["title"], "seconds": round(step["seconds"], 2)} for step in record.pipeline["steps"]]
    return {**summary(stages, timeline.elapsed_seconds), "pipeline_steps": steps}


async def metrics_side(out: Path) -> dict[str, Any]:
    """The parts before any training, one after the other."""
    prepare_folder(out)
    config, places, ports = DemoConfig(out=out, days=QUICK_DAYS), Places(out=out), Ports.choose(0)
    stages: list[dict[str, Any]] = []
    began = time.monotonic()
    async with Supervisor(logs=places.logs) as supervisor:
        platform = Platform(
            config=config,
            places=places,
            ports=ports,
            spec=default_cluster(),
            replay=None,
            supervisor=supervisor,
            settings=initial_settings(config, places, ports, step_seconds=60, days=QUICK_DAYS),
            step_seconds=60,
        )
        end = int(time.time()) // 60 * 60
        for name, work in (
            ("kubernetes", lambda: demo_platform.start_kubernetes(platform)),
            ("history", lambda: demo_platform.fill_history(platform, end=end, on_line=lambda line: None)),
            ("exporter", lambda: demo_platform.start_exporter(platform, history_end=end)),
            ("prometheus", lambda: demo_platform.start_metrics(platform)),
            ("registry", lambda: demo_platform.start_registry(platform)),
        ):
            stages.append(await measured(name, work()))
    return summary(stages, time.monotonic() - began)


async def measured(name: str, work: Any) -> dict[str, Any]:
    """Await `work`, looking at the process tree's memory ten times a second."""
    begin, peak = time.monotonic(), tree_rss_bytes()
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait({task}, timeout=0.1)
        peak = max(peak, await asyncio.to_thread(tree_rss_bytes))
    task.result()
    return {"stage": name, "seconds": round(time.monotonic() - begin, 2), "peak_mib": round(peak / MIB)}


def summary(stages: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The figures of `--json`."""
    return {"stages": stages, "seconds": round(seconds, 2), "peak_mib": max(s["peak_mib"] for s in stages)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the metrics side alone, under a minute")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--data", type=Path, help="replay recorded telemetry")
    parser.add_argument("--series", help="with --data: which files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        figures = asyncio.run(metrics_side(out)) if given.quick else full(out, given.data, given.series)
    table = Table("stage", "seconds", "peak MiB, all processes")
    for stage in figures["stages"]:
        table.add_row(stage["stage"], f"{stage['seconds']:.1f}", str(stage["peak_mib"]))
        for step in figures.get("pipeline_steps", []) if stage["stage"] == "pipeline" else []:
            table.add_row(f"  {step['step']}", f"{step['seconds']:.1f}", "")
    table.add_row("all", f"{figures['seconds']:.1f}", str(figures["peak_mib"]))
    Console().print(table)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
