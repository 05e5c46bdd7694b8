"""What the notifying component does."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx

from clusterheal.contracts import DETECTOR, FORECASTER
from clusterheal.errors import ClusterhealError
from clusterheal.registry import Registry
from clusterheal.settings import load_settings

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0
WORDS = {"COMPLETE": "succeeded", "CACHED": "succeeded", "CANCELED": "canceled"}  # as the backend's driver names them


def report_outcome(state: str, error: str | None, run_id: str, report: Path) -> str:
    """Write and send how the run ended. It never fails the run: what cannot be told is logged and written down."""
    settings = load_settings()
    lines = [f"Run {run_id}: {WORDS.get(state, state.lower())}" + (f", {error}" if error else "")]
    try:
        lines += _models(Registry(settings.registry), run_id)
    except ClusterhealError as exc:
        lines.append(f"the registry could not be asked: {exc}")
    report.write_text("\n".join([f"# {lines[0]}", "", *(f"- {line}" for line in lines[1:])]) + "\n")
    summary = "; ".join(lines)
    log.info(summary)
    if settings.training.notify_url is not None:
        _post(str(settings.training.notify_url), run_id, state, summary)
    return summary


def _models(registry: Registry, run_id: str) -> list[str]:
    return [
        f"{v.name} {v.version} {v.state.value}, gate {v.properties.get('gate_verdict', 'not asked')}"
        for name in (DETECTOR, FORECASTER)
        for v in registry.versions(name)
        if v.lineage is not None and v.lineage.run_id == run_id
    ]


def _post(url: str, run_id: str, state: str, summary: str) -> None:
    try:
        answer = httpx.post(url, json={"run_id": run_id, "state": state, "text": summary}, timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
    except httpx.HTTPError as exc:
        log.warning("the outcome could not be posted", extra={"url": url, "error": str(exc)})
