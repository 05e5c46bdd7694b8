"""Model cards: a Markdown template per model, filled from the contract and the package's own figures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from string import Template
from typing import Any

from clusterheal.contracts import FeatureContract, ModelPackage, seal_package

NOT_EVALUATED = "Not evaluated on held-out time yet."
EVALUATION = ("primary", "score", "peers", "by_kind", "figures", "window")
COMPARED = ("primary", "score", "peers", "by_kind")
"""What of an evaluation, and of each of its guards, goes into the package: figures, not the blocks that the gate's
intervals come from."""


def render_card(name: str, contract: FeatureContract, metrics: Mapping[str, Any]) -> str:
    """The card of the model `name`; `metrics` is the content of the package's `metrics.json`.

    Results take the place of `NOT_EVALUATED` when an evaluation is attached to the package.
    """
    template = Template((resources.files(__package__) / f"{name}.md").read_text())
    data, training, window = metrics["data"], metrics["training"], contract.window
    return template.substitute(
        features=", ".join(f.name for f in contract.features),
        kinds=", ".join(k.name for k in contract.entity_kinds),
        horizon_steps=window.horizon_steps,
        step_seconds=f"{contract.step.total_seconds():g}",
        recent_steps=window.recent_steps,
        season_steps=window.season_steps,
        season_lags=", ".join(map(str, window.season_lags)) or "none",
        parameters=f"{metrics['parameters']:,}",
        start=_utc(data["start_ns"]),
        train_end=_utc(data["train_end_ns"]),
        calibration_end=_utc(data["calibration_end_ns"]),
        series=data["series_trained_on"],
        entities=data["entities"],
        steps=training["steps"],
        seed=training["config"]["seed"],
        opset=metrics["opset"],
        contract_sha256=contract.sha256,
        results=NOT_EVALUATED,
    )


def attach_evaluation(package: ModelPackage, evaluation: Mapping[str, Any]) -> ModelPackage:
    """Put held-out figures into `metrics.json` (key `evaluation`) and the card, and seal again; the graph stays.

    Only for a package that has not been registered yet: registered packages are immutable.
    """
    kept = {key: _finite(evaluation[key]) for key in EVALUATION if key in evaluation}
    kept["guards"] = [{key: _finite(guard[key]) for key in COMPARED} for guard in evaluation.get("guards", ())]
    metrics = {**package.metrics, "evaluation": kept}
    text = json.dumps(metrics, indent=1, sort_keys=True, allow_nan=False)
    (package.path / "metrics.json").write_text(text + "\n")
    card = package.path / "MODEL_CARD.md"
    card.write_text(card.read_text().replace(NOT_EVALUATED, results_table(kept)))
    return seal_package(package.path, name=package.name, contract=package.contract)


def _finite(value: Any) -> Any:
    """The same with `None` for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def results_table(evaluation: Mapping[str, Any]) -> str:
    """Model and peers per entity kind as Markdown tables: the figure that decides, and those that guard."""
    window = evaluation["window"]
    when = f"on held-out time from {_utc(window['start_ns'])} to {_utc(window['end_ns'])}"
    lines: list[str] = []
    for part in (evaluation, *evaluation.get("guards", ())):
        names = ["model", *part["peers"]]
        lines += [
            f"`{part['primary']}`, lower is better, {when}:",
            "",
            "| entities | " + " | ".join(names) + " |",
            "|---|" + "---|" * len(names),
        ]
        rows = {"all": {"model": part["score"], **part["peers"]}, **part.get("by_kind", {})}
        for kind, figures in rows.items():
            lines.append(f"| {kind} | " + " | ".join(_cell(figures.get(name)) for name in names) + " |")
        lines.append("")
    return "\n".join(lines[:-1])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _utc(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")
