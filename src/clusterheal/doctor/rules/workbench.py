"""Notebooks (kubeflow.org/v1) under the OpenShift AI dashboard."""

from __future__ import annotations

from collections.abc import Iterator

from clusterheal.doctor.rule import Problem, RuleBook, Severity
from clusterheal.doctor.scene import Object, Platform, Scene, mappings

BOOK = RuleBook()
AUTH_3 = "notebooks.opendatahub.io/inject-auth"
AUTH_2 = "notebooks.opendatahub.io/inject-oauth"
CONTAINERS = ("spec", "template", "spec", "containers")
LABELS = ("app", "opendatahub.io/dashboard", "opendatahub.io/odh-managed")


def _has_auth(notebook: Object, platform: Platform) -> bool:
    wanted = AUTH_2 if platform is Platform.RHOAI_2 else AUTH_3
    return notebook.annotations.get(wanted) == "true"


def _arguments(notebook: Object) -> Iterator[tuple[int, str]]:
    for i, variable in mappings(notebook.at(*CONTAINERS, 0, "env")):
        if variable.get("name") == "NOTEBOOK_ARGS":
            yield i, str(variable.get("value", ""))


@BOOK.add(
    "CH101",
    "workbench-auth-annotation",
    Severity.ERROR,
    why="each controller reads only its own annotation: inject-oauth in OpenShift AI 2.x, inject-auth in 3.x. With the "
    "other one no auth sidecar stands before Jupyter.",
    fix=f'set {AUTH_3}: "true" for 3.x, {AUTH_2}: "true" for 2.x, by a component per version',
)
def auth_annotation(scene: Scene) -> Iterator[Problem]:
    if not scene.openshift:
        return
    for notebook in scene.of("Notebook"):
        if not _has_auth(notebook, scene.platform):
            wanted = AUTH_2 if scene.platform is Platform.RHOAI_2 else AUTH_3
            said = f'{wanted} is not "true", which {scene.platform} needs'
            yield Problem(obj=notebook, path=("metadata", "annotations"), said=said)


@BOOK.add(
    "CH102",
    "workbench-container-name",
    Severity.ERROR,
    why="the controller looks for the notebook's container as the first one, named like the Notebook; it patches "
    "another one or none, and the workbench never becomes reachable.",
    fix="make the first container's name equal to metadata.name",
)
def container_name(scene: Scene) -> Iterator[Problem]:
    for notebook in scene.of("Notebook"):
        first = notebook.at(*CONTAINERS, 0, "name")
        if first != notebook.name:
            said = f"the first container is {first!r}, not {notebook.name!r}"
            yield Problem(obj=notebook, path=(*CONTAINERS, 0, "name"), said=said)


@BOOK.add(
    "CH103",
    "workbench-dashboard-labels",
    Severity.WARNING,
    why="the dashboard lists only Notebooks that carry its labels: people cannot start, stop or edit the others.",
    fix='add the labels app: <name>, opendatahub.io/dashboard: "true", opendatahub.io/odh-managed: "true"',
)
def dashboard_labels(scene: Scene) -> Iterator[Problem]:
    if not scene.openshift:
        return
    for notebook in scene.of("Notebook"):
        missing = [label for label in LABELS if label not in notebook.labels]
        if missing:
            yield Problem(obj=notebook, path=("metadata", "labels"), said=f"without {', '.join(missing)}")


@BOOK.add(
    "CH104",
    "workbench-hardware-profile",
    Severity.ERROR,
    why="a hardware profile that does not exist denies admission, and without a namespace annotation it is looked "
    "for in the workbench's own namespace, where there is seldom one.",
    fix="set opendatahub.io/hardware-profile-namespace as well (redhat-ods-applications for the shipped profiles)",
)
def hardware_profile(scene: Scene) -> Iterator[Problem]:
    for o in scene.of("Notebook", "InferenceService"):
        profile = o.annotations.get("opendatahub.io/hardware-profile-name")
        if not profile or "opendatahub.io/hardware-profile-namespace" in o.annotations:
            continue
        if not scene.has("HardwareProfile", profile, o.namespace):
            said = f"hardware profile {profile} without a namespace, and none of that name in {o.namespace}"
            yield Problem(obj=o, path=("metadata", "annotations", "opendatahub.io/hardware-profile-name"), said=said)


