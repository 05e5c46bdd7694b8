"""An examination for people, for programs and for code scanning."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from clusterheal import __version__
from clusterheal.doctor.examine import Examination, Finding
from clusterheal.doctor.rule import Rule, Severity
from clusterheal.doctor.rules import RULES

LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


def as_text(result: Examination) -> str:
    """One paragraph a rule: what it found where, why that matters, and how to mend it."""
    lines = []
    rules = {f.rule.id: f.rule for f in result.findings}
    for rule in rules.values():
        lines.append(f"{rule.severity.upper()} {rule.id} {rule.name}")
        for f in result.findings:
            if f.rule is rule:
                lines.append(f"  {_place(f)}: {f.problem.obj}: {f.problem.said}")
        lines += [f"  why: {rule.why}", f"  fix: {rule.fix}", ""]
    for exemption in result.unused:
        lines.append(
            f"the exemption of {exemption.kind} {exemption.name} from {exemption.rule} hides nothing; remove it"
        )
    counts = Counter(f.rule.severity for f in result.findings)
    told = ", ".join(f"{counts[s]} {s}" for s in Severity)
    lines.append(f"{result.objects} objects, {len(RULES)} rules: {told}; {len(result.exempted)} exempted")
    return "\n".join(lines)


def _place(f: Finding) -> str:
    line = f":{f.line}" if f.line else ""
    return f"{f.problem.obj.source}{line}" + (f" {f.field}" if f.field else "")


def as_json(result: Examination) -> str:
    """An object with `findings`, `exempted`, `unused_exemptions` and `objects`."""
    document = {
        "objects": result.objects,
        "findings": [_as_dict(f) for f in result.findings],
        "exempted": [_as_dict(f) | {"exempted_because": e.why} for f, e in result.exempted],
        "unused_exemptions": [{"rule": e.rule, "kind": e.kind, "name": e.name} for e in result.unused],
    }
    return json.dumps(document, indent=2)


def _as_dict(f: Finding) -> dict[str, Any]:
    o = f.problem.obj
    return {
        "rule": f.rule.id,
        "name": f.rule.name,
        "severity": f.rule.severity.value,
        "object": {"kind": o.kind, "namespace": o.namespace, "name": o.name},
        "source": o.source,
        "line": f.line,
        "field": f.field,
        "found": f.problem.said,
        "why": f.rule.why,
        "fix": f.rule.fix,
    }


def as_sarif(result: Examination) -> str:
    """SARIF 2.1.0; exempted findings are suppressed results with their justification."""
    index = {rule.id: i for i, rule in enumerate(RULES)}
    results = [_sarif_result(f, index) for f in result.findings]
    for f, exemption in result.exempted:
        results.append(
            _sarif_result(f, index) | {"suppressions": [{"kind": "external", "justification": exemption.why}]}
        )
    driver = {
        "name": "clusterheal doctor",
        "semanticVersion": __version__,
        "rules": [_sarif_rule(rule) for rule in RULES],
    }
    return json.dumps(
        {"$schema": SARIF, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}, indent=2
    )


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.name.replace("-", " ")},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
    }


def _sarif_result(f: Finding, index: dict[str, int]) -> dict[str, Any]:
    o = f.problem.obj
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": f"{o} {f.field}".strip(), "kind": "object"}]
    }
    if f.line is not None:
        location["physicalLocation"] = {"artifactLocation": {"uri": o.source}, "region": {"startLine": f.line}}
    return {
        "ruleId": f.rule.id,
        "ruleIndex": index[f.rule.id],
        "level": LEVELS[f.rule.severity],
        "message": {"text": f"{o}: {f.problem.said}. {f.rule.fix}"},
        "locations": [location],
    }


def rule_table() -> str:
    """All rules as Markdown."""
    lines = ["| id | rule | severity | what happens | fix |", "|---|---|---|---|---|"]
    lines += [f"| {r.id} | {r.name} | {r.severity} | {r.why} | {r.fix} |" for r in RULES]
    return "\n".join(lines)
