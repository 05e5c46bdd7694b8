"""Alertmanager's silences: what somebody muted on purpose is not acted on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clusterheal.engine.codec import parse_time
from clusterheal.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """One condition on a label; an absent label is an empty one, as Alertmanager has it."""

    name: str
    value: str
    regex: bool
    equal: bool

    def matches(self, labels: Mapping[str, str]) -> bool:
        found = labels.get(self.name, "")
        same = re.fullmatch(self.value, found) is not None if self.regex else found == self.value
        return same is self.equal


@dataclass(frozen=True, kw_only=True)
class Silence:
    id: str
    matchers: tuple[Matcher, ...]
    starts_at: datetime
    ends_at: datetime
    created_by: str
    comment: str

    def covers(self, labels: Mapping[str, str], now: datetime) -> bool:
        return self.starts_at <= now < self.ends_at and all(m.matches(labels) for m in self.matchers)


@dataclass(frozen=True, kw_only=True)
class Silences:
    """What is silenced as of `read_at`; `None`: never read. `problem`: why the newest read failed."""

    known: tuple[Silence, ...] = ()
    read_at: datetime | None = None
    problem: str | None = None


def parse_silences(data: Any) -> tuple[Silence, ...]:
    """`GET /api/v2/silences`: those that are not expired.

    Raises:
        InvalidInput: another form, or a matcher that is no regular expression.
    """
    try:
        return tuple(
            Silence(
                id=entry["id"],
                matchers=tuple(_matcher(m) for m in entry["matchers"]),
                starts_at=parse_time(entry["startsAt"]),
                ends_at=parse_time(entry["endsAt"]),
                created_by=entry.get("createdBy", ""),
                comment=entry.get("comment", ""),
            )
            for entry in data
            if entry["status"]["state"] != "expired"
        )
    except (KeyError, TypeError, re.error) as exc:
        raise InvalidInput(f"expected Alertmanager's list of silences, got {data!r:.200} ({exc!r})") from exc


def _matcher(data: Mapping[str, Any]) -> Matcher:
    if data["isRegex"]:
        re.compile(data["value"])
    return Matcher(name=data["name"], value=data["value"], regex=data["isRegex"], equal=data.get("isEqual", True))
