"""Another actor holds the object: what it would revert or fight over is left to it."""

from __future__ import annotations

from clusterheal.engine.guards.case import Answer, GuardCase
from clusterheal.engine.guards.machine_config_pool import under_remediation
from clusterheal.engine.names import CORDON_OWNER, root_key
from clusterheal.engine.ownership import CHANGES_SPEC, Deployed, application_named, deployed_by
from clusterheal.engine.quantities import quantity
from clusterheal.engine.views import condition, replicas_wanted, rollout_complete
from clusterheal.kube.inference_service import ROLLOUT, notes_of
from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import APPLICATIONS, HORIZONTAL_POD_AUTOSCALERS

REMEDIATION_TAINT = "medik8s.io/remediation"  # SelfNodeRemediation and FenceAgentsRemediation set it
REMEDIATORS = ("remediation.medik8s.io/", "self-node-remediation.medik8s.io/", "nodehealthcheck.medik8s.io/")
DRIVER_UPGRADE = "nvidia.com/gpu-driver-upgrade-state"


def check(case: GuardCase) -> Answer:
    manifest = case.manifest
    if manifest is None:
        return False, f"{case.target} is not known to exist"
    if _own(case):
        return False, f"{case.target} is this engine, which does not act on itself"
    if case.target.kind == "Node":
        return _node(case, manifest)
    if ROLLOUT in notes_of(manifest):
        return False, f"a model rollout of {case.target} is under way, which has its own way back"
    owner = deployed_by(manifest)
    if case.target.kind == "Application" or owner.kind is Deployed.ARGO_CD:
        busy = _syncing(case, manifest if case.target.kind == "Application" else None, owner.name)
        if busy is not None:
            return False, busy
    if case.plan.action in CHANGES_SPEC and owner.kind is not Deployed.MANUALLY:
        return False, f"{owner.explanation}; {owner.remedy(case.plan)}"
    if (manifest.get("spec") or {}).get("paused"):
        return False, f"{case.target} is paused by somebody"
    if case.plan.action == "scale":
        return _scale(case, manifest)
    if case.plan.action == "patch-resources":
        return _resources(case)
    if case.plan.action == "expand-volume":
        return _volume(case, manifest)
    if case.plan.action == "restart" and not rollout_complete(manifest):
        return False, f"a rollout of {case.target} is under way or its pods are not available"
    return True, f"nobody else holds it ({owner.kind.value})"


def _own(case: GuardCase) -> bool:
    """Whether the target runs the engine: whoever carries an action out must live to verify it and to take it back."""
    pod = case.snapshot.pods.get((case.record.namespace, case.config.pod or ""))
    return pod is not None and root_key(case.snapshot.root_of_pod(pod)) == root_key(case.target)


def _syncing(case: GuardCase, application: Manifest | None, name: str) -> str | None:
    """Why Argo CD holds the object now: an operation that was asked for or is running."""
    if APPLICATIONS in case.snapshot.unreadable:
        return f"cannot read Argo CD's applications: {case.snapshot.unreadable[APPLICATIONS]}"
    found = application or application_named(name, case.snapshot)
    if found is None:
        return None
    phase = ((found.get("status") or {}).get("operationState") or {}).get("phase")
    busy = found.get("operation") is not None or phase in ("Running", "Terminating")
    return f"Argo CD is syncing application {found['metadata']['name']}" if busy else None


def _node(case: GuardCase, node: Manifest) -> Answer:
    notes = node["metadata"].get("annotations") or {}
    for key in notes:
        if key.startswith(REMEDIATORS):
            return False, f"another remediator is at work on {case.target}: {key}"
    if any(t.get("key") == REMEDIATION_TAINT for t in (node.get("spec") or {}).get("taints") or []):
        return False, f"another remediator is at work on {case.target}: taint {REMEDIATION_TAINT}"
    if case.target.name in under_remediation(case.snapshot):
        return False, f"a NodeHealthCheck is remediating {case.target}"
    upgrade = (node["metadata"].get("labels") or {}).get(DRIVER_UPGRADE, "upgrade-done")
    if upgrade not in ("upgrade-done", ""):
        return False, f"the GPU operator is at work on {case.target}: {upgrade}"
    owner = notes.get(CORDON_OWNER)
    lifts = case.plan.action == "uncordon" and owner == case.plan.parameters.get("owner")
    if (node.get("spec") or {}).get("unschedulable") and owner != case.record.name and not lifts:
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


def _resources(case: GuardCase) -> Answer:
    resource = str(case.plan.parameters["resource"])
    most = case.policy.memory_max if resource == "memory" else case.policy.cpu_max
    wanted = quantity(case.plan.parameters["to_limit"])
    if most is None or wanted > most:
        bound = "none is given" if most is None else f"at most {most:g}"
        return (
            False,
            f"a {resource} limit of {case.plan.parameters['to_limit']} is more than the policy allows ({bound})",
        )
    return True, f"within the policy's bound on {resource}"


def _volume(case: GuardCase, claim: Manifest) -> Answer:
    most = case.policy.volume_max
    if most is None or quantity(case.plan.parameters["to_size"]) > most:
        bound = "none is given" if most is None else f"at most {most:g} bytes"
        return False, f"a volume of {case.plan.parameters['to_size']} is more than the policy allows ({bound})"
    for kind in ("Resizing", "FileSystemResizePending"):
        if condition(claim, kind).get("status") == "True":
            return False, f"an expansion is under way already ({kind})"
    return True, "within the policy's bound on volumes"
