"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from clusterheal.doctor.scene import FieldPath, Object, Scene


class Severity(StrEnum):
    """`error`: does not work or is open; `warning`: works until something happens; `info`: know this."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Where a rule is broken and by what. An empty `path` is the object as a whole."""

    obj: Object
    path: FieldPath = ()
    said: str


Check = Callable[[Scene], Iterable[Problem]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """`why`: what happens on a cluster; `fix`: what to write instead. `name` is for people, `id` never changes."""

    id: str
    name: str
    severity: Severity
    why: str
    fix: str
    check: Check


class RuleBook:
    """Collects the rules of one area in the order in which they are written."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def add(self, rule_id: str, name: str, severity: Severity, *, why: str, fix: str) -> Callable[[Check], Check]:
        """A decorator for a function that yields problems."""

        def keep(check: Check) -> Check:
            self.rules.append(Rule(id=rule_id, name=name, severity=severity, why=why, fix=fix, check=check))
            return check

        return keep
