"""The kubelets: pods start, become ready, crash, restart and end, on nodes that are alive."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.controllers.base import (
    BEHAVIOUR,
    READY_AFTER,
    Settled,
    World,
    condition_of,
    earliest,
    set_condition,
)
from clusterheal.local.kube.objects import parse_time, rfc3339

FaultHook = Callable[[Manifest], str | None]
"""From a pod to its behaviour (see `BEHAVIOUR`), `None` = healthy."""

_CRASHES = {"CrashLoopBackOff": ("Error", 1), "OOMKilled": ("OOMKilled", 137)}


def annotated_behaviour(pod: Manifest) -> str | None:
    return (pod["metadata"].get("annotations") or {}).get(BEHAVIOUR) or None


class PodController:
    """`faults` may give any pod a behaviour; without an answer its annotation decides."""

    reads = ("nodes", "pods")

    def __init__(self, faults: FaultHook | None = None) -> None:
        self.faults = faults
        self._settled = Settled()

    def step(self, world: World) -> datetime | None:
        due = None
        self._settled.begin()
        for pod in world.items("pods"):
            node = world.get("nodes", "", pod["spec"].get("nodeName") or "")
            if node is None or not kubelet_alive(node):
                continue
            behaviour = self.behaviour(pod)
            reconcile = partial(self._reconcile, world, pod, behaviour)
            due = earliest(due, self._settled.step((pod,), world.now, reconcile, behaviour))
        return due

    def behaviour(self, pod: Manifest) -> str | None:
        return (self.faults(pod) if self.faults else None) or annotated_behaviour(pod)

    def _reconcile(self, world: World, pod: Manifest, behaviour: str | None) -> datetime | None:
        if pod["metadata"].get("deletionTimestamp"):
            return self._end(world, pod)
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            return None
        plan = _Plan(world, pod, behaviour)
        world.change("pods", pod, plan.edit)
        return plan.due

    @staticmethod
    def _end(world: World, pod: Manifest) -> datetime | None:
        """Gone after the stop time, or when its grace has passed, whichever is sooner."""
        metadata = pod["metadata"]
        ends = parse_time(metadata["deletionTimestamp"])
        grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds", 0))
        ends = min(ends, ends - grace + world.timing.stop)
        if world.now < ends:
            return ends
        world.delete("pods", pod, grace=0)
        return None


def kubelet_alive(node: Manifest) -> bool:
    ready = condition_of(node, "Ready")
    return ready is not None and ready["status"] == "True"


class _Plan:
    """One pod's next state; `due` is when it has to be looked at again."""

    def __init__(self, world: World, pod: Manifest, behaviour: str | None) -> None:
        self._world = world
        self._timing = world.timing
        self._pod = pod
        self._behaviour = behaviour
        self.due: datetime | None = None

    def edit(self, pod: Manifest) -> None:
        stamp = self._world.stamp
        set_condition(pod, "Initialized", "True", stamp)
        status = pod["status"]
        status.setdefault("startTime", stamp)
        starts = parse_time(status["startTime"]) + self._timing.start
        if self._world.now < starts:
            self._waiting(pod, "ContainerCreating")
            self.due = starts
        elif self._behaviour == "ImagePullBackOff":
            self._pull_failure(pod, starts)
        else:
            self._run(pod)
        ready = all(c["ready"] for c in status.get("containerStatuses") or ()) and status["phase"] == "Running"
        names = [c["name"] for c in pod["spec"]["containers"]]
        why = {} if ready else {"reason": "ContainersNotReady", "message": f"containers with unready status: {names}"}
        for name in ("Ready", "ContainersReady"):
            set_condition(pod, name, "True" if ready else "False", stamp, **why)

    def _statuses(self, pod: Manifest) -> list[Manifest]:
        found: list[Manifest] = pod["status"].setdefault("containerStatuses", [])
        if not found:
            for container in pod["spec"]["containers"]:
                found.append(
                    {
                        "name": container["name"],
                        "image": container["image"],
                        "imageID": "",
                        "ready": False,
                        "restartCount": 0,
                        "started": False,
                        "state": {},
                        "lastState": {},
                    }
                )
        return found

    def _waiting(self, pod: Manifest, reason: str, message: str = "") -> None:
        pod["status"]["phase"] = "Pending"
        for container in self._statuses(pod):
            waiting = {"reason": reason, **({"message": message} if message else {})}
            container.update(ready=False, started=False, state={"waiting": waiting})

    def _pull_failure(self, pod: Manifest, starts: datetime) -> None:
        image = pod["spec"]["containers"][0]["image"]
        backs_off = starts + self._timing.backoff
        if self._world.now < backs_off:
            self._waiting(pod, "ErrImagePull", f"failed to pull image {image}: not found")
            self.due = backs_off
        else:
            self._waiting(pod, "ImagePullBackOff", f'Back-off pulling image "{image}"')

    def _run(self, pod: Manifest) -> None:
        status = pod["status"]
        status["phase"] = "Running"
        status.setdefault("podIP", _address(pod))
        for container in self._statuses(pod):
            if self._behaviour in _CRASHES:
                self._crash(pod, container)
                continue
            if "running" not in container["state"]:
                self._start(container, self._world.stamp)
            self._become_ready(pod, container)

    @staticmethod
    def _start(container: Manifest, stamp: str) -> None:
        if container["lastState"].get("terminated"):
            container["restartCount"] += 1
        container["state"] = {"running": {"startedAt": stamp}}
        container["started"] = True

    def _become_ready(self, pod: Manifest, container: Manifest) -> None:
        if self._behaviour == "NeverReady":
            container["ready"] = False
            return
        asked = (pod["metadata"].get("annotations") or {}).get(READY_AFTER)
        wait = timedelta(seconds=float(asked)) if asked else self._timing.ready
        moment = parse_time(container["state"]["running"]["startedAt"]) + wait
        container["ready"] = self._world.now >= moment
        if not container["ready"]:
            self.due = earliest(self.due, moment)

    def _crash(self, pod: Manifest, container: Manifest) -> None:
        """Running for the crash time, then waiting for the back-off, over and over."""
        was_healthy = container["ready"]
        container["ready"] = False
        now, state = self._world.now, container["state"]
        if "waiting" in state and container["lastState"].get("terminated"):
            ended = parse_time(container["lastState"]["terminated"]["finishedAt"])
            resumes = ended + self._backoff(container["restartCount"])
            if now < resumes:
                self.due = earliest(self.due, resumes)
                return
            self._start(container, rfc3339(resumes))
        elif "running" not in state:
            self._start(container, self._world.stamp)
        began = container["state"]["running"]["startedAt"]
        ends = now if was_healthy else parse_time(began) + self._timing.crash
        if now < ends:
            self.due = earliest(self.due, ends)
            return
        reason, code = _CRASHES[self._behaviour or ""]
        terminated = {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": rfc3339(ends)}
        delay = self._backoff(container["restartCount"])
        name = f"{pod['metadata']['name']}_{pod['metadata']['namespace']}({pod['metadata']['uid']})"
        text = f"back-off {int(delay.total_seconds())}s restarting failed container={container['name']} pod={name}"
        container["lastState"] = {"terminated": terminated}
        container["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
        container["started"] = False
        self.due = earliest(self.due, ends + delay)

    def _backoff(self, restarts: int) -> timedelta:
        delay: timedelta = self._timing.backoff * (1 << min(restarts, 10))
        return min(delay, self._timing.longest_backoff)


def _address(pod: Manifest) -> str:
    n = int(pod["metadata"]["uid"].replace("-", "")[:8], 16)
    return f"10.{128 + n % 4}.{(n >> 4) % 256}.{(n >> 12) % 254 + 1}"
