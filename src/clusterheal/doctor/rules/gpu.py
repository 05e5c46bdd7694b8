"""Pods that ask for GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from clusterheal.doctor.rule import Problem, RuleBook, Severity
from clusterheal.doctor.scene import Scene, mappings

BOOK = RuleBook()


@BOOK.add(
    "CH601",
    "gpu-without-toleration",
    Severity.WARNING,
    why="administrators taint GPU nodes with nvidia.com/gpu, so that nothing else runs there; the pod stays Pending.",
    fix="a toleration with key nvidia.com/gpu and operator Exists",
)
def without_toleration(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods():
        keys = {t.get("key") for _, t in mappings(pod.spec.get("tolerations"))}
        anything = any(
            t.get("operator") == "Exists" and not t.get("key") for _, t in mappings(pod.spec.get("tolerations"))
        )
        if "nvidia.com/gpu" not in keys and not anything:
            for path in pod.gpus():
                yield Problem(obj=pod.owner, path=path, said="a GPU without a toleration for nvidia.com/gpu")


@BOOK.add(
    "CH602",
    "gpu-taint-value",
    Severity.WARNING,
    why="the taint's value is the administrator's: present here, true there. A toleration by value fits one of them.",
    fix="operator: Exists",
)
def taint_value(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods():
        for i, toleration in mappings(pod.spec.get("tolerations")):
            if toleration.get("key") == "nvidia.com/gpu" and toleration.get("operator") != "Exists":
                said = f"tolerates the value {toleration.get('value')!r} only"
                yield Problem(obj=pod.owner, path=(*pod.path, "tolerations", i), said=said)


@BOOK.add(
    "CH603",
    "gpu-request",
    Severity.ERROR,
    why="GPUs cannot be overcommitted: a request that differs from the limit, or stands without one, is refused.",
    fix="give the same number in limits, or the limit alone",
)
def gpu_request(scene: Scene) -> Iterator[Problem]:
    for pod in scene.pods():
        for path, container in pod.containers():
            resources = container.get("resources") or {}
            requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
            for name, count in requests.items():
                if name.startswith("nvidia.com/") and str(limits.get(name)) != str(count):
                    said = f"{name}: request {count}, limit {limits.get(name)}"
                    yield Problem(obj=pod.owner, path=(*path, "resources"), said=said)
