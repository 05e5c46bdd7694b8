"""The object must still be the one that was diagnosed."""

from clusterheal.engine.guards.case import Answer, GuardCase


def check(case: GuardCase) -> Answer:
    manifest = case.manifest
    if manifest is None:
        return False, f"{case.target} is not known to exist"
    uid = manifest["metadata"].get("uid")
    if case.target.uid is not None and uid != case.target.uid:
        return False, f"{case.target} was replaced by another object of that name"
    if manifest["metadata"].get("deletionTimestamp") is not None:
        return False, f"{case.target} is being deleted"
    return True, "it exists"
