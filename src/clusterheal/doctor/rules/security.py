"""Pod security, images, rights and secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from clusterheal.doctor.rule import Problem, RuleBook, Severity
from clusterheal.doctor.scene import Object, PodTemplate, Scene, mappings

BOOK = RuleBook()
MCO = "machineconfiguration.openshift.io"
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection", "*"})
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}\Z")
_MADE_BY_CONTROLLER = ("InferenceService",)  # its pod is the runtime's; only what it overrides stands in it


def _security(pod: PodTemplate) -> Mapping[str, Any]:
    return pod.spec.get("securityContext") or {}


@BOOK.add(
    "CH501",
    "fixed-user",
    Severity.ERROR,
    why="restricted-v2 gives each namespace a range of users and groups and refuses others: no pod is created.",
    fix="leave runAsUser, runAsGroup and fsGroup out",
)
def fixed_user(scene: Scene) -> Iterator[Problem]:
    if not scene.openshift:
        return
    for pod in scene.pods():
        for key in ("runAsUser", "runAsGroup", "fsGroup"):
            if key in _security(pod):
                yield Problem(obj=pod.owner, path=(*pod.path, "securityContext", key), said=key)
        for path, container in pod.containers():
            for key in ("runAsUser", "runAsGroup"):
                if key in (container.get("securityContext") or {}):
                    yield Problem(obj=pod.owner, path=(*path, "securityContext", key), said=key)


@BOOK.add(
    "CH502",
    "not-restricted",
    Severity.ERROR,
    why="a namespace that enforces `restricted` refuses the pod; one that does not runs it with more than it needs.",
    fix="runAsNonRoot: true, seccompProfile RuntimeDefault, allowPrivilegeEscalation: false, capabilities.drop: [ALL]",
)
def not_restricted(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods():
        if pod.owner.kind in _MADE_BY_CONTROLLER:
            continue
        for path, container in pod.containers():
            own = container.get("securityContext") or {}
            both = {**_security(pod), **own}
            missing = [] if both.get("runAsNonRoot") is True else ["runAsNonRoot"]
            if (both.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
                missing.append("seccompProfile")
            if own.get("allowPrivilegeEscalation") is not False:
                missing.append("allowPrivilegeEscalation")
            if "ALL" not in ((own.get("capabilities") or {}).get("drop") or []):
                missing.append("capabilities.drop ALL")
            if missing:
                said = f"container {container.get('name')} lacks {', '.join(missing)}"
                yield Problem(obj=pod.owner, path=path, said=said)


@BOOK.add(
    "CH503",
    "host-access",
    Severity.ERROR,
    why="privileged containers, host paths and host namespaces are refused by restricted-v2 and by the notebooks' "
    "webhook.",
    fix="do without; a volume claim for files, a Service for the network",
)
def host_access(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods():
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield Problem(obj=pod.owner, path=(*pod.path, key), said=key)
        for i, volume in mappings(pod.spec.get("volumes")):
            if "hostPath" in volume:
                yield Problem(obj=pod.owner, path=(*pod.path, "volumes", i), said=f"hostPath {volume['hostPath']}")
        for path, container in pod.containers():
            if (container.get("securityContext") or {}).get("privileged"):
                yield Problem(obj=pod.owner, path=path, said=f"container {container.get('name')} is privileged")


@BOOK.add(
    "CH504",
    "image-moves",
    Severity.ERROR,
    why="`latest` or no tag is another image tomorrow: two replicas may run two programs, and there is no way back.",
    fix="a version and its digest: name@sha256:...",
)
def image_moves(scene: Scene) -> Iterator[Problem]:
    for owner, path, image in _images(scene):
        if not _DIGEST.search(image) and (image.rpartition("/")[2].partition(":")[2] or "latest") == "latest":
            yield Problem(obj=owner, path=path, said=image)


@BOOK.add(
    "CH505",
    "image-without-digest",
    Severity.WARNING,
    why="a tag can be pushed again, and Kubeflow's cache does not see that the code behind it changed.",
    fix="pin by digest in the kustomization's `images:`",
)
def image_without_digest(scene: Scene) -> Iterator[Problem]:
    for owner, path, image in _images(scene):
        tag = image.rpartition("/")[2].partition(":")[2]
        if tag and tag != "latest" and not _DIGEST.search(image):
            yield Problem(obj=owner, path=path, said=image)


def _images(scene: Scene) -> Iterator[tuple[Object, Any, str]]:
    for pod in scene.pods():
        for path, container in pod.containers():
            image = container.get("image")
            if isinstance(image, str) and image:
                yield pod.owner, (*path, "image"), image


@BOOK.add(
    "CH506",
    "wildcard-rights",
    Severity.ERROR,
    why="a star gives whatever is added later, too; cluster-admin gives everything.",
    fix="name groups, resources and verbs that the code calls",
)
def wildcard_rights(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("Role", "ClusterRole"):
        for i, rule in mappings(o.at("rules")):
            for key in ("apiGroups", "resources", "verbs"):
                if "*" in (rule.get(key) or []):
                    yield Problem(obj=o, path=("rules", i, key), said=f"{key}: *")
    for o in scene.of("RoleBinding", "ClusterRoleBinding"):
        if o.at("roleRef", "name") == "cluster-admin":
            yield Problem(obj=o, path=("roleRef",), said="cluster-admin")


@BOOK.add(
    "CH507",
    "writes-machine-config",
    Severity.ERROR,
    why="whoever writes MachineConfigs reboots nodes; the operator repairs nothing that a second writer breaks.",
    fix="get, list and watch only",
)
def writes_machine_config(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("Role", "ClusterRole"):
        for i, rule in mappings(o.at("rules")):
            verbs = sorted(WRITES & set(rule.get("verbs") or []))
            if MCO in (rule.get("apiGroups") or []) and verbs:
                yield Problem(obj=o, path=("rules", i, "verbs"), said=", ".join(verbs))


@BOOK.add(
    "CH508",
    "secret-in-git",
    Severity.ERROR,
    why="a Secret's data are only encoded: whoever reads the repository has them, and its history keeps them.",
    fix="an ExternalSecret, or a documented `oc create secret`",
)
def secret_in_git(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("Secret"):
        token = o.at("type") == "kubernetes.io/service-account-token"
        filled = [k for key in ("data", "stringData") for k, v in (o.at(key, default={}) or {}).items() if v]
        if filled and not token:
            yield Problem(
                obj=o, path=("data",) if o.at("data") else ("stringData",), said=f"values for {', '.join(filled)}"
            )


@BOOK.add(
    "CH509",
    "no-limits",
    Severity.WARNING,
    why="without requests a pod is the first to be evicted and where a quota is set it is refused; without a "
    "memory limit a leak takes the node along.",
    fix="requests and limits for memory, a request for CPU",
)
def no_limits(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods():
        if pod.owner.kind in (*_MADE_BY_CONTROLLER, "ServingRuntime", "ClusterServingRuntime"):
            continue
        for path, container in pod.containers():
            resources = container.get("resources") or {}
            requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
            missing = [name for name in ("cpu", "memory") if name not in requests and name not in limits]
            missing += [] if "memory" in limits else ["memory limit"]
            if missing:
                said = f"container {container.get('name')}: no {', '.join(missing)}"
                yield Problem(obj=pod.owner, path=(*path, "resources"), said=said)


@BOOK.add(
    "CH510",
    "default-deny-cuts-dns",
    Severity.ERROR,
    why="a policy that denies all egress without an exception for DNS and the API server stops every pod that it "
    "selects: names do not resolve, and nothing says so.",
    fix="allow UDP and TCP 5353 to openshift-dns (53 elsewhere) and TCP 6443",
)
def default_deny_cuts_dns(scene: Scene) -> Iterator[Problem]:
    policies = list(scene.of("NetworkPolicy"))
    for o in policies:
        denies = "Egress" in (o.at("spec", "policyTypes") or []) and not o.at("spec", "egress")
        if not denies or o.at("spec", "podSelector"):
            continue
        ports = {
            str(port.get("port"))
            for p in policies
            if p.namespace == o.namespace
            for _, rule in mappings(p.at("spec", "egress"))
            for _, port in mappings(rule.get("ports"))
        }
        if not ports & {"53", "5353", "dns", "dns-udp"}:
            yield Problem(obj=o, path=("spec",), said="denies all egress, and no policy of the namespace allows DNS")
