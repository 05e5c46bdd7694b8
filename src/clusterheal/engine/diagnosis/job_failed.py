"""A Job or a run of a CronJob that failed. Running it again may do harm twice, so that is for people to decide."""

from __future__ import annotations

from clusterheal.engine.diagnosis.case import Case, Finding, report
from clusterheal.engine.records import Observation
from clusterheal.engine.signals.symptoms import Symptom
from clusterheal.kube.resources import CRON_JOBS, JOBS

_WHY = {
    "BackoffLimitExceeded": "its pods failed more often than its backoffLimit allows",
    "DeadlineExceeded": "it ran longer than its activeDeadlineSeconds",
    "PodFailurePolicy": "a rule of its podFailurePolicy ended it",
}


def diagnose(case: Case) -> Finding | None:
    """Why it failed, with exit codes and the log, and when it runs next."""
    seen = case.of(Symptom.JOB_FAILED)
    if not seen:
        return None
    target = case.record.target
    details = seen[0].signal.details
    why = _WHY.get(str(details.get("reason")), details.get("message") or seen[0].signal.summary or "no reason given")
    exits = sorted({c.last_exit_code for p in case.pods for c in p.containers if c.last_exit_code})
    codes = f" Exit codes: {', '.join(map(str, exits))}." if exits else ""
    return report(
        case,
        cause="job-failed",
        explanation=f"{target} failed{_named(seen[0])}: {why}.{codes} {_next(case)} Its pods' log is attached where "
        "there is one. It is not run again from here: whether it may run twice is known to its owner alone.",
        evidence={"job": details.get("job"), "reason": details.get("reason"), "exit_codes": exits, "wants_logs": True},
    )


def _named(observation: Observation) -> str:
    job = observation.signal.details.get("job")
    return f" in run {job}" if job else ""


def _next(case: Case) -> str:
    target = case.record.target
    if target.kind != "CronJob":
        job = case.world.snapshot.get(JOBS, target.namespace, target.name) or {}
        return f"It has failed {int((job.get('status') or {}).get('failed') or 0)} times."
    cron = case.world.snapshot.get(CRON_JOBS, target.namespace, target.name) or {}
    spec, status = cron.get("spec") or {}, cron.get("status") or {}
    if spec.get("suspend"):
        return "It is suspended."
    good = status.get("lastSuccessfulTime") or "never"
    return f"It runs at {spec.get('schedule', '?')}; it last succeeded at {good}."
