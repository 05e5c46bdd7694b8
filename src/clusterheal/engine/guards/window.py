"""Times of the week in which policies allow or block action."""

from clusterheal.engine.guards.case import Answer, GuardCase


def check(case: GuardCase) -> Answer:
    windows = case.policy.windows
    blocking = [w.name for w in windows if w.kind == "block" and w.contains(case.world.now)]
    if blocking:
        return False, f"inside blocking window {blocking[0]}"
    allowing = [w for w in windows if w.kind == "allow"]
    if allowing and not any(w.contains(case.world.now) for w in allowing):
        return False, f"outside every allowing window ({', '.join(w.name for w in allowing)})"
    return True, "no window forbids it"