@BOOK.add(
    "CH105",
    "workbench-base-url",
    Severity.ERROR,
    why="the route sends /notebook/<namespace>/<name> to Jupyter; with another base URL every page is a 404.",
    fix="--ServerApp.base_url=/notebook/<namespace>/<name> in NOTEBOOK_ARGS; in an overlay that changes the "
    "namespace, too",
)
def base_url(scene: Scene) -> Iterator[Problem]:
    for notebook in scene.of("Notebook"):
        for i, arguments in _arguments(notebook):
            if notebook.namespace is None:
                continue
            wanted = f"/notebook/{notebook.namespace}/{notebook.name}"
            given = [a.partition("=")[2] for a in arguments.split() if a.startswith("--ServerApp.base_url=")]
            if given != [wanted]:
                said = f"base_url is {given[0] if given else 'absent'}, not {wanted}"
                yield Problem(obj=notebook, path=(*CONTAINERS, 0, "env", i), said=said)


@BOOK.add(
    "CH106",
    "workbench-open",
    Severity.ERROR,
    why="an empty token and password are right only behind the auth sidecar; without it everybody who reaches the pod "
    "runs code as the workbench.",
    fix="add the auth annotation, or leave Jupyter's token on",
)
def open_workbench(scene: Scene) -> Iterator[Problem]:
    for notebook in scene.of("Notebook"):
        if scene.openshift and _has_auth(notebook, scene.platform):
            continue
        for i, arguments in _arguments(notebook):
            if any(
                a in ("--ServerApp.token=''", "--ServerApp.token=", '--ServerApp.token=""') for a in arguments.split()
            ):
                said = "an empty token with no auth sidecar before it"
                yield Problem(obj=notebook, path=(*CONTAINERS, 0, "env", i), said=said)


@BOOK.add(
    "CH107",
    "workbench-service-account",
    Severity.ERROR,
    why="with auth on the controller makes an account named like the notebook, and a webhook refuses every other; "
    "roles bound to the other account do nothing.",
    fix="leave serviceAccountName out or set it to the notebook's name, and bind roles to that account",
)
def service_account(scene: Scene) -> Iterator[Problem]:
    for notebook in scene.of("Notebook"):
        path = ("spec", "template", "spec", "serviceAccountName")
        account = notebook.at(*path)
        if scene.openshift and account not in (None, notebook.name) and _has_auth(notebook, scene.platform):
            yield Problem(obj=notebook, path=path, said=f"account {account}, expected {notebook.name}")


@BOOK.add(
    "CH108",
    "workbench-stopped-in-git",
    Severity.WARNING,
    why="kubeflow-resource-stopped is how the dashboard and idle culling stop a workbench; kept in Git, every "
    "sync starts or stops it against its user.",
    fix="remove the annotation, and let Argo CD ignore it",
)
def stopped_in_git(scene: Scene) -> Iterator[Problem]:
    for notebook in scene.of("Notebook"):
        if "kubeflow-resource-stopped" in notebook.annotations and not notebook.manifest.get("status"):
            path = ("metadata", "annotations", "kubeflow-resource-stopped")
            yield Problem(obj=notebook, path=path, said="kubeflow-resource-stopped is managed here")


@BOOK.add(
    "CH109",
    "workbench-shared-memory",
    Severity.WARNING,
    why="shared memory is 64 MiB in a container: torch data loaders with workers die of a bus error.",
    fix="mount an emptyDir with medium: Memory and a sizeLimit on /dev/shm",
)
def shared_memory(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods("Notebook"):
        memory = {
            v.get("name")
            for _, v in mappings(pod.spec.get("volumes"))
            if (v.get("emptyDir") or {}).get("medium") == "Memory"
        }
        mounts = [m for _, c in pod.containers() for _, m in mappings(c.get("volumeMounts"))]
        if not any(m.get("mountPath") == "/dev/shm" and m.get("name") in memory for m in mounts):  # noqa: S108 - a mount
            yield Problem(obj=pod.owner, path=(*pod.path, "volumes"), said="no memory volume on /dev/shm")


@BOOK.add(
    "CH110",
    "workbench-elyra-secret",
    Severity.ERROR,
    why="ds-pipeline-config is made only when the pipelines server is named dspa, and after the workbench: a "
    "volume that is not optional keeps the pod from starting.",
    fix="optional: true on the volume, and name the DataSciencePipelinesApplication dspa",
)
def elyra_secret(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods("Notebook"):
        for i, volume in mappings(pod.spec.get("volumes")):
            secret = volume.get("secret") or {}
            if secret.get("secretName") == "ds-pipeline-config" and not secret.get("optional"):
                yield Problem(obj=pod.owner, path=(*pod.path, "volumes", i), said="ds-pipeline-config is not optional")
