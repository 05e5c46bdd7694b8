"""Two actions on one object keep a distance."""

from __future__ import annotations

from clusterheal.engine.guards.case import Answer, GuardCase
from clusterheal.engine.guards.history import actions
from clusterheal.engine.names import root_key


def check(case: GuardCase) -> Answer:
    cooldown = case.policy.cooldown
    times = [when for _, action, when in actions(case) if root_key(action.target) == root_key(case.target)]
    if times and case.world.now - max(times) < cooldown:
        return False, f"the last action on {case.target} was at {max(times):%H:%M:%S} UTC; cooldown is {cooldown}"
    return True, f"no action on it within {cooldown}"
