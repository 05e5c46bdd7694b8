"""`report.html`: one file that opens offline, with plotly's code inside."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clusterheal.local import report_plots as plots
from clusterheal.local.report_record import RunRecord
from clusterheal.local.writing import write_whole

STYLE = """
:root { color-scheme: light; font-family: system-ui, sans-serif; line-height: 1.45; color: #1f2933; }
body { max-width: 1100px; margin: 0 auto; padding: 1.5rem; background: #fff; }
h1 { margin-bottom: 0.2rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #d5dbe1; padding-bottom: 0.2rem; }
table { border-collapse: collapse; width: 100%; margin: 0.6rem 0; font-size: 0.92rem; }
th, td { text-align: left; padding: 0.3rem 0.6rem; border-bottom: 1px solid #e4e9ee; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: #0b6e3b; font-weight: 600; } .bad { color: #b3261e; font-weight: 600; } .muted { color: #61707f; }
.fault td { background: #fdf0ef; } .signal td { background: #fdf8e8; } .act td { background: #eaf4fb; }
.goodrow td { background: #eaf7f0; } .badrow td { background: #fdf0ef; }
pre { white-space: pre-wrap; background: #f6f8fa; padding: 0.8rem; font-size: 0.85rem; overflow-x: auto; }
details { margin: 0.5rem 0; } summary { cursor: pointer; }
"""
MEANINGS = {
    "missed": "missed: share of faults, injected into held-out time, that are not told from untouched windows "
    "when one per cent of these may pass.",
    "scrps": "scrps: error of all quantiles together (scaled CRPS); 1 is the size of a typical seasonal change.",
}
"""What the models' deciding figures say, for readers who meet them here first."""
_ROW = {"fault": "fault", "signal": "signal", "act": "act", "good": "goodrow", "bad": "badrow"}


def write_report(record: RunRecord, out: Path) -> Path:
    """Render `out/report.html`.

    Raises:
        PermanentError: it cannot be written.
    """
    return write_whole(out / "report.html", render(record).encode())


def render(record: RunRecord) -> str:
    """The page as text."""
    sections = [
        _head(record),
        _incident(record),
        plots.incident(record) if record.scores else "",
        _timeline(record),
        _models(record),
        _stages(record),
    ]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Self-healing run: {html.escape(record.result)}</title><style>{STYLE}</style>"
        f"<script>{plots.library()}</script></head><body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def _head(record: RunRecord) -> str:
    good = record.result == "healed"
    fault = record.fault
    what = (
        f"{fault.get('kind')} on {fault.get('namespace')}/{fault.get('workload')}" if fault else "no fault was caused"
    )
    error = f"<p class='bad'>{_text(record.error)}</p>" if record.error else ""
    notes = "".join(f"<li>{_text(note)}</li>" for note in record.notes)
    return (
        "<h1>From metrics to a healed incident</h1>"
        f"<p class='{'good' if good else 'bad'}'>{_text(record.result)}: {_text(what)}</p>{error}"
        f"<p class='muted'>{_text(record.began[:16].replace('T', ' '))} UTC, source: {_text(record.source)}</p>"
        f"<ul>{notes}</ul>"
    )


def _incident(record: RunRecord) -> str:
    if record.incident is None:
        return "<h2>Incident</h2><p>The engine opened no incident about the fault's workload.</p>"
    status = record.incident.get("status") or {}
    diagnosis, plan, outcome = (status.get(key) or {} for key in ("diagnosis", "plan", "outcome"))
    found_by = f"found by {diagnosis.get('origin')}, confidence {_number(diagnosis.get('confidence'))}"
    compared = f"{_number(outcome.get('observed'))}, {_number(outcome.get('counterfactual'))}"
    rows = [
        ("State", status.get("state")),
        ("Cause", f"{diagnosis.get('cause')} ({found_by})"),
        ("Explanation", diagnosis.get("explanation")),
        ("Plan", f"{plan.get('playbook')}: {plan.get('action')}, expecting that {plan.get('expectedEffect')}"),
        ("Roll back", plan.get("rollback")),
        ("Outcome", f"{outcome.get('verdict')}: {outcome.get('explanation')}"),
        ("Observed; forecast without the action, else before it", compared),
    ]
    body = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    guards = "".join(
        f"<tr><td>{_text(g.get('guard'))}</td><td class='{'good' if g.get('allowed') else 'bad'}'>"
        f"{'allows' if g.get('allowed') else 'stops'}</td><td>{_text(g.get('reason'))}</td></tr>"
        for g in status.get("guards", [])
    )
    others = "".join(f"<li>{_text(_name_of(other))}: {_text(_state_of(other))}</li>" for other in record.others)
    also = f"<h3>Other incidents meanwhile</h3><ul>{others}</ul>" if others else ""
    return (
        f"<h2>Incident: {_text(_name_of(record.incident))}</h2><table>{body}</table>"
        f"<details><summary>Guards</summary><table><tr><th>Guard</th><th>Says</th><th>Why</th></tr>{guards}</table>"
        f"</details>{also}"
    )


def _state_of(incident: Mapping[str, Any]) -> str:
    status = incident.get("status") or {}
    return ", ".join(str(status[key]) for key in ("state", "message") if status.get(key))


def _name_of(incident: Mapping[str, Any]) -> str:
    target = (incident.get("spec") or {}).get("target") or {}
    where = "/".join(str(target[key]) for key in ("namespace", "name") if target.get(key))
    return f"{target.get('kind', '')} {where}".strip()


def _timeline(record: RunRecord) -> str:
    rows = "".join(
        f"<tr class='{_ROW.get(event['kind'], '')}'><td class='n'>{_text(event['at'][11:19])}</td>"
        f"<td>{_text(event['stage'])}</td><td>{_text(event['text'])}</td></tr>"
        for event in record.events
    )
    return f"<h2>Timeline</h2><table><tr><th class='n'>UTC</th><th>Stage</th><th>What happened</th></tr>{rows}</table>"


def _models(record: RunRecord) -> str:
    parts = ["<h2>Models</h2>"]
    if record.models:
        parts.append(plots.peers(record.models))
    for model in record.models:
        evaluation = model.get("evaluation") or {}
        parts.append(f"<h3>{_text(model['name'])} {_text(model.get('version'))}</h3>")
        parts.append(_scores_table(evaluation))
        if model.get("verdict"):
            reasons = "".join(f"<li>{_text(line)}</li>" for line in str(model.get("why", "")).splitlines())
            parts.append(f"<p>Gate: {_text(model['verdict'])}</p><ul>{reasons}</ul>")
        if model.get("card"):
            parts.append(f"<details><summary>Model card</summary><pre>{_text(model['card'])}</pre></details>")
    return "".join(parts)


def _scores_table(evaluation: Mapping[str, Any]) -> str:
    if not evaluation:
        return ""
    name = str(evaluation.get("primary"))
    meaning = f"<p class='muted'>{_text(MEANINGS[name])}</p>" if name in MEANINGS else ""
    rows = [("this model", evaluation.get("score")), *sorted((evaluation.get("peers") or {}).items())]
    body = "".join(f"<tr><td>{_text(who)}</td><td class='n'>{_number(value)}</td></tr>" for who, value in rows)
    figures = "".join(
        f"<tr><td>{_text(key)}</td><td class='n'>{_number(value)}</td></tr>"
        for key, value in (evaluation.get("figures") or {}).items()
        if isinstance(value, int | float)
    )
    return (
        f"{meaning}<table><tr><th>Held-out time, lower is better</th><th class='n'>{_text(name)}</th></tr>{body}"
        f"</table><details><summary>More figures</summary><table>{figures}</table></details>"
    )


def _stages(record: RunRecord) -> str:
    rows = "".join(
        f"<tr><td>{_text(stage['name'])}</td><td class='n'>{stage['seconds']:.1f}</td>"
        f"<td class='n'>{stage['peak_rss_bytes'] / 2**20:.0f}</td><td>{_text(stage['summary'])}</td></tr>"
        for stage in record.stages
    )
    steps = "".join(
        f"<tr><td>{_text(step.get('title'))}</td><td class='n'>{step.get('seconds', 0):.1f}</td>"
        f"<td>{_text(step.get('status'))}</td></tr>"
        for step in _steps(record.pipeline)
    )
    pipeline = (
        f"<h3>Pipeline</h3><table><tr><th>Step</th><th class='n'>s</th><th>Status</th></tr>{steps}</table>"
        if steps
        else ""
    )
    return (
        f"<h2>Stages</h2>{plots.stages(record.stages)}<table><tr><th>Stage</th><th class='n'>s</th>"
        f"<th class='n'>peak MiB, all processes</th><th>Result</th></tr>{rows}</table>{pipeline}"
    )


def _steps(pipeline: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    steps = pipeline.get("steps", [])
    return steps if isinstance(steps, list) else []


def _text(value: Any) -> str:
    return html.escape("" if value is None else str(value))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "none"


__all__ = ["render", "write_report"]
