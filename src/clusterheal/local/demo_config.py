"""What a run of the demo is asked to do, and the settings that its parts get."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from clusterheal.errors import InvalidInput
from clusterheal.local.supervisor import require_port

NAMESPACE = "self-healing-platform"
MARK = ".clusterheal-demo"
DEFAULT_DAYS = 8.0  # one season back of the same weekday, and a day to judge the models on
MIN_DAYS, MAX_DAYS = 7.0, 60.0
MIN_COPIED_DAYS = 3.0  # many servers keep less than a week
LIVE_SECONDS = 240.0  # for the incident, from its cause to its verified end


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """One run. `out` gets everything that it writes; `first_port` 0 takes free ports.

    `models_of` is the folder of an earlier run whose models are served instead of training.
    """

    out: Path
    seed: int = 7
    fault: str | None = None
    data: Path | None = None
    series: str | None = None
    prometheus_url: str | None = None
    prometheus_token_file: Path | None = None
    prometheus_ca_file: Path | None = None
    days: float = DEFAULT_DAYS
    keep: bool = False
    first_port: int = 0
    train_seconds: float | None = None
    models_of: Path | None = None
    live_seconds: float = LIVE_SECONDS

    def __post_init__(self) -> None:
        if self.data is not None and self.prometheus_url is not None:
            raise InvalidInput("--data and --prometheus-url are two sources; give one of them")
        if self.series is not None and self.data is None:
            raise InvalidInput("--series chooses among recorded series; give --data, too")
        if self.prometheus_url is None and (self.prometheus_token_file or self.prometheus_ca_file):
            raise InvalidInput("--token-file and --ca-file are for --prometheus-url; give that, too")
        if self.models_of is not None and self.train_seconds is not None:
            raise InvalidInput("--models-of trains nothing, so --train-seconds has no meaning; give one of them")
        if self.train_seconds is not None and self.train_seconds <= 0:
            raise InvalidInput(f"--train-seconds {self.train_seconds:g}: expected more than 0")

    def require_days(self) -> None:
        """Raises InvalidInput: too little history to train both models on and to judge them."""
        least = MIN_DAYS if self.prometheus_url is None else MIN_COPIED_DAYS
        if self.data is None and not least <= self.days <= MAX_DAYS:
            raise InvalidInput(f"--days {self.days:g}: expected {least:g} to {MAX_DAYS:g} days of history")


@dataclass(frozen=True, kw_only=True)
class Ports:
    """One port on 127.0.0.1 for each part."""

    prometheus: int
    alertmanager: int
    exporter: int
    kubernetes: int
    registry: int
    engine: int

    @classmethod
    def choose(cls, first: int) -> Ports:
        """Consecutive ports from `first`, or free ones.

        Raises:
            InvalidInput: one of them is taken, naming it.
        """
        names = ("prometheus", "alertmanager", "exporter", "kubernetes", "registry", "engine")
        chosen = {
            name: require_port(first + i if first else 0, purpose=f"the demo's {name}") for i, name in enumerate(names)
        }
        if len(set(chosen.values())) < len(chosen):
            return cls.choose(first)
        return cls(**chosen)


def prepare_folder(out: Path) -> None:
    """Make `out` an empty folder of ours. What an earlier run left in it is removed; other people's files never are.

    Raises:
        InvalidInput: it holds something that no demo wrote.
    """
    import shutil

    if out.exists() and not out.is_dir():
        raise InvalidInput(f"--out {out}: expected a folder, found a file")
    mark = out / MARK
    if out.is_dir() and any(out.iterdir()) and not mark.exists():
        raise InvalidInput(f"--out {out} holds files that no demo wrote; choose an empty or new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        mark.touch()
        for entry in out.iterdir():
            if entry != mark:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    except OSError as exc:
        raise InvalidInput(f"--out {out} cannot be used: {exc}; choose another folder") from exc


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """Settings for our own processes, as environment variables and as a TOML file that a person can use, too."""

    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def merged(self, section: str, **values: Any) -> PartSettings:
        """With some fields of a section replaced."""
        return PartSettings(values={**self.values, section: {**self.values.get(section, {}), **values}})

    def environment(self) -> dict[str, str]:
        """`CLUSTERHEAL_<SECTION>__<FIELD>` of every field."""
        return {
            f"CLUSTERHEAL_{section.upper()}__{name.upper()}": _text(value)
            for section, fields in self.values.items()
            for name, value in fields.items()
        }

    def toml(self) -> str:
        """The same as TOML."""
        lines = ["# Settings of this demo's parts; use with: clusterheal COMMAND --config THIS_FILE"]
        for section, fields in self.values.items():
            lines += ["", f"[{section}]", *(f"{name} = {_toml(value)}" for name, value in fields.items())]
        return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, timedelta):
        return f"PT{value.total_seconds():g}S"
    return str(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return json.dumps(_text(value))


__all__ = ["NAMESPACE", "DemoConfig", "PartSettings", "Ports", "prepare_folder"]
