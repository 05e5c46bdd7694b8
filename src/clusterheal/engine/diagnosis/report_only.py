"""Trouble whose cure is not ours: it is explained to people at once, with what they need to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from clusterheal.contracts import SignalSource
from clusterheal.engine.diagnosis.case import Case, Finding, report
from clusterheal.engine.signals.symptoms import Symptom

_TEXT = {
    Symptom.CERTIFICATE: (
        "A certificate of {target} expires soon{expiry}. Nothing here renews it: see why its issuer did not "
        "(oc describe certificate, or the operator that owns it), and renew it before that."
    ),
    Symptom.TARGET_DOWN: (
        "Prometheus cannot scrape {target}{job}. What it would have measured is unknown, so nothing is decided on it. "
        "See whether its pods run, its Service selects them, and its NetworkPolicy lets the monitoring stack in."
    ),
}


def diagnose(case: Case) -> Finding | None:
    """The first of these symptoms, explained; what only the detector hints at waits for more."""
    for symptom, text in _TEXT.items():
        seen = case.of(symptom)
        if seen:
            labels: Mapping[str, str] = next(
                (o.signal.details["labels"] for o in seen if "labels" in o.signal.details), {}
            )
            job = f" (job {labels['job']})" if "job" in labels else ""
            expiry = f": {seen[0].signal.summary}" if seen[0].signal.summary else ""
            found = report(
                case,
                cause=symptom.value,
                explanation=text.format(target=case.record.target, job=job, expiry=expiry),
                evidence={"pods": case.pods_summary(), "labels": dict(labels)},
            )
            # A detection's leading metric is a hint: an alert or a forecast may yet say what it really is.
            return replace(found, final=any(o.signal.source is not SignalSource.DETECTOR for o in seen))
    return None
