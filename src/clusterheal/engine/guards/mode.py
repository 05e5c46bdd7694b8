"""observe: record what would be done. suggest: say it. approve: ask. auto: do it."""

from clusterheal.engine.guards.case import Answer, GuardCase


def check(case: GuardCase) -> Answer:
    mode, why = case.mode
    return mode in ("approve", "auto"), f"mode is {mode} by {why}"
