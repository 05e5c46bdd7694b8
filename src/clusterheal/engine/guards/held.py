"""Another actor holds the object: what it would revert or fight over is left to it."""

from __future__ import annotations

from clusterheal.engine.guards.case import Answer, GuardCase
from clusterheal.engine.names import CORDON_OWNER
from clusterheal.engine.ownership import Deployed, deployed_by
from clusterheal.engine.views import replicas_wanted, rollout_complete
from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import HORIZONTAL_POD_AUTOSCALERS

REMEDIATORS = ("remediation.medik8s.io/", "self-node-remediation.medik8s.io/", "nodehealthcheck.medik8s.io/")
CHANGES_SPEC = frozenset({"undo", "scale", "patch-resources"})


def check(case: GuardCase) -> Answer:
    manifest = case.manifest
    if manifest is None:
        return False, f"{case.target} is not known to exist"
    if case.target.kind == "Node":
        return _node(case, manifest)
    owner = deployed_by(manifest)
    if case.plan.action in CHANGES_SPEC and owner.kind is not Deployed.MANUALLY:
        return False, f"{owner.explanation}; {owner.remedy(case.plan.action)}"
    if (manifest.get("spec") or {}).get("paused"):
        return False, f"{case.target} is paused by somebody"
    if case.plan.action == "scale":
        return _scale(case, manifest)
    if case.plan.action == "restart" and not rollout_complete(manifest):
        return False, f"a rollout of {case.target} is under way or its pods are not available"
    return True, f"nobody else holds it ({owner.kind.value})"


def _node(case: GuardCase, node: Manifest) -> Answer:
    notes = node["metadata"].get("annotations") or {}
    for key in notes:
        if key.startswith(REMEDIATORS):
            return False, f"another remediator is at work on {case.target}: {key}"
    owner = notes.get(CORDON_OWNER)
    if (node.get("spec") or {}).get("unschedulable") and owner != case.record.name:
        who = f"incident {owner}" if owner else "somebody else"
        return False, f"{case.target} was cordoned by {who}"
    return True, "nobody else holds it"


def _scale(case: GuardCase, manifest: Manifest) -> Answer:
    resource = HORIZONTAL_POD_AUTOSCALERS
    if resource in case.snapshot.unreadable:
        return False, f"cannot read HorizontalPodAutoscalers: {case.snapshot.unreadable[resource]}"
    if resource not in case.snapshot.synced_at and resource not in case.snapshot.absent:
        return False, "HorizontalPodAutoscalers have not been read yet"
    for hpa in case.snapshot.all(resource):
        spec = hpa.get("spec") or {}
        reference = spec.get("scaleTargetRef") or {}
        same = (reference.get("kind"), reference.get("name")) == (case.target.kind, case.target.name)
        if same and hpa["metadata"].get("namespace") == case.target.namespace:
            name, most = hpa["metadata"]["name"], spec.get("maxReplicas")
            return (
                False,
                f"HorizontalPodAutoscaler {name} owns the replicas (at most {most}); raise its maximum instead",
            )
    wanted = int(case.plan.parameters.get("to_replicas", 0))
    most = min(case.policy.scale_max_replicas, int(case.plan.parameters.get("max_replicas", wanted)))
    if wanted > case.policy.scale_max_replicas or wanted <= replicas_wanted(manifest):
        return False, f"{wanted} replicas are not more than it has, or more than the {most} that the policy allows"
    return True, "no autoscaler owns its replicas"
