"""What a run leaves for its report: `run.json` beside the artifacts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from clusterheal.errors import InvalidInput
from clusterheal.local.writing import write_whole

FILE = "run.json"


@dataclass(kw_only=True)
class RunRecord:
    """A run in plain values: times are ISO 8601, sizes bytes, durations seconds.

    `stages` and `events` as the timeline has them; `models` has one entry per rolled out version; `scores` is what
    `report_scores.Scores.to_dict` gives; `incident` and `others` are Incident objects.
    """

    source: str
    notes: list[str]
    seed: int
    fault: dict[str, Any] = field(default_factory=dict)
    began: str = ""
    result: str = "running"
    error: str | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    pipeline: dict[str, Any] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    incident: dict[str, Any] | None = None
    others: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Any] | None = None

    def save(self, out: Path) -> Path:
        """Write `run.json` into `out`.

        Raises:
            PermanentError: it cannot be written.
        """
        options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
        return write_whole(out / FILE, orjson.dumps(asdict(self), option=options))

    @classmethod
    def load(cls, out: Path) -> RunRecord:
        """Raises InvalidInput: there is no run's record in `out`, or it cannot be read."""
        path = out / FILE
        try:
            return cls(**orjson.loads(path.read_bytes()))
        except FileNotFoundError as exc:
            raise InvalidInput(f"{path} not found; expected the folder that `clusterheal demo --out` wrote") from exc
        except (orjson.JSONDecodeError, TypeError) as exc:
            raise InvalidInput(f"{path} is no record of a run: {exc}; run the demo again") from exc


def iso(time: datetime) -> str:
    """ISO 8601 with milliseconds."""
    return time.isoformat(timespec="milliseconds")


__all__ = ["FILE", "RunRecord", "iso"]
