"""The table of alerts in docs/monitoring.md, from the rules and the first line of their runbooks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

BEGIN, END = "<!-- alerts: begin -->\n", "<!-- alerts: end -->\n"
ORDER = {"critical": 0, "warning": 1, "info": 2}


def filled_in(text: str, root: Path, slo: dict[str, Any]) -> str:
    """The document with its table made anew. `slo` is the generated rule object, which may not be on disk yet."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}{_table(root, slo)}{END}{tail}"


def _table(root: Path, slo: dict[str, Any]) -> str:
    base, cluster = root / "manifests/base/monitoring", root / "manifests/cluster/monitoring"
    files = [
        *(base / f"rules-{name}.yaml" for name in ("engine", "models", "platform")),
        cluster / "alerting-rules.yaml",
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for document in (*(yaml.safe_load(path.read_text()) for path in files), slo):
        for rule in (rule for group in document["spec"]["groups"] for rule in group["rules"] if "alert" in rule):
            found.setdefault(rule["alert"], []).append(rule)
    lines = ["| alert | about | severity | after | fires when |", "|---|---|---|---|---|"]
    for name, rules in found.items():
        severities = sorted({r["labels"]["severity"] for r in rules}, key=ORDER.__getitem__)
        after = ", ".join(dict.fromkeys(r.get("for", "at once") for r in rules))
        about, meaning = rules[0]["labels"]["component"], _meaning(root / "docs/runbooks" / f"{name}.md")
        lines.append(f"| [{name}](runbooks/{name}.md) | {about} | {', '.join(severities)} | {after} | {meaning} |")
    return "\n".join(lines) + "\n"


def _meaning(path: Path) -> str:
    found = re.search(r"^\*\*Meaning\.\*\* (.+)$", path.read_text(), re.MULTILINE)
    assert found is not None, f"{path} has no meaning"
    return found.group(1).replace("|", "\\|")
