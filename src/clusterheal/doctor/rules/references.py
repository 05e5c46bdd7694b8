"""What names something else: does it exist, and will it be the same after the next sync?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from clusterheal.doctor.rule import Problem, RuleBook, Severity
from clusterheal.doctor.scene import FieldPath, Object, PodTemplate, Scene, mappings

BOOK = RuleBook()
_KUSTOMIZE_HASH = re.compile(r"-[0-9a-z]{10}\Z")
_REGISTRY = re.compile(r"^https?://[a-z0-9-]+\.rhoai-model-registries\.svc")
ISVC_LABEL = "serving.kserve.io/inferenceservice"
MAKE_PODS = (
    "Alertmanager", "DataSciencePipelinesApplication", "Grafana", "Kafka", "ModelRegistry", "PostgresCluster",
    "Prometheus", "PrometheusAgent", "RayCluster", "Rollout", "ThanosRuler",
)  # fmt: skip
"""Kinds whose operators make pods; with which labels, the manifests do not say."""
GENERATED = "opendatahub.io/generated-namespace"
OWNED_BY_ROLLOUT = ("storageUri", "/spec/predictor/model/storage", ".spec.predictor.model.storage")


def _config_references(pod: PodTemplate) -> Iterator[tuple[FieldPath, str, str]]:
    """Path, kind and name of every ConfigMap and Secret that the pod cannot start without."""
    for i, volume in mappings(pod.spec.get("volumes")):
        for key, kind, name in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
            source = volume.get(key) or {}
            if source.get(name) and not source.get("optional"):
                yield (*pod.path, "volumes", i), kind, str(source[name])
        for j, source in mappings((volume.get("projected") or {}).get("sources")):
            yield from _named(source, (*pod.path, "volumes", i, "projected", "sources", j), ("configMap", "secret"))
    for path, container in pod.containers():
        for i, source in mappings(container.get("envFrom")):
            yield from _named(source, (*path, "envFrom", i), ("configMapRef", "secretRef"))
        for i, variable in mappings(container.get("env")):
            yield from _named(variable.get("valueFrom") or {}, (*path, "env", i), ("configMapKeyRef", "secretKeyRef"))


def _named(source: Mapping[str, Any], path: FieldPath, keys: tuple[str, str]) -> Iterator[tuple[FieldPath, str, str]]:
    for key, kind in zip(keys, ("ConfigMap", "Secret"), strict=True):
        ref = source.get(key) or {}
        if ref.get("name") and not ref.get("optional"):
            yield path, kind, str(ref["name"])


@BOOK.add(
    "CH701",
    "hash-did-not-reach",
    Severity.ERROR,
    why="kustomize appends a hash to generated ConfigMaps and Secrets and rewrites references in the kinds that "
    "it knows; in InferenceService, ServingRuntime and Notebook the old name stays, and the pod waits for it.",
    fix="a nameReference configuration for these kinds, or disableNameSuffixHash",
)
def hash_did_not_reach(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods():
        for path, kind, name in _config_references(pod):
            made = [o.name for o in scene.of(kind) if _KUSTOMIZE_HASH.sub("", o.name) == name != o.name]
            if made and not scene.has(kind, name):
                yield Problem(obj=pod.owner, path=path, said=f"{kind} {name}; there is {made[0]}")


@BOOK.add(
    "CH702",
    "made-elsewhere",
    Severity.INFO,
    why="the pod waits until somebody makes it: the platform, an operator or an administrator.",
    fix="write down who makes it; optional: true where the pod can do without",
)
def made_elsewhere(scene: Scene) -> Iterator[Problem]:
    external = {(o.at("spec", "target", "name", default=o.name)) for o in scene.of("ExternalSecret")}
    for pod in scene.pods():
        seen = set()
        for path, kind, name in _config_references(pod):
            hashed = any(_KUSTOMIZE_HASH.sub("", o.name) == name for o in scene.of(kind))
            known = scene.has(kind, name, pod.owner.namespace) or hashed or (kind == "Secret" and name in external)
            if not known and (kind, name) not in seen:
                seen.add((kind, name))
                yield Problem(obj=pod.owner, path=path, said=f"{kind} {name}")


@BOOK.add(
    "CH703",
    "binding-names-nobody",
    Severity.ERROR,
    why="kustomize's namespace does not reach the subjects of a binding in every form: the account that runs has "
    "no rights, and one in another namespace may have.",
    fix="replacements from the account's namespace into the subjects",
)
def binding_names_nobody(scene: Scene) -> Iterator[Problem]:
    accounts = {(o.namespace, o.name) for o in scene.of("ServiceAccount")}
    names = {name for _, name in accounts}
    for o in scene.of("RoleBinding", "ClusterRoleBinding"):
        for i, subject in mappings(o.at("subjects")):
            account = (subject.get("namespace"), subject.get("name"))
            if subject.get("kind") == "ServiceAccount" and account not in accounts and account[1] in names:
                where = sorted(str(namespace) for namespace, name in accounts if name == account[1])
                said = f"account {account[1]} of {account[0]}; there is one in {', '.join(where)}"
                yield Problem(obj=o, path=("subjects", i), said=said)


@BOOK.add(
    "CH704",
    "account-not-there",
    Severity.ERROR,
    why="pods of an account that does not exist are not created.",
    fix="add the ServiceAccount",
)
def account_not_there(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods():
        account = pod.spec.get("serviceAccountName")
        made = pod.owner.kind == "Notebook" and account == pod.owner.name
        if account in (None, "default") or made or scene.has("ServiceAccount", str(account), pod.owner.namespace):
            continue
        yield Problem(obj=pod.owner, path=(*pod.path, "serviceAccountName"), said=f"account {account}")


@BOOK.add(
    "CH705",
    "service-selects-nothing",
    Severity.ERROR,
    why="a Service whose labels or port fit no pod has no endpoints: callers time out.",
    fix="the labels of the pod template, and a targetPort that a container has",
)
def service_selects_nothing(scene: Scene) -> Iterator[Problem]:
    pods = [p for p in scene.pods() if p.labels]
    for o in scene.of("Service"):
        selector = o.at("spec", "selector", default={})
        if not selector or _may_be_made_elsewhere(scene, o.namespace, selector):
            continue
        chosen = [p for p in pods if p.owner.namespace == o.namespace and selector.items() <= p.labels.items()]
        if not chosen:
            yield Problem(obj=o, path=("spec", "selector"), said=f"no pod with {dict(selector)}")
            continue
        ports = {
            p.get(k)
            for pod in chosen
            for _, c in pod.containers()
            for _, p in mappings(c.get("ports"))
            for k in ("name", "containerPort")
        }
        for i, port in mappings(o.at("spec", "ports")):
            target = port.get("targetPort", port.get("port"))
            if isinstance(target, str) and target not in ports:
                yield Problem(obj=o, path=("spec", "ports", i), said=f"targetPort {target!r} is no container's port")


def _may_be_made_elsewhere(scene: Scene, namespace: str | None, selector: Mapping[str, Any]) -> bool:
    """Whether KServe, by one of the InferenceServices here, or an operator whose objects are here makes such pods."""
    apps = [str(v) for k, v in selector.items() if k == "app" and str(v).startswith("isvc.")]
    if not apps and ISVC_LABEL not in selector:
        return any(o.namespace == namespace for o in scene.of(*MAKE_PODS))
    services = [o for o in scene.of("InferenceService") if o.namespace == namespace]
    if not services:
        return True  # whoever rolls models out makes them
    for o in services:
        canaries = [(c.get("predictor") or {}).get("name") for _, c in mappings(o.at("spec", "canary"))]
        predictors = [o.name, o.at("spec", "predictor", "name"), *canaries]
        names = {f"isvc.{name}-{part}" for name in predictors for part in ("predictor", "transformer", "explainer")}
        if selector.get(ISVC_LABEL, o.name) == o.name and set(apps) <= names:
            return True
    return False


@BOOK.add(
    "CH706",
    "shared-volume",
    Severity.ERROR,
    why="a ReadWriteOnce volume is mounted by one node: the second replica, or the new pod of a rolling update, waits.",
    fix="ReadWriteMany, state outside the pod, or one replica with strategy Recreate",
)
def shared_volume(scene: Scene) -> Iterator[Problem]:
    once = {
        (o.namespace, o.name) for o in scene.of("PersistentVolumeClaim")
        if set(o.at("spec", "accessModes") or []) <= {"ReadWriteOnce", "ReadWriteOncePod"}
    }  # fmt: skip
    for pod in scene.pods("Deployment"):
        replicas, strategy = pod.owner.at("spec", "replicas", default=1), pod.owner.at("spec", "strategy", "type")
        for i, volume in mappings(pod.spec.get("volumes")):
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if (pod.owner.namespace, claim) in once and (replicas > 1 or strategy != "Recreate"):
                said = f"{replicas} replicas, strategy {strategy or 'RollingUpdate'}, on the claim {claim}"
                yield Problem(obj=pod.owner, path=(*pod.path, "volumes", i), said=said)


@BOOK.add(
    "CH707",
    "twice",
    Severity.ERROR,
    why="of two objects with one name the later one wins, without a word.",
    fix="remove one",
)
def twice(scene: Scene) -> Iterator[Problem]:
    counts = Counter((o.group, o.kind, o.namespace, o.name) for o in scene.objects)
    for o in scene.objects:
        if counts.pop((o.group, o.kind, o.namespace, o.name), 1) > 1:
            yield Problem(obj=o, path=("metadata", "name"), said=str(o))


@BOOK.add(
    "CH708",
    "registry-behind-policy",
    Severity.ERROR,
    why="the registry's NetworkPolicy admits ingress namespaces and generated ones only: calls to its service "
    "time out.",
    fix="its external address (Service annotation routing.opendatahub.io/external-address-rest), or an allow policy",
)
def registry_behind_policy(scene: Scene) -> Iterator[Problem]:
    admitted = {o.name for o in scene.of("Namespace") if o.labels.get(GENERATED) == "true"}
    allows = any(o.namespace == "rhoai-model-registries" for o in scene.of("NetworkPolicy"))
    for o, path, value in _addresses(scene):
        if _REGISTRY.match(value) and o.namespace not in admitted and not allows:
            yield Problem(obj=o, path=path, said=value)


def _addresses(scene: Scene) -> Iterator[tuple[Object, FieldPath, str]]:
    for pod in scene.pods():
        for path, _, value in pod.env():
            yield pod.owner, path, value
    for o in scene.of("ConfigMap"):
        for key, value in (o.at("data", default={}) or {}).items():
            if isinstance(value, str):
                yield o, ("data", key), value


@BOOK.add(
    "CH709",
    "two-writers",
    Severity.ERROR,
    why="Argo CD puts the model path back that the rollout has just switched, or stays OutOfSync for ever.",
    fix="ignoreDifferences for the InferenceService's model storage, and RespectIgnoreDifferences=true in syncOptions",
)
def two_writers(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("Application", "ApplicationSet"):
        base: FieldPath = ("spec",) if o.kind == "Application" else ("spec", "template", "spec")
        ignored = [d for _, d in mappings(o.at(*base, "ignoreDifferences")) if d.get("kind") == "InferenceService"]
        options = o.at(*base, "syncPolicy", "syncOptions") or []
        serves = "serving" in o.name or "serving" in str(o.at(*base, "source", "path", default="")) or bool(ignored)
        if not serves:
            continue
        texts = " ".join(str(d) for d in ignored)
        if not any(part in texts for part in OWNED_BY_ROLLOUT):
            yield Problem(obj=o, path=(*base, "ignoreDifferences"), said="the model's storage is not ignored")
        if "RespectIgnoreDifferences=true" not in options:
            yield Problem(obj=o, path=(*base, "syncPolicy"), said="without RespectIgnoreDifferences=true")


@BOOK.add(
    "CH710",
    "no-disruption-budget",
    Severity.WARNING,
    why="several replicas are there to survive a drain; without a PodDisruptionBudget it may take all of them at once.",
    fix="a PodDisruptionBudget with minAvailable or maxUnavailable",
)
def no_disruption_budget(scene: Scene) -> Iterator[Problem]:
    budgets = list(scene.of("PodDisruptionBudget"))
    for pod in scene.pods("Deployment", "StatefulSet"):
        if pod.owner.at("spec", "replicas", default=1) < 2:
            continue
        chosen = [
            b
            for b in budgets
            if b.namespace == pod.owner.namespace
            and (b.at("spec", "selector", "matchLabels") or {}).items() <= pod.labels.items()
        ]
        if not chosen:
            yield Problem(obj=pod.owner, path=("spec", "replicas"), said="no budget selects its pods")


@BOOK.add(
    "CH711",
    "engine-secrets-beside-pipelines",
    Severity.INFO,
    why="the account of pipeline steps may read every Secret of its namespace: whoever may run a pipeline has them.",
    fix="keep credentials that act on the cluster in another namespace, or write down why not",
)
def secrets_beside_pipelines(scene: Scene) -> Iterator[Problem]:
    servers = {o.namespace for o in scene.of("DataSciencePipelinesApplication")}
    for pod in scene.pods("Deployment", "StatefulSet"):
        secrets = sorted({name for _, kind, name in _config_references(pod) if kind == "Secret"})
        if pod.owner.namespace in servers and secrets:
            yield Problem(obj=pod.owner, said=f"{', '.join(secrets)} can be read by pipeline-runner-dspa")
