"""Deployment -> ReplicaSets: revisions, rolling updates, progress."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from functools import partial

import orjson

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.controllers.base import (
    Settled,
    World,
    condition_of,
    earliest,
    owner_reference,
    resolve_count,
    set_condition,
)
from clusterheal.local.kube.objects import parse_time
from clusterheal.local.kube.store import clone

KEY = "deployments.apps"
SETS = "replicasets.apps"
REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_NOT_COPIED = ("kubectl.kubernetes.io/last-applied-configuration", REVISION)


def template_hash(template: Manifest) -> str:
    digest = hashlib.sha256(orjson.dumps(template, option=orjson.OPT_SORT_KEYS)).digest()
    return "".join(_ALPHABET[b % len(_ALPHABET)] for b in digest[:10])


def revision_of(obj: Manifest) -> int:
    text = (obj["metadata"].get("annotations") or {}).get(REVISION, "0")
    return int(text) if text.isdigit() else 0


class DeploymentController:
    reads = (KEY, SETS, "pods")

    def __init__(self) -> None:
        self._settled = Settled()

    def step(self, world: World) -> datetime | None:
        self._settled.begin()
        due = [
            self._looked_at(world, deployment)
            for deployment in world.items(KEY)
            if not deployment["metadata"].get("deletionTimestamp")
        ]
        return earliest(*due)

    def _looked_at(self, world: World, deployment: Manifest) -> datetime | None:
        sets = world.owned(SETS, deployment)
        current = next((s for s in sets if _same_template(s, deployment)), None)
        reconcile = partial(self._reconcile, world, deployment, sets, current)
        if current is None or deployment["spec"]["strategy"]["type"] == "Recreate":
            return reconcile()  # a set that the server refuses is tried again; Recreate looks at pods, too
        return self._settled.step((deployment, *sets), world.now, reconcile)

    def _reconcile(
        self, world: World, deployment: Manifest, sets: list[Manifest], current: Manifest | None
    ) -> datetime | None:
        paused = bool(deployment["spec"].get("paused"))
        if current is None and not paused:
            current = self._new_set(world, deployment, sets)
            if current is None:
                return None
        elif current is not None and not paused:
            current = self._renumber(world, deployment, current, sets)
        old = [s for s in sets if current is None or s["metadata"]["uid"] != current["metadata"]["uid"]]
        if paused:
            self._scale_only(world, deployment, current, old)
        elif current is not None:
            self._roll(world, deployment, current, old)
            self._prune_history(world, deployment, old)
        return self._report(world, deployment, current)

    def _new_set(self, world: World, deployment: Manifest, sets: list[Manifest]) -> Manifest | None:
        metadata = deployment["metadata"]
        template = clone(deployment["spec"]["template"])
        digest = template_hash(template)
        labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH: digest}
        template.setdefault("metadata", {})["labels"] = labels
        selector = clone(deployment["spec"]["selector"])
        selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH: digest}
        annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k not in _NOT_COPIED}
        annotations[REVISION] = str(max((revision_of(s) for s in sets), default=0) + 1)
        return world.create(
            SETS,
            metadata["namespace"],
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {
                    "name": f"{metadata['name']}-{digest}",
                    "labels": labels,
                    "annotations": annotations,
                    "ownerReferences": [owner_reference(deployment)],
                },
                "spec": {
                    "replicas": self._initial_size(deployment, sets),
                    "selector": selector,
                    "template": template,
                    **_min_ready(deployment),
                },
            },
        )

    @staticmethod
    def _initial_size(deployment: Manifest, sets: list[Manifest]) -> int:
        wanted: int = deployment["spec"]["replicas"]
        present: int = sum(s["spec"]["replicas"] for s in sets)
        if present == 0:
            return wanted
        if deployment["spec"]["strategy"]["type"] == "Recreate":
            return 0
        surge, _ = _allowance(deployment)
        return max(min(wanted, wanted + surge - present), 0)

    @staticmethod
    def _renumber(world: World, deployment: Manifest, current: Manifest, sets: list[Manifest]) -> Manifest:
        """A rollback makes an old set the newest revision again."""
        newest = max(revision_of(s) for s in sets)
        wanted = revision_of(current) if revision_of(current) == newest else newest + 1
        copied = {k: v for k, v in (deployment["metadata"].get("annotations") or {}).items() if k not in _NOT_COPIED}

        def edit(obj: Manifest) -> None:
            kept = obj["metadata"].get("annotations") or {}
            obj["metadata"]["annotations"] = {**kept, **copied, REVISION: str(wanted)}

        return world.change(SETS, current, edit)

    def _scale_only(self, world: World, deployment: Manifest, current: Manifest | None, old: list[Manifest]) -> None:
        live = [s for s in [*old, *([current] if current else [])] if s["spec"]["replicas"] > 0]
        if len(live) == 1:
            _resize(world, live[0], deployment["spec"]["replicas"])

    def _roll(self, world: World, deployment: Manifest, current: Manifest, old: list[Manifest]) -> None:
        wanted = deployment["spec"]["replicas"]
        live_old = [s for s in old if s["spec"]["replicas"] > 0 or (s.get("status") or {}).get("replicas")]
        if deployment["spec"]["strategy"]["type"] == "Recreate":
            for replica_set in live_old:
                _resize(world, replica_set, 0)
            ended = not any(world.owned("pods", s) for s in old)
            if ended:
                _resize(world, current, wanted)
            return
        surge, unavailable = _allowance(deployment)
        total = sum(s["spec"]["replicas"] for s in [*old, current])
        size = current["spec"]["replicas"]
        if size > wanted or not live_old:
            _resize(world, current, wanted)
        elif size < wanted:
            room = max(wanted + surge - total, 0)
            current = _resize(world, current, min(wanted, size + room))
        self._shrink_old(world, current, live_old, keep=wanted - unavailable)

    @staticmethod
    def _shrink_old(world: World, current: Manifest, old: list[Manifest], *, keep: int) -> None:
        """Scale old sets down, broken pods first, never below `keep` available pods in all."""
        total = sum(s["spec"]["replicas"] for s in [*old, current])
        absent = max(current["spec"]["replicas"] - _available(current), 0)
        budget = total - keep - absent
        ordered = sorted(old, key=lambda s: s["metadata"]["creationTimestamp"])
        sizes = {s["metadata"]["uid"]: s["spec"]["replicas"] for s in ordered}
        for replica_set in ordered:
            broken = max(sizes[replica_set["metadata"]["uid"]] - _available(replica_set), 0)
            step = min(broken, max(budget, 0))
            sizes[replica_set["metadata"]["uid"]] -= step
            budget -= step
        spare = max(sum(_available(s) for s in [*old, current]) - keep, 0)
        for replica_set in ordered:
            healthy = min(sizes[replica_set["metadata"]["uid"]], _available(replica_set))
            step = min(healthy, spare, max(budget, 0))
            sizes[replica_set["metadata"]["uid"]] -= step
            spare, budget = spare - step, budget - step
        for replica_set in ordered:
            _resize(world, replica_set, sizes[replica_set["metadata"]["uid"]])

    @staticmethod
    def _prune_history(world: World, deployment: Manifest, old: list[Manifest]) -> None:
        idle = [s for s in old if s["spec"]["replicas"] == 0 and not (s.get("status") or {}).get("replicas")]
        surplus = len(idle) - deployment["spec"].get("revisionHistoryLimit", 10)
        for replica_set in sorted(idle, key=revision_of)[: max(surplus, 0)]:
            world.delete(SETS, replica_set)

    def _report(self, world: World, deployment: Manifest, current: Manifest | None) -> datetime | None:
        found = world.get(KEY, deployment["metadata"]["namespace"], deployment["metadata"]["name"])
        if found is None:
            return None
        sets = world.owned(SETS, found)
        fresh = next(
            (s for s in sets if current is not None and s["metadata"]["uid"] == current["metadata"]["uid"]), None
        )
        status = _counts(found, sets, fresh)

        def edit(obj: Manifest) -> None:
            conditions = (obj.get("status") or {}).get("conditions")
            progressed = _progressed(obj.get("status") or {}, status)
            obj["status"] = {**status, **({"conditions": conditions} if conditions else {})}
            if fresh is not None:
                obj["metadata"].setdefault("annotations", {})[REVISION] = str(revision_of(fresh))
            _set_available(obj, world.stamp)
            _set_progressing(obj, fresh, world, progressed=progressed)

        return _deadline(world.change(KEY, found, edit))


def _min_ready(deployment: Manifest) -> Manifest:
    seconds = deployment["spec"].get("minReadySeconds")
    return {"minReadySeconds": seconds} if seconds else {}


def _same_template(replica_set: Manifest, deployment: Manifest) -> bool:
    template: Manifest = dict(replica_set["spec"]["template"])
    if labels := (template.get("metadata") or {}).get("labels"):
        rest = {k: v for k, v in labels.items() if k != HASH}
        template["metadata"] = {**template["metadata"], "labels": rest}
    return bool(template == deployment["spec"]["template"])


def _allowance(deployment: Manifest) -> tuple[int, int]:
    """(surge, unavailable) in pods; both zero would never move."""
    rolling = deployment["spec"]["strategy"].get("rollingUpdate") or {}
    wanted = deployment["spec"]["replicas"]
    surge = resolve_count(rolling.get("maxSurge", "25%"), wanted, up=True)
    unavailable = resolve_count(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def _available(replica_set: Manifest) -> int:
    return int((replica_set.get("status") or {}).get("availableReplicas") or 0)


def _resize(world: World, replica_set: Manifest, size: int) -> Manifest:
    def edit(obj: Manifest) -> None:
        obj["spec"]["replicas"] = size

    return world.change(SETS, replica_set, edit)


def _counts(deployment: Manifest, sets: list[Manifest], fresh: Manifest | None) -> Manifest:
    def total(field: str) -> int:
        return sum(int((s.get("status") or {}).get(field) or 0) for s in sets)

    available = total("availableReplicas")
    replicas = total("replicas")
    counts = {
        "replicas": replicas,
        "updatedReplicas": int(((fresh or {}).get("status") or {}).get("replicas") or 0),
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(max(replicas, deployment["spec"]["replicas"]) - available, 0),
    }
    return {"observedGeneration": deployment["metadata"]["generation"], **{k: v for k, v in counts.items() if v}}


def _progressed(before: Manifest, after: Manifest) -> bool:
    old_sets = [s.get("replicas", 0) - s.get("updatedReplicas", 0) for s in (before, after)]
    grew = any(after.get(f, 0) > before.get(f, 0) for f in ("updatedReplicas", "readyReplicas", "availableReplicas"))
    return grew or old_sets[1] < old_sets[0]


def _set_available(obj: Manifest, stamp: str) -> None:
    _, unavailable = _allowance(obj)
    enough = obj["status"].get("availableReplicas", 0) >= obj["spec"]["replicas"] - unavailable
    status, reason, message = (
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        if enough
        else ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    )
    found = condition_of(obj, "Available")
    moved = stamp if found is None or found["status"] != status else found["lastUpdateTime"]
    set_condition(obj, "Available", status, stamp, reason=reason, message=message, lastUpdateTime=moved)


def _complete(obj: Manifest) -> bool:
    status, wanted = obj["status"], obj["spec"]["replicas"]
    counts = [status.get(f, 0) for f in ("updatedReplicas", "replicas", "availableReplicas")]
    return all(n == wanted for n in counts)


def _set_progressing(obj: Manifest, fresh: Manifest | None, world: World, *, progressed: bool) -> None:
    name = fresh["metadata"]["name"] if fresh else ""
    before = condition_of(obj, "Progressing")
    stamp = world.stamp
    if obj["spec"].get("paused"):
        _progress(obj, "Unknown", "DeploymentPaused", "Deployment is paused", stamp, moved=False)
        return
    new_set = before is None or (name and f'"{name}"' not in before.get("message", ""))
    if _complete(obj):
        text = f'ReplicaSet "{name}" has successfully progressed.'
        _progress(obj, "True", "NewReplicaSetAvailable", text, stamp, moved=progressed)
    elif new_set or before is None or before["reason"] == "DeploymentPaused":
        text = f'Created new replica set "{name}"'
        _progress(obj, "True", "NewReplicaSetCreated", text, stamp, moved=True)
    elif progressed:
        text = f'ReplicaSet "{name}" is progressing.'
        _progress(obj, "True", "ReplicaSetUpdated", text, stamp, moved=True)
    elif before["reason"] not in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded"):
        deadline = parse_time(before["lastUpdateTime"]) + timedelta(seconds=obj["spec"]["progressDeadlineSeconds"])
        if world.now >= deadline:
            text = f'ReplicaSet "{name}" has timed out progressing.'
            _progress(obj, "False", "ProgressDeadlineExceeded", text, stamp, moved=True)


def _progress(obj: Manifest, status: str, reason: str, message: str, stamp: str, *, moved: bool) -> None:
    before = condition_of(obj, "Progressing")
    fresh = before is None or moved or (before["status"], before["reason"]) != (status, reason)
    updated = stamp if fresh or before is None else before["lastUpdateTime"]
    set_condition(obj, "Progressing", status, stamp, reason=reason, message=message, lastUpdateTime=updated)


def _deadline(deployment: Manifest) -> datetime | None:
    found = condition_of(deployment, "Progressing")
    if found is None or found["reason"] not in ("NewReplicaSetCreated", "ReplicaSetUpdated"):
        return None
    return parse_time(found["lastUpdateTime"]) + timedelta(seconds=deployment["spec"]["progressDeadlineSeconds"])
