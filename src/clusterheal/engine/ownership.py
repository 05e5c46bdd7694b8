"""How an object is deployed, and what that means for a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from clusterheal.kube.ports import Manifest

ARGO_TRACKING = "argocd.argoproj.io/tracking-id"
ARGO_LABEL = "argocd.argoproj.io/instance"
HELM_RELEASE = "meta.helm.sh/release-name"
HELM_NAMESPACE = "meta.helm.sh/release-namespace"


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

    def remedy(self, action: str) -> str:
        """What a person does instead."""
        if self.kind is Deployed.ARGO_CD:
            return f"change it in Git, or run: argocd app {'rollback' if action == 'undo' else 'sync'} {self.name}"
        if self.kind is Deployed.HELM:
            return f"run: helm rollback {self.name} --namespace {self.namespace}"
        return f"change {self.name} instead"


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
