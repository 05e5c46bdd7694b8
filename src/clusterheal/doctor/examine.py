"""Applies the rules, and takes off what was justified."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clusterheal.doctor.rule import Problem, Rule, Severity
from clusterheal.doctor.rules import RULES
from clusterheal.doctor.scene import Scene
from clusterheal.errors import InvalidInput

_ORDER = {severity: i for i, severity in enumerate(Severity)}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A broken rule. `line` counts from 1; `None` where the source has no lines, as a cluster."""

    rule: Rule
    problem: Problem

    @property
    def line(self) -> int | None:
        return self.problem.obj.line(self.problem.path)

    @property
    def field(self) -> str:
        """The path as people write it, `spec.containers[0].image`."""
        text = ""
        for key in self.problem.path:
            text += f"[{key}]" if isinstance(key, int) else f".{key}" if "." not in key else f"['{key}']"
        return text.lstrip(".")


@dataclass(frozen=True, kw_only=True)
class Exemption:
    """A rule that an object breaks on purpose. `kind` and `name` are patterns with * and ?; `why` is for people."""

    rule: str
    kind: str
    name: str
    why: str

    def covers(self, finding: Finding) -> bool:
        o = finding.problem.obj
        same = self.rule in (finding.rule.id, finding.rule.name)
        return same and fnmatch.fnmatchcase(o.kind, self.kind) and fnmatch.fnmatchcase(o.name, self.name)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """`findings`, worst first; `exempted`, with what exempts them; `unused` exemptions, which hide nothing any more."""

    findings: tuple[Finding, ...]
    exempted: tuple[tuple[Finding, Exemption], ...]
    unused: tuple[Exemption, ...]
    objects: int

    def failed(self, at: Severity) -> bool:
        """Whether there is a finding of this severity or a worse one."""
        return any(_ORDER[f.rule.severity] <= _ORDER[at] for f in self.findings)


def examine(scene: Scene, exemptions: Sequence[Exemption] = (), rules: Sequence[Rule] = RULES) -> Examination:
    """Everything that the rules have against a scene."""
    findings, exempted = [], []
    for rule in rules:
        for problem in rule.check(scene):
            finding = Finding(rule=rule, problem=problem)
            excuse = next((e for e in exemptions if e.covers(finding)), None)
            if excuse is None:
                findings.append(finding)
            else:
                exempted.append((finding, excuse))
    used = {id(e) for _, e in exempted}
    findings.sort(key=lambda f: (_ORDER[f.rule.severity], f.rule.id, str(f.problem.obj)))
    return Examination(
        findings=tuple(findings),
        exempted=tuple(exempted),
        unused=tuple(e for e in exemptions if id(e) not in used),
        objects=len(scene.objects),
    )


def read_exemptions(file: Path) -> list[Exemption]:
    """From YAML: `doctor: [{rule, kind, name, why}, ...]`. Other keys of the file are other tools'.

    Raises:
        InvalidInput: not such a file, an unknown rule, or no reason.
    """
    try:
        document: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise InvalidInput(f"{file}: expected YAML with a list `doctor`: {exc}") from exc
    entries = document.get("doctor") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise InvalidInput(f"{file}: expected a list `doctor` of rule, kind, name and why")
    known = {key for rule in RULES for key in (rule.id, rule.name)}
    out = []
    for i, entry in enumerate(entries):
        wanted = {"rule", "kind", "name", "why"}
        if not isinstance(entry, dict) or set(entry) != wanted or not all(str(v).strip() for v in entry.values()):
            raise InvalidInput(f"{file}: doctor[{i}]: expected rule, kind, name and why, all filled; got {entry!r}")
        if entry["rule"] not in known:
            raise InvalidInput(
                f"{file}: doctor[{i}]: no rule {entry['rule']!r}; `clusterheal doctor --rules` lists them"
            )
        out.append(Exemption(**{key: str(value) for key, value in entry.items()}))
    return out
