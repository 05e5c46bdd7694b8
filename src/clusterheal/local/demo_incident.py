"""The incident of a run: cause it, follow what the engine makes of it, and check that it is really over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np

from clusterheal.errors import PermanentError, RetryableError
from clusterheal.kube import resources
from clusterheal.kube.ports import Cluster, Manifest, PatchType
from clusterheal.local.demo_config import NAMESPACE
from clusterheal.local.demo_platform import Platform
from clusterheal.local.exporter import fault_to_dict
from clusterheal.local.exporter_recorded import shifts
from clusterheal.local.faults import Fault, FaultKind
from clusterheal.local.kube.controllers.base import BEHAVIOUR
from clusterheal.local.timeline import Timeline
from clusterheal.local.world import REGISTRY, object_name
from clusterheal.local.world_live import PodView, pod_view

POLL_SECONDS = 0.5
ENDS = ("Resolved", "SelfHealed", "Escalated", "RolledBack", "Suggested", "Rejected")
GOOD_END = ("Resolved", "helped")
_KINDS = {"Acting": "act", "Resolved": "good", "SelfHealed": "good", "Escalated": "bad", "RolledBack": "bad"}


@dataclass(kw_only=True)
class IncidentRun:
    """What came of a fault: the engine's Incident object as it ended, and others that it opened meanwhile."""

    fault: Fault
    incident: Manifest | None = None
    others: list[Manifest] = field(default_factory=list)
    seconds: float = 0.0


async def cause(platform: Platform, kind: FaultKind, cluster: Cluster) -> Fault:
    """Begin the fault, in the cluster or in its metrics; returns it with its victims.

    Raises:
        PermanentError: the exporter does not take it.
    """
    fault = await _aimed(platform, kind, cluster)
    async with httpx.AsyncClient(timeout=5.0) as client:
        url = f"http://127.0.0.1:{platform.ports.exporter}/faults"
        answer = await client.post(url, json=fault_to_dict(fault))
    if not answer.is_success:
        raise PermanentError(f"the exporter refused the fault {kind.name}: {answer.status_code} {answer.text[:200]}")
    if fault.image is not None:
        await roll_out_image(cluster, fault.namespace, fault.workload, fault.image)
    return fault


async def _aimed(platform: Platform, kind: FaultKind, cluster: Cluster) -> Fault:
    fault = Fault(
        kind=kind.name,
        namespace=kind.namespace,
        workload=kind.workload,
        started_at=time.time(),
        ramp_seconds=kind.ramp_seconds,
    )
    if kind.name == "bad-rollout":
        return replace(fault, image=f"{REGISTRY}/{kind.namespace}/{kind.workload}:1.5.0")
    if platform.replay is not None:
        number = int(np.random.default_rng(platform.config.seed).integers(len(platform.replay.recordings)))
        recording = platform.replay.recordings[number]
        moved = shifts(recording, seed=platform.config.seed)
        fault = replace(fault, workload=object_name(recording.instance), instance=recording.instance, metrics=moved)
    views = await pods_of(cluster, platform, fault)
    return replace(fault, victims=frozenset(view.uid for view in views))


async def pods_of(cluster: Cluster, platform: Platform, fault: Fault) -> list[PodView]:
    """The pods of the fault's workload."""
    pods = await cluster.list(resources.PODS, namespace=fault.namespace)
    views = [pod_view(pod, platform.spec) for pod in pods.items if not pod["metadata"].get("deletionTimestamp")]
    return [view for view in views if view is not None and view.workload.name == fault.workload]


async def roll_out_image(cluster: Cluster, namespace: str, name: str, image: str) -> None:
    """What a person does with `kubectl set image`: a new revision of the Deployment. Its program is broken."""
    found = await cluster.get(resources.DEPLOYMENTS, name, namespace=namespace)
    containers = [{**container, "image": image} for container in found["spec"]["template"]["spec"]["containers"]]
    broken = {BEHAVIOUR: "CrashLoopBackOff"}
    await cluster.patch(
        resources.DEPLOYMENTS,
        name,
        {"spec": {"template": {"metadata": {"annotations": broken}, "spec": {"containers": containers}}}},
        patch_type=PatchType.MERGE,
        namespace=namespace,
        field_manager="kubectl-set",
    )


