"""Trouble that the Kubernetes API itself shows. Level-triggered: each scan gives all that is wrong now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from clusterheal.contracts import IncidentState, ObjectRef, Signal, SignalSource
from clusterheal.engine.codec import parse_time
from clusterheal.engine.names import CORDON_OWNER, CORDON_UNTIL, digest, root_key
from clusterheal.engine.signals.symptoms import Symptom
from clusterheal.engine.views import ContainerView, PodView, Snapshot, condition, ref_of
from clusterheal.errors import InvalidInput
from clusterheal.kube.ports import Manifest
from clusterheal.kube.resources import DEPLOYMENTS, INCIDENTS, INFERENCE_SERVICES, JOBS, MACHINE_CONFIG_POOLS, NODES

IMAGE_REASONS = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})
PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")
PENDING_AFTER = timedelta(minutes=2)  # a pod is unschedulable for moments in any busy cluster
MODEL_LOADING = timedelta(minutes=5)  # a server that loads its model is not in trouble
RECENT_OOM = timedelta(minutes=10)
HOLDING_STATES = frozenset({IncidentState.ACTING.value, IncidentState.VERIFYING.value})
CORDON_GRACE = timedelta(minutes=10)  # its own incident lifts it at its time; this is for when that did not happen
RECENT_FAILURE = timedelta(hours=6)  # a Job that failed earlier was somebody's before this engine looked


def scan(snapshot: Snapshot) -> list[Signal]:
    """One signal per root object and symptom; details carry the pods that show it."""
    found: dict[str, Signal] = {}
    for signal in _all(snapshot):
        known = found.get(signal.fingerprint)
        found[signal.fingerprint] = signal if known is None else _joined(known, signal)
    return list(found.values())


def _all(snapshot: Snapshot) -> Iterator[Signal]:
    for source in (_pods, _deployments, _jobs, _nodes, _cordons, _pools, _models):
        yield from source(snapshot)


def _joined(first: Signal, second: Signal) -> Signal:
    pods = sorted({*first.details.get("pods", ()), *second.details.get("pods", ())})[:20]
    earlier = first if first.starts_at <= second.starts_at else second
    return Signal(**{**vars(earlier), "details": {**earlier.details, "pods": pods}})


def _signal(
    target: ObjectRef, symptom: Symptom, since: datetime, summary: str, details: Mapping[str, Any], severity: str
) -> Signal:
    return Signal(
        source=SignalSource.KUBERNETES,
        name=symptom.value,
        fingerprint=f"k8s-{digest(root_key(target), symptom.value, length=16)}",
        target=target,
        starts_at=since,
        severity=severity,
        summary=summary[:500],
        details={"symptom": symptom.value, **details},
    )


def _pods(snapshot: Snapshot) -> Iterator[Signal]:
    for pod in snapshot.pods.values():
        if pod.deleting:
            continue
        for container in pod.containers:
            found = _container_symptom(container, snapshot.taken_at)
            if found is not None:
                yield _pod_signal(snapshot, pod, container, found)
        if pod.unschedulable is not None and pod.phase == "Pending":
            since = _time(pod.created_at, snapshot.taken_at)
            if snapshot.taken_at - since >= PENDING_AFTER:
                text = f"pod {pod.name} cannot be scheduled: {pod.unschedulable}"
                details = {"pods": [pod.name], "message": pod.unschedulable}
                yield _signal(
                    snapshot.root_of_pod(pod), Symptom.UNSCHEDULABLE, since, text, details, severity="warning"
                )


def _container_symptom(container: ContainerView, now: datetime) -> Symptom | None:
    if container.waiting in IMAGE_REASONS:
        return Symptom.IMAGE_PULL
    if container.waiting == "CrashLoopBackOff":
        return Symptom.OOM_KILLED if container.last_reason == "OOMKilled" else Symptom.CRASH_LOOP
    if container.last_reason == "OOMKilled" and container.last_finished_at is not None:
        recent = now - parse_time(container.last_finished_at) < RECENT_OOM
        return Symptom.OOM_KILLED if recent else None
    return None


def _pod_signal(snapshot: Snapshot, pod: PodView, container: ContainerView, found: Symptom) -> Signal:
    since = _time(container.last_finished_at or pod.created_at, snapshot.taken_at)
    reason = container.waiting or container.last_reason or found.value
    text = f"container {container.name} of pod {pod.name}: {reason}"
    if container.last_exit_code is not None:
        text += f", exit code {container.last_exit_code}"
    details = {
        "pods": [pod.name],
        "container": container.name,
        "image": container.image,
        "reason": reason,
        "message": container.waiting_message,
        "exit_code": container.last_exit_code,
        "restarts": container.restarts,
        "memory_limit": container.memory_limit,
    }
    return _signal(snapshot.root_of_pod(pod), found, since, text, details, severity="warning")


def _deployments(snapshot: Snapshot) -> Iterator[Signal]:
    for obj in snapshot.all(DEPLOYMENTS):
        progressing = condition(obj, "Progressing")
        if progressing.get("status") == "False" and progressing.get("reason") == "ProgressDeadlineExceeded":
            since = _time(progressing.get("lastTransitionTime"), snapshot.taken_at)
            text = f"rollout is stuck: {progressing.get('message', '')}"
            yield _signal(ref_of(DEPLOYMENTS, obj), Symptom.ROLLOUT_STUCK, since, text, {}, severity="warning")


def _jobs(snapshot: Snapshot) -> Iterator[Signal]:
    """Jobs that failed lately; of a CronJob only the newest run counts, so the next good one ends the trouble."""
    newest: dict[tuple[str | None, str], Manifest] = {}
    for obj in snapshot.all(JOBS):
        root = snapshot.root_of_workload("Job", obj["metadata"]["namespace"], obj["metadata"]["name"])
        known = newest.get((root.namespace, f"{root.kind}/{root.name}"))
        if known is None or _created(obj) > _created(known):
            newest[root.namespace, f"{root.kind}/{root.name}"] = obj
    for obj in newest.values():
        failed = condition(obj, "Failed")
        since = _time(failed.get("lastTransitionTime"), snapshot.taken_at)
        if failed.get("status") != "True" or snapshot.taken_at - since > RECENT_FAILURE:
            continue
        meta = obj["metadata"]
        text = f"Job {meta['name']} failed: {failed.get('reason', '')} {failed.get('message', '')}".strip()
        target = snapshot.root_of_workload("Job", meta["namespace"], meta["name"])
        details = {"job": meta["name"], "reason": failed.get("reason"), "message": failed.get("message", "")}
        yield _signal(target, Symptom.JOB_FAILED, since, text, details, severity="warning")


def _created(obj: Manifest) -> str:
    return str(obj["metadata"].get("creationTimestamp") or "")


def _nodes(snapshot: Snapshot) -> Iterator[Signal]:
    for obj in snapshot.all(NODES):
        ready = condition(obj, "Ready")
        if ready and ready.get("status") != "True":
            yield _node_signal(obj, Symptom.NODE_NOT_READY, "Ready", ready, snapshot.taken_at, "critical")
        for kind in PRESSURES:
            pressure = condition(obj, kind)
            if pressure.get("status") == "True":
                symptom = Symptom.NODE_DISK if kind == "DiskPressure" else Symptom.NODE_PRESSURE
                yield _node_signal(obj, symptom, kind, pressure, snapshot.taken_at, "warning")


def _cordons(snapshot: Snapshot) -> Iterator[Signal]:
    """Cordons of ours whose incident is over or gone, or whose time is up: a lock must not outlive its owner."""
    if INCIDENTS not in snapshot.synced_at:
        return
    holding = {
        obj["metadata"]["name"]
        for obj in snapshot.all(INCIDENTS)
        if (obj.get("status") or {}).get("state") in HOLDING_STATES
    }
    for obj in snapshot.all(NODES):
        notes = obj["metadata"].get("annotations") or {}
        owner, until = notes.get(CORDON_OWNER), notes.get(CORDON_UNTIL)
        if owner is None or not (obj.get("spec") or {}).get("unschedulable"):
            continue
        # An annotation is anybody's to write: what is no time does not say that the time is up.
        over = _time(until, snapshot.taken_at) + CORDON_GRACE < snapshot.taken_at
        if owner not in holding or over:
            text = (
                f"the cordon of incident {owner} has outlived it" if owner not in holding else "the cordon's time is up"
            )
            details = {"owner": owner}
            target = ref_of(NODES, obj)
            yield _signal(target, Symptom.CORDON_ORPHANED, snapshot.taken_at, text, details, severity="warning")


def _node_signal(
    obj: Manifest, symptom: Symptom, kind: str, state: Mapping[str, Any], now: datetime, severity: str
) -> Signal:
    text = f"condition {kind} is {state.get('status')}: {state.get('reason', '')} {state.get('message', '')}".strip()
    details = {"condition": kind, "reason": state.get("reason")}
    since = _time(state.get("lastTransitionTime"), now)
    return _signal(ref_of(NODES, obj), symptom, since, text, details, severity)


def _pools(snapshot: Snapshot) -> Iterator[Signal]:
    for obj in snapshot.all(MACHINE_CONFIG_POOLS):
        degraded = condition(obj, "Degraded")
        if degraded.get("status") == "True":
            since = _time(degraded.get("lastTransitionTime"), snapshot.taken_at)
            text = f"MachineConfigPool is degraded: {degraded.get('reason', '')} {degraded.get('message', '')}".strip()
            target = ref_of(MACHINE_CONFIG_POOLS, obj)
            yield _signal(target, Symptom.POOL_DEGRADED, since, text, {}, severity="critical")


def _models(snapshot: Snapshot) -> Iterator[Signal]:
    for obj in snapshot.all(INFERENCE_SERVICES):
        ready = condition(obj, "Ready")
        since = _time(ready.get("lastTransitionTime"), snapshot.taken_at)
        if ready.get("status") == "False" and snapshot.taken_at - since >= MODEL_LOADING:
            text = f"InferenceService is not ready: {ready.get('reason', '')} {ready.get('message', '')}".strip()
            target = ref_of(INFERENCE_SERVICES, obj)
            yield _signal(target, Symptom.MODEL_UNHEALTHY, since, text, {}, severity="warning")


def _time(value: str | None, default: datetime) -> datetime:
    """A time that somebody else wrote; one malformed object must not hide the trouble of all the others."""
    if not value:
        return default
    try:
        return parse_time(value)
    except InvalidInput:
        return default
