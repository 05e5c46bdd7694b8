"""A person asked for an action by the API: their word is the diagnosis, the guards still hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from clusterheal.contracts import ObjectRef, Plan
from clusterheal.engine.actions.volume import requested_size
from clusterheal.engine.diagnosis.case import Case, Finding, explained, report
from clusterheal.engine.diagnosis.deployed import sync_parameters
from clusterheal.engine.diagnosis.revisions import last_good, revisions
from clusterheal.engine.names import CORDON_OWNER
from clusterheal.engine.ownership import Deployed, application_named, deployed_by
from clusterheal.engine.quantities import quantity
from clusterheal.engine.views import ref_of, replicas_wanted
from clusterheal.errors import InvalidInput
from clusterheal.kube.inference_service import placement_of, previous_of
from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import APPLICATIONS

PRIORITY = 95
LONGEST_DRAIN = timedelta(days=30)
Parameters = Mapping[str, Any]
Filler = Callable[[Case, Manifest, Parameters], dict[str, Any]]
"""From what was given to what the action needs; raises InvalidInput where that cannot be told."""

ROLLED = frozenset({"Deployment", "StatefulSet", "DaemonSet"})
APPLIES: Mapping[str, frozenset[str]] = {
    "restart": ROLLED,
    "undo": frozenset({"Deployment"}),
    "scale": frozenset({"Deployment", "StatefulSet"}),
    "patch-resources": ROLLED,
    "drain": frozenset({"Node"}),
    "uncordon": frozenset({"Node"}),
    "expand-volume": frozenset({"PersistentVolumeClaim"}),
    "roll-back-model": frozenset({"InferenceService"}),
    "sync": ROLLED,
}
"""The kinds that each action is for; `sync` is asked for by the workload that Git deploys."""


def diagnose(case: Case) -> Finding | None:
    """A plan for the request; `None` when nobody asked."""
    request = case.record.request
    if request is None:
        return None
    target, manifest = case.record.target, case.manifest
    try:
        if request.action not in APPLIES:  # an incident that somebody wrote, or a newer engine
            raise InvalidInput(f"there is no action {request.action!r}; there are {', '.join(APPLIES)}")
        if target.kind not in APPLIES[request.action] or manifest is None:
            kinds = ", ".join(sorted(APPLIES[request.action]))
            raise InvalidInput(f"{request.action} is for {kinds}; got {target}")
        parameters = FILLERS.get(request.action, _as_given)(case, manifest, request.parameters)
    except (InvalidInput, ValueError, TypeError, OverflowError) as exc:
        return report(case, cause=f"requested by {request.by}", explanation=str(exc))
    plan = Plan(
        playbook="requested",
        action=request.action,
        target=_application(case, manifest) if request.action == "sync" else target,
        parameters=parameters,
        priority=PRIORITY,
        expected_effect="what the person who asked expects",
        verify_promql=None,
        rollback="as for the action",
    )
    diagnosis = explained(
        case,
        cause=f"requested by {request.by}",
        explanation=f"{request.by} asked for {request.action} on {target}.",
        playbook=plan.playbook,
    )
    return Finding(diagnosis=diagnosis, plan=plan)


def _as_given(_: Case, __: Manifest, given: Parameters) -> dict[str, Any]:
    return dict(given)


def _undo(case: Case, _: Manifest, given: Parameters) -> dict[str, Any]:
    if "replica_set" in given:
        return dict(given)
    target = case.record.target
    good, newest = last_good(case.world, target), next(iter(revisions(case.world, target)), None)
    if good is None or newest is None:
        raise InvalidInput(f"{target} has no earlier revision to return to")
    return {"to_revision": good.number, "replica_set": good.name, "from_revision": newest.number}


def _scale(_: Case, manifest: Manifest, given: Parameters) -> dict[str, Any]:
    have = replicas_wanted(manifest)
    return {**given, "from_replicas": have, "to_replicas": int(given.get("to_replicas", have + 1))}


def _drain(case: Case, _: Manifest, given: Parameters) -> dict[str, Any]:
    ttl = case.world.policy_for("drain", case.record.target).drain_ttl.total_seconds()
    seconds = float(given.get("ttl_seconds", ttl))
    if not 0 < seconds <= max(LONGEST_DRAIN.total_seconds(), ttl):
        most = LONGEST_DRAIN.total_seconds()
        raise InvalidInput(f"expected `ttl_seconds` above 0 and up to {most:.0f}, got {seconds:g}")
    return {**given, "ttl_seconds": seconds}


def _uncordon(case: Case, manifest: Manifest, _: Parameters) -> dict[str, Any]:
    owner = (manifest["metadata"].get("annotations") or {}).get(CORDON_OWNER)
    if owner is None:
        raise InvalidInput(f"{case.record.target} has no cordon of this engine's; only such a one is taken back")
    return {"owner": owner}


def _resources(case: Case, manifest: Manifest, given: Parameters) -> dict[str, Any]:
    containers = manifest["spec"]["template"]["spec"].get("containers") or []
    name, resource = given.get("container"), given.get("resource")
    found = next((c for c in containers if c["name"] == name), None)
    if found is None or resource not in ("memory", "cpu"):
        names = ", ".join(c["name"] for c in containers)
        raise InvalidInput(f"expected `container` (one of {names}) and `resource` (memory or cpu), got {dict(given)}")
    limit = ((found.get("resources") or {}).get("limits") or {}).get(resource)
    if limit is None:
        raise InvalidInput(f"container {name} of {case.record.target} has no {resource} limit to change")
    return {"container": name, "resource": resource, "from_limit": limit, "to_limit": _quantity(given, "to_limit")}


def _volume(case: Case, manifest: Manifest, given: Parameters) -> dict[str, Any]:
    have, wanted = requested_size(manifest), _quantity(given, "to_size")
    if have is None or quantity(wanted) <= quantity(have):
        raise InvalidInput(f"expected a `to_size` above the {have} that {case.record.target} asks for, got {wanted}")
    return {"from_size": have, "to_size": wanted}


def _model(case: Case, manifest: Manifest, _: Parameters) -> dict[str, Any]:
    current, previous = placement_of(manifest), previous_of(manifest)
    if current is None or previous is None:
        raise InvalidInput(f"{case.record.target} notes no version before the one that it serves")
    before = previous.placement
    return {"uri": before.uri, "labels": dict(before.labels), "from_uri": current.uri}


def _application(case: Case, manifest: Manifest) -> ObjectRef:
    return ref_of(APPLICATIONS, _application_of(case, manifest))


def _application_of(case: Case, manifest: Manifest) -> Manifest:
    owner = deployed_by(manifest)
    found = application_named(owner.name, case.world.snapshot)
    application = found if owner.kind is Deployed.ARGO_CD else None  # a Helm release may have an application's name
    if application is None:
        raise InvalidInput(f"{case.record.target} belongs to no Argo CD application that can be read")
    return application


def _sync(case: Case, manifest: Manifest, _: Parameters) -> dict[str, Any]:
    return sync_parameters(case.record.target, _application_of(case, manifest))


def _quantity(given: Parameters, name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise InvalidInput(f"expected `{name}` as a quantity such as 512Mi, got {value!r}")
    if quantity(value) <= 0:
        raise InvalidInput(f"expected a `{name}` above 0, got {value}")
    return value


FILLERS: Mapping[str, Filler] = {
    "undo": _undo,
    "scale": _scale,
    "drain": _drain,
    "uncordon": _uncordon,
    "patch-resources": _resources,
    "expand-volume": _volume,
    "roll-back-model": _model,
    "sync": _sync,
}