async def follow(platform: Platform, fault: Fault, cluster: Cluster, timeline: Timeline) -> IncidentRun:
    """Watch the engine's incidents until the one about the fault's workload has ended, or the time is up."""
    run = IncidentRun(fault=fault)
    began = time.monotonic()
    seen: dict[str, _Seen] = {}
    while True:
        run.seconds = time.monotonic() - began
        for incident in await incidents(cluster):
            _tell(incident, seen.setdefault(incident["metadata"]["name"], _Seen()), timeline)
            if is_about(incident, fault):
                run.incident = incident
        state = _status(run.incident).get("state")
        if state in ENDS:
            break
        if run.seconds > platform.config.live_seconds:
            break
        timeline.progress(f"{run.seconds:.0f} s after the fault: {state or 'nothing noticed yet'}")
        await asyncio.sleep(POLL_SECONDS)
    everything = await incidents(cluster)
    mine = run.incident["metadata"]["name"] if run.incident else None
    run.others = [i for i in everything if i["metadata"]["name"] != mine]
    return run


async def incidents(cluster: Cluster) -> list[Manifest]:
    """All incidents of the engine, oldest first; none while the API does not answer for a moment."""
    try:
        items = (await cluster.list(resources.INCIDENTS, namespace=NAMESPACE)).items
    except RetryableError:
        return []
    return sorted(items, key=lambda i: (str(i["spec"].get("openedAt")), str(i["metadata"]["name"])))


def is_about(incident: Manifest, fault: Fault) -> bool:
    """The incident's target is the fault's workload."""
    target = incident["spec"]["target"]
    return (target.get("kind"), target.get("namespace"), target.get("name")) == (
        "Deployment",
        fault.namespace,
        fault.workload,
    )


@dataclass(kw_only=True)
class _Seen:
    """What was already told of an incident."""

    signals: set[str] = field(default_factory=set)
    steps: int = 0
    guards: str = ""


def _tell(incident: Manifest, seen: _Seen, timeline: Timeline) -> None:
    name = _where(incident)
    for signal in incident["spec"].get("signals", []):
        key = str(signal["fingerprint"])
        if key not in seen.signals:
            seen.signals.add(key)
            summary = " ".join(str(signal.get("summary") or signal["name"]).split())
            timeline.event(f"{name}: {signal['source']} says {summary}", kind="signal")
    status = _status(incident)
    steps: Sequence[Mapping[str, Any]] = status.get("timeline", [])
    for step in steps[seen.steps :]:
        kind = _KINDS.get(str(step["state"]), "info")
        timeline.event(f"{name}: {step['state']}: {step['message']}", kind=kind)
    seen.steps = max(seen.steps, len(steps))
    blocked = "; ".join(f"{g['guard']}: {g['reason']}" for g in status.get("guards", []) if not g["allowed"])
    if blocked and blocked != seen.guards:
        timeline.event(f"{name}: held back by {blocked}", kind="info")
    seen.guards = blocked


def _where(incident: Manifest) -> str:
    target = incident["spec"]["target"]
    return "/".join(str(target[k]) for k in ("namespace", "name") if target.get(k))


def _status(incident: Manifest | None) -> Mapping[str, Any]:
    found = (incident or {}).get("status")
    return found if isinstance(found, dict) else {}


async def require_healed(platform: Platform, run: IncidentRun, cluster: Cluster) -> str:
    """Check the end on the cluster itself, not only in the engine's own words; returns what was verified.

    Raises:
        PermanentError: not noticed, not resolved, not verified, or the cluster does not look healed.
    """
    status = _status(run.incident)
    outcome = status.get("outcome") or {}
    if run.incident is None:
        raise PermanentError(
            f"the fault {run.fault.kind} on {run.fault.workload} was not noticed within {run.seconds:.0f} s; "
            f"see {platform.places.logs / 'engine.log'}"
        )
    if (status.get("state"), outcome.get("verdict")) != GOOD_END:
        raise PermanentError(
            f"the incident on {run.fault.workload} ended as {status.get('state')} with the verdict "
            f"{outcome.get('verdict')} after {run.seconds:.0f} s: {status.get('message') or outcome.get('explanation')}"
        )
    views = await pods_of(cluster, platform, run.fault)
    not_ready = [view.place.name for view in views if not view.ready]
    ill = [view.place.name for view in views if view.uid in run.fault.victims and run.fault.kind != "cpu-saturation"]
    if run.fault.image is not None:
        ill += [view.place.name for view in views if view.image == run.fault.image]
    if not views or not_ready or ill:
        raise PermanentError(
            f"the engine calls the incident resolved, but of {run.fault.workload}'s {len(views)} pods "
            f"{not_ready} are not ready and {ill} still have the fault"
        )
    return str(outcome.get("explanation", ""))


__all__ = ["ENDS", "IncidentRun", "cause", "follow", "incidents", "is_about", "require_healed"]
