"""A user's own Prometheus as the demo's source: its history is copied once, and the copy is replayed.

The user's server is only read. Faults are caused in the copy: nobody can make another's metrics follow an emulated pod.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clusterheal.contracts import FeaturePanel, split_entity_key
from clusterheal.errors import DataQualityError
from clusterheal.local.replay import MAX_INSTANCES


def write_recordings(panel: FeaturePanel, folder: Path) -> tuple[str, ...]:
    """Write one Parquet file per entity of the kind that has most, in the form that `open_replay` reads.

    Metrics are called m00, m01 ...; returns notes for people that say what is what and what was left out.

    Raises:
        DataQualityError: no entity has samples in more than half of the time.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind, rows = _fullest_kind(panel)
    features = [i for i, f in enumerate(panel.contract.features) if f.entity_kind == kind]
    folder.mkdir(parents=True, exist_ok=True)
    chosen = rows[:MAX_INSTANCES]
    began = _first_sample(panel, chosen, features)
    for row in chosen:
        values = panel.values[row, began:][:, features]
        columns = {f"m{i:02d}": values[:, i] for i in range(len(features))}
        table = pa.table({"t": panel.timestamps[began:] // 10**9, **columns})
        pq.write_table(table, folder / f"{instance_name(panel.entities[row])}.parquet")
    names = ", ".join(f"m{i:02d} = {panel.contract.features[f].name}" for i, f in enumerate(features))
    left = len(panel.entities) - len(chosen)
    return (
        f"{len(chosen)} entities of kind {kind} were copied, {left} left out; faults are caused in the copy only",
        names,
    )


def instance_name(entity: str) -> str:
    """A file name, and the value of the `instance` label, for an entity's key."""
    _, values = split_entity_key(entity)
    return ".".join("".join(c if c.isalnum() or c in "-_" else "_" for c in value) for value in values)


def _fullest_kind(panel: FeaturePanel) -> tuple[str, list[int]]:
    """The entity kind with most entities that have samples in more than half of the steps, and their rows."""
    present = np.isfinite(panel.values).any(axis=2)
    full = np.flatnonzero(present.mean(axis=1) > 0.5)
    kinds = [split_entity_key(panel.entities[row])[0] for row in full]
    if not kinds:
        raise DataQualityError(
            f"of {len(panel.entities)} entities none has samples in more than half of the "
            f"{len(panel.timestamps)} steps; give --days the time that the server keeps"
        )
    best = max(dict.fromkeys(kinds), key=kinds.count)
    return best, [int(row) for row, kind in zip(full, kinds, strict=True) if kind == best]


def _first_sample(panel: FeaturePanel, rows: Sequence[int], features: Sequence[int]) -> int:
    """The first step at which any of the chosen entities has a sample."""
    some = np.isfinite(panel.values[np.ix_(list(rows), range(panel.values.shape[1]), list(features))]).any(axis=(0, 2))
    return int(np.argmax(some))


__all__ = ["instance_name", "write_recordings"]
