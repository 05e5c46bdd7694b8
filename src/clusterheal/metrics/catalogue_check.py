"""Would a catalogue work on OpenShift? Denied metrics, then PromQL as Prometheus's own parser sees it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

from clusterheal.errors import InvalidInput, PermanentError
from clusterheal.metrics.catalogue import Catalogue, packaged_text, parse_yaml
from clusterheal.metrics.findings import Finding
from clusterheal.metrics.promql import metric_names

PROMTOOL_SECONDS = 60


def check_catalogue(catalogue: Catalogue) -> tuple[Finding, ...]:
    """What is wrong with a catalogue that loads; empty when nothing is.

    Units, ranges and names are checked on loading. Without promtool on PATH, an `info` finding says that nobody has
    parsed the expressions.

    Raises:
        PermanentError: promtool does not answer.
    """
    found: list[Finding] = []
    denied = denied_metrics()
    for feature in catalogue.features:
        try:
            names = metric_names(feature.spec.promql) | set(feature.counters)
        except InvalidInput as exc:
            found.append(Finding(code="promql-invalid", severity="error", subject=feature.name, detail=str(exc)))
            continue
        if not names:
            detail = "selects no metric by name; a constant teaches a model nothing"
            found.append(Finding(code="promql-no-metric", severity="error", subject=feature.name, detail=detail))
        for name in sorted(names):
            for pattern, why in denied:
                if pattern.fullmatch(name):
                    detail = f"{name} does not exist on OpenShift: {why}"
                    found.append(Finding(code="metric-denied", severity="error", subject=feature.name, detail=detail))
    found += _parse(catalogue)
    return tuple(found)


def denied_metrics() -> list[tuple[re.Pattern[str], str]]:
    """Patterns of metric names that OpenShift does not have, each with the reason."""
    entries = parse_yaml(packaged_text("denied"), "denied metrics")["denied"]
    return [(re.compile(e["metric"]), e["why"]) for e in entries]


def _parse(catalogue: Catalogue) -> list[Finding]:
    promtool = shutil.which("promtool")
    if promtool is None:
        detail = "promtool is not on PATH, expressions were not parsed; install the package prometheus"
        return [Finding(code="promql-unparsed", severity="info", subject=catalogue.source, detail=detail)]
    whole = _promtool(promtool, [(f.name, f.spec.promql) for f in catalogue.features])
    if whole is None:
        return []
    found = []
    for feature in catalogue.features:  # promtool stops at the first error of a file
        problem = _promtool(promtool, [(feature.name, feature.spec.promql)])
        if problem is not None:
            found.append(Finding(code="promql-invalid", severity="error", subject=feature.name, detail=problem))
    return found or [Finding(code="promql-invalid", severity="error", subject=catalogue.source, detail=whole)]


def _promtool(promtool: str, rules: list[tuple[str, str]]) -> str | None:
    """What promtool has against recording rules of these expressions; `None`: nothing."""
    # counting takes an instant vector only: a range vector or a scalar is no feature
    checks = [{"record": f"check:{name}", "expr": f"count({expr}\n)"} for name, expr in rules]
    group = {"name": "catalogue", "rules": checks}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rules.yaml"
        file.write_text(yaml.safe_dump({"groups": [group]}))
        try:
            done = subprocess.run(  # noqa: S603 - the program is found on PATH, the argument is our own file
                [promtool, "check", "rules", str(file)], capture_output=True, text=True, timeout=PROMTOOL_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise PermanentError(f"promtool did not answer: {exc}") from exc
    if done.returncode == 0:
        return None
    return " ".join((done.stderr or done.stdout).replace(str(file), "").split())[-500:]
