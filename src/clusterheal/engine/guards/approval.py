"""In mode `approve` a person has to agree to this very plan."""

from clusterheal.engine.guards.case import Answer, GuardCase


def check(case: GuardCase) -> Answer:
    mode, _ = case.mode
    if mode == "auto":
        return True, "mode auto needs none"
    if case.asked_for:
        assert case.record.request is not None
        return True, f"asked for by {case.record.request.by}"
    approval = case.record.approval
    if approval is None:
        return False, f"waiting for approval of plan {case.plan_id}"
    if approval.plan_id != case.plan_id:
        return False, f"the approval is for plan {approval.plan_id}, the plan is now {case.plan_id}"
    if case.world.now - approval.at > case.config.approval_timeout:
        return False, f"the approval of {approval.at:%Y-%m-%d %H:%M} UTC is older than {case.config.approval_timeout}"
    if approval.decision != "approve":
        return False, f"rejected by {approval.by}"
    return True, f"approved by {approval.by}"
