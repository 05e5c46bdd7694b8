"""What the evaluation and the gate do."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clusterheal.contracts import ModelPackage
from clusterheal.errors import InvalidInput
from clusterheal.registry import Registry
from clusterheal_components.snapshot import Snapshot, thaw

PASSED, REJECTED = "passed", "rejected"


class Verdict(NamedTuple):
    """`passed` or `rejected`, and why, one reason per line."""

    verdict: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Incumbent:
    """What the candidate has to beat besides the peers; `note` says so in words, also when there is none."""

    note: str
    version: str | None = None
    package: ModelPackage | None = None


def evaluate_both(
    dataset: Path,
    model: Path,
    evaluation: Path,
    log_metric: Callable[[str, float], None],
    *,
    registry: Registry | None = None,
) -> None:
    """Write the figures of the candidate and of the version in service, both on the snapshot's held-out time.

    Without a `registry` the candidate is compared with the naive peers alone.
    """
    from clusterheal_models.evaluation import evaluate

    snapshot = thaw(dataset)
    package = ModelPackage.load(model)
    snapshot.panel.contract.require_same(package.contract.sha256, where=str(model))
    candidate = evaluate(package, snapshot.panel, snapshot.split)
    with tempfile.TemporaryDirectory() as aside:
        incumbent = _incumbent(package.name, snapshot, registry, Path(aside))
        before = incumbent.package and evaluate(incumbent.package, snapshot.panel, snapshot.split)
    result = {
        "name": package.name,
        "candidate": candidate,
        "incumbent": before,
        "incumbent_version": incumbent.version,
        "incumbent_note": incumbent.note,
    }
    evaluation.parent.mkdir(parents=True, exist_ok=True)
    evaluation.write_text(json.dumps(result, indent=1, sort_keys=True))
    for name, value in figures(candidate).items():
        log_metric(name, value)


def plot_candidate(
    dataset: Path, model: Path, plots: Path, log_roc: Callable[[list[float], list[float], list[float]], None]
) -> None:
    """Draw the candidate on the snapshot's held-out time; a detector's curve goes to `log_roc`, too."""
    from clusterheal_components.plots import draw

    snapshot = thaw(dataset)
    text, curve = draw(ModelPackage.load(model), snapshot.panel, snapshot.split)
    plots.parent.mkdir(parents=True, exist_ok=True)
    plots.write_text(text)
    if curve is not None:
        log_roc(curve.false_positive.tolist(), curve.true_positive.tolist(), curve.thresholds.tolist())


def _incumbent(name: str, snapshot: Snapshot, registry: Registry | None, aside: Path) -> Incumbent:
    current = None if registry is None else registry.current(name)
    if registry is None or current is None:
        return Incumbent(note="naive peers only, no version is in service")
    if current.contract_sha256 != snapshot.panel.contract.sha256:
        note = f"naive peers only, {current.version} was built for another feature contract"
        return Incumbent(note=note, version=current.version)
    package = registry.fetch(current, aside)
    return Incumbent(note=f"{current.version} on the same data", version=current.version, package=package)


def decide_gate(evaluation: Path, reasons: Path) -> Verdict:
    """The gate's verdict; anything but a clear pass is a rejection.

    Raises:
        InvalidInput: `evaluation` is not what the evaluation step writes.
    """
    from clusterheal_models.gate import decide

    try:
        data = json.loads(evaluation.read_text())
        candidate, incumbent = data["candidate"], data["incumbent"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise InvalidInput(f"{evaluation} is no evaluation: {exc!r}; run the evaluation step") from exc
    decision = decide(candidate, incumbent)
    verdict = PASSED if decision.passed is True else REJECTED
    why = "\n".join(decision.reasons)
    reasons.write_text(_markdown(data, verdict, list(decision.reasons)))
    return Verdict(verdict=verdict, why=why)


def _markdown(data: Mapping[str, Any], verdict: str, reasons: list[str]) -> str:
    lines = [f"# {data['name']}: {verdict}", "", f"Compared with: {data['incumbent_note']}.", ""]
    lines += [f"- {reason}" for reason in reasons]
    lines += ["", "| figure | candidate | in service |", "|---|---:|---:|"]
    before = figures(data["incumbent"] or {})
    for name, value in figures(data["candidate"]).items():
        was = f"{before[name]:.4g}" if name in before else ""
        lines.append(f"| {name} | {value:.4g} | {was} |")
    return "\n".join(lines) + "\n"


def figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The finite figures of an evaluation, nested names joined by dots; the registry and KFP keep only such."""
    shown = {key: evaluation[key] for key in ("score", "peers", "by_kind", "figures") if key in evaluation}
    return _flatten(shown, "")


def _flatten(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            flat[f"{prefix}{key}"] = float(value)
    return flat
