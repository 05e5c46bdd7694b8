"""The job that fills a Prometheus TSDB with history: `python -m clusterheal.local.prometheus_backfill CONFIG.json`.

It is a process of its own so that it can be interrupted at any point, and prints one line per step done.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from clusterheal.errors import ClusterhealError
from clusterheal.local.generator import HistoryGenerator, Series, state_to_dict
from clusterheal.local.prometheus_history import create_blocks, write_openmetrics
from clusterheal.local.replay import open_replay
from clusterheal.local.world import default_cluster
from clusterheal.local.world_pods import PodPlace

PARTS = 2  # files made side by side into blocks, one per core of a small machine


@dataclass(frozen=True, kw_only=True)
class BackfillConfig:
    """What to fill. Times in seconds since the epoch; `pods` by workload key as (name, node).

    With `source`, that recording is replayed; without, the generated cluster's history is made.
    `state` is where the generated history's end is written.
    """

    folder: str
    start: int
    end: int
    step_seconds: int = 60
    seed: int = 7
    source: str | None = None
    series: str | None = None
    state: str | None = None
    pods: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        path.write_bytes(orjson.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> BackfillConfig:
        return cls(**orjson.loads(path.read_bytes()))


def backfill(config: BackfillConfig) -> int:
    """Write the history and turn it into TSDB blocks under `folder/data`; returns the number of samples.

    Raises:
        ClusterhealError: bad input, a full disk, or promtool failed.
    """
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"history-{part}.om" for part in range(PARTS)]
    try:
        if config.source is not None:
            series: Iterable[Series] = open_replay(Path(config.source), pattern=config.series).history(config.end)
            count = write_openmetrics(series, files, start=config.start, end=config.end)
        else:
            count = _generate(config, files)
        print(f"{count:,} samples written, building blocks", flush=True)
        create_blocks(files, folder / "data")
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    return count


def _generate(config: BackfillConfig, files: list[Path]) -> int:
    spec = default_cluster()
    pods = {
        key: [PodPlace(namespace=key.split("/")[0], name=name, node=node) for name, node in places]
        for key, places in config.pods.items()
    }
    generator = HistoryGenerator(
        spec, pods, seed=config.seed, start=config.start, end=config.end, step_seconds=config.step_seconds
    )
    count = write_openmetrics(generator.series(), files, start=config.start, end=config.end)
    if config.state is not None:
        Path(config.state).write_text(json.dumps(state_to_dict(generator.state)))
    return count


def main(path: Path) -> int:
    """Run the job; an error of ours is one line on stderr."""
    try:
        count = backfill(BackfillConfig.read(path))
    except ClusterhealError as exc:
        print(exc, file=sys.stderr)
        return 1
    print(f"{count:,} samples in the TSDB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
