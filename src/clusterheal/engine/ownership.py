"""How an object is deployed, and what that means for a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from clusterheal.contracts import Plan
from clusterheal.engine.views import Snapshot
from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import APPLICATIONS

ARGO_TRACKING = "argocd.argoproj.io/tracking-id"
ARGO_LABEL = "argocd.argoproj.io/instance"
HELM_RELEASE = "meta.helm.sh/release-name"
HELM_NAMESPACE = "meta.helm.sh/release-namespace"
CHANGES_SPEC = frozenset({"undo", "scale", "patch-resources", "expand-volume"})
"""Actions whose result differs from what Git, a chart or an operator says, and would be reverted."""


class Deployed(StrEnum):
    ARGO_CD = "argocd"
    HELM = "helm"
    OPERATOR = "operator"
    MANUALLY = "manual"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Who deploys an object. `name`: the application, release or owner."""

    kind: Deployed
    name: str = ""
    namespace: str = ""

    @property
    def explanation(self) -> str:
        return {
            Deployed.ARGO_CD: f"Argo CD application {self.name} deploys it and would revert a change",
            Deployed.HELM: f"Helm release {self.name} deploys it",
            Deployed.OPERATOR: f"{self.name} owns it and would revert a change",
            Deployed.MANUALLY: "it is deployed by hand",
        }[self.kind]

    def remedy(self, plan: Plan) -> str:
        """What a person does instead, as a command where there is one."""
        if self.kind is Deployed.ARGO_CD:
            if plan.action == "undo":
                return f"revert the change in Git, or until then run: argocd app rollback {self.name}"
            return f"{_wanted(plan)} in Git, then run: argocd app sync {self.name}"
        if self.kind is Deployed.HELM:
            if plan.action == "undo":
                return f"run: helm rollback {self.name} --namespace {self.namespace}"
            upgrade = f"helm upgrade {self.name} <chart> --namespace {self.namespace} --reuse-values --set <value>"
            return f"{_wanted(plan)} in the release's values, then run: {upgrade}"
        return f"change {self.name} instead: {_wanted(plan)}"


def _wanted(plan: Plan) -> str:
    values = plan.parameters
    return {
        "scale": f"set replicas to {values.get('to_replicas')}",
        "patch-resources": f"set the {values.get('resource')} limit of container {values.get('container')} to "
        f"{values.get('to_limit')}",
        "expand-volume": f"set the size to {values.get('to_size')}",
        "undo": f"go back to revision {values.get('to_revision')}",
    }.get(plan.action, plan.action)


def application_named(name: str, snapshot: Snapshot) -> Manifest | None:
    """The Argo CD application; with applications in any namespace its tracking name is `<namespace>_<name>`."""
    for app in snapshot.all(APPLICATIONS):
        meta = app["metadata"]
        if name in (meta["name"], f"{meta.get('namespace')}_{meta['name']}"):
            return app
    return None


def deployed_by(obj: Manifest) -> Deployment:
    """From tracking annotation, instance label, release annotation and owner reference, in this order."""
    meta = obj["metadata"]
    notes, labels = meta.get("annotations") or {}, meta.get("labels") or {}
    if ARGO_TRACKING in notes:
        return Deployment(kind=Deployed.ARGO_CD, name=notes[ARGO_TRACKING].split(":", 1)[0])
    if ARGO_LABEL in labels:
        return Deployment(kind=Deployed.ARGO_CD, name=labels[ARGO_LABEL])
    owner = next((o for o in meta.get("ownerReferences") or [] if o.get("controller")), None)
    if owner is not None:
        return Deployment(kind=Deployed.OPERATOR, name=f"{owner['kind']} {owner['name']}")
    if HELM_RELEASE in notes:
        namespace = notes.get(HELM_NAMESPACE, meta.get("namespace", ""))
        return Deployment(kind=Deployed.HELM, name=notes[HELM_RELEASE], namespace=namespace)
    return Deployment(kind=Deployed.MANUALLY)
