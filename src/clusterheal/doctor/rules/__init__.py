"""All rules, in the order of their ids."""

from __future__ import annotations

from clusterheal.doctor.rule import Rule
from clusterheal.doctor.rules import gpu, monitoring, pipelines, references, security, serving, workbench

RULES: tuple[Rule, ...] = tuple(
    rule for area in (workbench, pipelines, serving, monitoring, security, gpu, references) for rule in area.BOOK.rules
)
