"""Reasons not to act. Each guard is a pure function of one case; all must allow, and one that fails forbids."""

from __future__ import annotations

import logging

from clusterheal.contracts import GuardVerdict
from clusterheal.engine.guards import (
    approval,
    blast_radius,
    confidence,
    contract,
    cooldown,
    disruption_budget,
    freshness,
    held,
    machine_config_pool,
    mode,
    pause,
    rate,
    silence,
    target,
    window,
)
from clusterheal.engine.guards.case import Guard, GuardCase

log = logging.getLogger(__name__)

GUARDS: tuple[tuple[str, Guard], ...] = (
    ("mode", mode.check),
    ("approval", approval.check),
    ("pause", pause.check),
    ("window", window.check),
    ("silence", silence.check),
    ("target", target.check),
    ("freshness", freshness.check),
    ("confidence", confidence.check),
    ("contract", contract.check),
    ("cooldown", cooldown.check),
    ("rate", rate.check),
    ("blast-radius", blast_radius.check),
    ("disruption-budget", disruption_budget.check),
    ("machine-config-pool", machine_config_pool.check),
    ("held", held.check),
)


def evaluate(case: GuardCase) -> tuple[GuardVerdict, ...]:
    """Every guard's verdict, also of those after a refusal: an explanation names all reasons."""
    return tuple(_run(name, guard, case) for name, guard in GUARDS)


def _run(name: str, guard: Guard, case: GuardCase) -> GuardVerdict:
    try:
        allowed, reason = guard(case)
    except Exception as exc:  # a guard that cannot tell must not wave anything through
        log.exception("guard failed", extra={"guard": name, "incident": case.record.name})
        allowed, reason = False, f"the guard failed: {exc!r}"
    return GuardVerdict(guard=name, allowed=allowed, reason=reason)


__all__ = ["GUARDS", "GuardCase", "evaluate"]
