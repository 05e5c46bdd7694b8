"""Trouble whose cure is not ours: it is explained to people at once, with what they need to know."""

from __future__ import annotations

from dataclasses import replace

from clusterheal.contracts import SignalSource
from clusterheal.engine.diagnosis.case import Case, Finding, report
from clusterheal.engine.signals.symptoms import Symptom

_TEXT = {
    Symptom.CERTIFICATE: "A certificate of {target} expires soon. Renew it, and see why nothing renewed it.",
    Symptom.JOB_FAILED: "{target} failed. Its pods' logs and exit codes tell why; rerun it once that is mended.",
    Symptom.TARGET_DOWN: (
        "Prometheus cannot scrape {target}. What it would have measured is unknown, so nothing is decided on it."
    ),
}


def diagnose(case: Case) -> Finding | None:
    """The first of these symptoms, explained; what only the detector hints at waits for more."""
    for symptom, text in _TEXT.items():
        seen = case.of(symptom)
        if seen:
            crossing = next((o.signal.details["crosses_at"] for o in seen if "crosses_at" in o.signal.details), None)
            when = f" and is forecast to be full at {crossing}" if crossing else ""
            found = report(
                case,
                cause=symptom.value,
                explanation=text.format(target=case.record.target, when=when),
                evidence={"pods": case.pods_summary(), "wants_logs": symptom is Symptom.JOB_FAILED},
            )
            # A detection's leading metric is a hint: an alert or a forecast may yet say what it really is.
            return replace(found, final=any(o.signal.source is not SignalSource.DETECTOR for o in seen))
    return None
