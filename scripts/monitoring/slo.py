"""Service level objectives as recording rules, and alerts on how fast their error budgets burn.

Windows and factors are those of the SRE Workbook, chapter 5 ("multiwindow, multi-burn-rate alerts"), except for its
slowest pair (3 d, 6 h): user workload monitoring keeps 24 hours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RUNBOOKS = "https://github.com/self-healing-platform/self-healing-platform/blob/main/docs/runbooks"
SHADOW = 'job!~".*-shadow-.*"'
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d")


@dataclass(frozen=True, kw_only=True)
class Burn:
    """Alert when both windows burn the budget `factor` times as fast as it would last for 30 days."""

    long: str
    short: str
    factor: float
    severity: str
    hold: str


BURNS = (
    Burn(long="1h", short="5m", factor=14.4, severity="critical", hold="2m"),
    Burn(long="6h", short="30m", factor=6, severity="critical", hold="15m"),
    Burn(long="1d", short="2h", factor=3, severity="warning", hold="1h"),
)


@dataclass(frozen=True, kw_only=True)
class Slo:
    """`objective`: share of good events. `errors` gives the error ratio of a window; `traffic` what an alert needs."""

    alert: str
    component: str
    objective: float
    promise: str
    series: str
    errors: Callable[[str], str]
    traffic: Callable[[str], str] | None = None
    labels: tuple[tuple[str, str], ...] = ()


def _acted_late(window: str) -> str:
    acted = f'increase(clusterheal_time_to_seconds_bucket{{stage="act",le=~"600(\\\\.0)?"}}[{window}])'
    every = f'increase(clusterheal_time_to_seconds_count{{stage="act"}}[{window}])'
    return f"1 - sum({acted}) / (sum({every}) > 0)"


def _failed(window: str) -> str:
    errors = f'rate(clusterheal_inference_errors_total{{reason!="input",{SHADOW}}}[{window}])'
    requests = f"rate(clusterheal_inference_requests_total{{{SHADOW}}}[{window}])"
    by = "sum by (model_name)"
    return f"{by} ({errors}) / ({by} ({errors}) + {by} ({requests}))"


def _slow(window: str) -> str:
    fast = f'rate(clusterheal_inference_seconds_bucket{{le="0.25",{SHADOW}}}[{window}])'
    every = f"rate(clusterheal_inference_seconds_count{{{SHADOW}}}[{window}])"
    return f"1 - sum by (model_name) ({fast}) / sum by (model_name) ({every})"


SLOS = (
    Slo(
        alert="EngineAvailabilityBudgetBurn",
        component="coordination-engine",
        objective=0.995,
        promise="A leading engine completes rounds, 99.5 % of the time.",
        series="clusterheal:engine_available:error_ratio",
        errors=lambda window: f"1 - avg_over_time(clusterheal:engine_available:bool[{window}])",
    ),
    Slo(
        alert="EngineTimeToActBudgetBurn",
        component="coordination-engine",
        objective=0.95,
        promise="95 % of the actions are carried out within ten minutes of the trouble's start.",
        series="clusterheal:time_to_act:error_ratio",
        errors=_acted_late,
        # One late action among two is no trend.
        traffic=lambda window: f'sum(increase(clusterheal_time_to_seconds_count{{stage="act"}}[{window}])) > 3',
    ),
    Slo(
        alert="InferenceAvailabilityBudgetBurn",
        component="models",
        objective=0.995,
        promise="99.5 % of the requests are answered, those apart that were wrong in themselves.",
        series="model:inference_errors:ratio_rate",
        errors=_failed,
        labels=(("clusterheal_io_symptom", "model-unhealthy"),),
    ),
    Slo(
        alert="InferenceLatencyBudgetBurn",
        component="models",
        objective=0.99,
        promise="99 % of the requests take at most 250 ms in the model.",
        series="model:inference_slow:ratio_rate",
        errors=_slow,
    ),
)

AVAILABLE = {
    # 0 also while no engine is there at all, but only where one was before: a new installation has lost nothing yet.
    "record": "clusterheal:engine_available:bool",
    "expr": "(sum(increase(clusterheal_rounds_total[2m])) > bool 0) * max(clusterheal_leader)"
    " or 0 * max(max_over_time(clusterheal_leader[1d] offset 2m))",
}


def rules() -> dict[str, Any]:
    """The PrometheusRule with every recording rule and every burn-rate alert."""
    records: list[dict[str, Any]] = [AVAILABLE]
    for slo in SLOS:
        records += [{"record": f"{slo.series}_{w}", "expr": slo.errors(w)} for w in WINDOWS]
    alerts = [_alert(slo, burn) for slo in SLOS for burn in BURNS]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "service-level-objectives",
            "labels": {"openshift.io/prometheus-rule-evaluation-scope": "leaf-prometheus"},
        },
        "spec": {
            "groups": [
                {"name": "service-levels", "interval": "30s", "rules": records},
                {"name": "error-budgets", "rules": alerts},
            ]
        },
    }


def _alert(slo: Slo, burn: Burn) -> dict[str, Any]:
    limit = f"{burn.factor:g} * {1 - slo.objective:.3g}"
    expr = f"{slo.series}_{burn.long} > {limit}\nand\n{slo.series}_{burn.short} > {limit}"
    if slo.traffic is not None:
        expr += f"\nand on ()\n{slo.traffic(burn.long)}"
    which = " of {{ $labels.model_name }}" if slo.component == "models" else ""
    return {
        "alert": slo.alert,
        "expr": expr,
        "for": burn.hold,
        "labels": {"severity": burn.severity, "component": slo.component, "window": burn.long, **dict(slo.labels)},
        "annotations": {
            "summary": f"The error budget{which} burns {burn.factor:g} times too fast over {burn.long}.",
            "description": f"{slo.promise} Over {burn.long} {{{{ $value | humanizePercentage }}}} failed that.",
            "runbook_url": f"{RUNBOOKS}/{slo.alert}.md",
        },
    }
