"""How the object is deployed decides the remedy: what Git, a chart or an operator owns is not patched behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clusterheal.contracts import ObjectRef, Plan
from clusterheal.engine.actions.hand_over import WANTED
from clusterheal.engine.diagnosis.case import Case, Finding
from clusterheal.engine.guards import pause
from clusterheal.engine.guards.case import GuardCase
from clusterheal.engine.ownership import CHANGES_SPEC, Deployed, application_named, deployed_by
from clusterheal.engine.views import ref_of
from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import APPLICATIONS


def adapted(case: Case, finding: Finding) -> Finding:
    """The finding with a remedy that will last: the plan itself, a sync with Git, or a suggestion with the command."""
    plan, manifest = finding.plan, case.manifest
    if plan is None or manifest is None or plan.action not in CHANGES_SPEC or case.record.request is not None:
        return finding
    owner = deployed_by(manifest)
    if owner.kind is Deployed.MANUALLY:
        return finding
    application = application_named(owner.name, case.world.snapshot) if owner.kind is Deployed.ARGO_CD else None
    if application is not None and plan.action == "undo" and _drifted(application):
        return _synced(case, finding, plan, application)
    evidence = {**finding.diagnosis.evidence, "deployed_by": owner.kind.value, "owner": owner.name}
    if owner.kind is Deployed.ARGO_CD:
        evidence[WANTED] = _may_write(case, finding, plan)
    diagnosis = replace(
        finding.diagnosis,
        playbook=plan.playbook,
        explanation=f"{finding.diagnosis.explanation} But {owner.explanation}: {owner.remedy(plan)}",
        evidence=evidence,
    )
    return Finding(diagnosis=diagnosis, plan=None, handed_over=True)


def _may_write(case: Case, finding: Finding, plan: Plan) -> bool:
    """Whether the engine would have been let do the plan by itself: then it may leave a note instead."""
    asked = GuardCase(plan=plan, diagnosis=finding.diagnosis, record=case.record, world=case.world, plan_id="")
    return asked.mode[0] == "auto" and pause.check(asked)[0]


def _drifted(application: Manifest) -> bool:
    return ((application.get("status") or {}).get("sync") or {}).get("status") == "OutOfSync"


def sync_parameters(target: ObjectRef, application: Manifest) -> dict[str, Any]:
    """What `sync` needs to bring one object of an application back to the revision of Git that it compares with."""
    return {
        "group": target.api_version.rpartition("/")[0],
        "kind": target.kind,
        "namespace": target.namespace,
        "name": target.name,
        "revision": ((application.get("status") or {}).get("sync") or {}).get("revision"),
    }


def _synced(case: Case, finding: Finding, plan: Plan, application: Manifest) -> Finding:
    target, name = case.record.target, application["metadata"]["name"]
    synced = replace(
        plan,
        action="sync",
        target=ref_of(APPLICATIONS, application),
        parameters=sync_parameters(target, application),
        expected_effect="the object is what Git says again, and its pods become available",
        rollback="none: Git has the history",
    )
    text = (
        f"{finding.diagnosis.explanation} Git says otherwise: Argo CD application {name} is out of sync and is synced."
    )
    diagnosis = replace(
        finding.diagnosis, explanation=text, evidence={**finding.diagnosis.evidence, "deployed_by": "argocd"}
    )
    return Finding(diagnosis=diagnosis, plan=synced)
