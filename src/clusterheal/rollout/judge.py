"""What breaks a rollout off: pure decisions over what was measured."""

from __future__ import annotations

from clusterheal.rollout.probe import Round
from clusterheal.rollout.state import Baseline
from clusterheal.settings import RolloutSettings

LATENCY_FLOOR = 0.05  # seconds; below that, a ratio says more about the machine than about the model
ALARM_FLOOR = 0.02


def breaches(measured: Round, baseline: Baseline, settings: RolloutSettings) -> list[str]:
    """Every limit that `measured` breaks, in words; empty when it may go on."""
    found = []
    if measured.error_rate > settings.max_error_rate:
        found.append(
            f"{measured.error_rate:.1%} of the requests failed, allowed are {settings.max_error_rate:.1%}: "
            f"{measured.errors[0]}"
        )
    p99 = measured.p99
    if p99 is not None and baseline.p99 is not None:
        limit = settings.max_latency_ratio * max(baseline.p99, LATENCY_FLOOR)
        if p99 > limit:
            found.append(f"p99 is {p99 * 1000:.0f} ms, allowed are {limit * 1000:.0f} ms")
    rate = measured.alarm_rate
    if rate is not None and baseline.alarm_rate is not None:
        limit = settings.max_alarm_ratio * max(baseline.alarm_rate, ALARM_FLOOR)
        if rate > limit:
            found.append(
                f"alarms on {rate:.1%} of the rows, the incumbent on {baseline.alarm_rate:.1%}; allowed are {limit:.1%}"
            )
    return found


def disagreement(share: float | None, settings: RolloutSettings) -> list[str]:
    """The breach when candidate and incumbent agree on too few verdicts; no verdicts, no breach."""
    if share is None or share >= settings.min_agreement:
        return []
    return [f"candidate and incumbent agree on {share:.1%} of the verdicts, at least {settings.min_agreement:.0%} must"]
