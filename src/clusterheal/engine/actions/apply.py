"""Carry out one intent: at most once, fenced, and only on the object it was meant for.

Once, because the change and a mark with the action's id are one patch, conditional on the resourceVersion that was read
just before: a second try finds the mark, and a try against an object that changed gets 409.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from clusterheal.clock import Clock
from clusterheal.engine.actions import ACTIONS
from clusterheal.engine.actions.base import Change, Gone, Refused, Stamp
from clusterheal.engine.names import ACTION, INCIDENT
from clusterheal.engine.records import ActionRecord
from clusterheal.engine.views import KINDS
from clusterheal.errors import RetryableError
from clusterheal.kube.ports import ApiError, ApiRetryable, Cluster, Manifest, PatchType
from clusterheal.kube.resources import REPLICA_SETS

SKEW = timedelta(seconds=5)  # how far two replicas' clocks may differ before an intent is believed to be over


class FenceLost(RetryableError):
    """The lease is not held firmly enough to write now; somebody else may be leading."""


class IntentExpired(RetryableError):
    """The time of this intent has passed without it being carried out; it never will be."""


@dataclass(frozen=True, kw_only=True)
class Applied:
    """`already`: an earlier try had carried it out."""

    target: Manifest
    already: bool


Fence = Callable[[], bool]
"""Whether this replica still leads, with enough time left for one more request."""


async def was_applied(cluster: Cluster, intent: ActionRecord) -> Manifest | None:
    """The target if it carries this intent's mark, else `None`.

    Raises:
        Gone, ApiError, ApiRetryable.
    """
    target = await _read(cluster, intent)
    return target if _mark(target) == intent.id else None


async def rehearse(cluster: Cluster, intent: ActionRecord, incident: str, *, clock: Clock) -> None:
    """Let the API server check the change without making it.

    Raises:
        Gone, Refused, ApiError, ApiRetryable: what carrying it out would raise.
    """
    target = await _read(cluster, intent)
    parameters = await _completed(cluster, intent)
    stamp = Stamp(action_id=intent.id, incident=incident, now=clock.now())
    change = _stamped(ACTIONS[intent.action].change(target, parameters, stamp), target, stamp)
    try:
        await _send(cluster, intent, change, dry_run=True)
    except ApiError as exc:
        raise Refused(_refusal(intent, exc)) from exc


async def apply(
    cluster: Cluster,
    intent: ActionRecord,
    incident: str,
    *,
    clock: Clock,
    fence: Fence,
    timeout_seconds: float,
) -> Applied:
    """Carry the intent out.

    Raises:
        Gone: the target is not there any more.
        Refused: it is not in the state that the plan was made for, or the API server refused for good.
        IntentExpired: too late; the intent was not and will not be carried out.
        FenceLost, ApiRetryable: not now; whether it was carried out shows at the next try.
        ApiError: 409, somebody changed the target in between: look again.
    """
    target = await _read(cluster, intent)
    if _mark(target) == intent.id:
        return Applied(target=target, already=True)
    if clock.now() > intent.not_after + SKEW:
        raise IntentExpired(f"intent {intent.id} ended at {intent.not_after:%H:%M:%S} UTC")
    action = ACTIONS[intent.action]
    parameters = await _completed(cluster, intent)
    stamp = Stamp(action_id=intent.id, incident=incident, now=clock.now())
    change = _stamped(action.change(target, parameters, stamp), target, stamp)
    try:
        async with asyncio.timeout(timeout_seconds):
            await _send(cluster, intent, change, dry_run=True)
        if not fence():
            raise FenceLost("the lease ran out before the write")
        if clock.now() >= intent.not_after:
            raise IntentExpired(f"intent {intent.id} ended at {intent.not_after:%H:%M:%S} UTC")
        async with asyncio.timeout(timeout_seconds):
            written = await _send(cluster, intent, change, dry_run=False)
    except TimeoutError as exc:
        raise ApiRetryable(f"no answer within {timeout_seconds} s") from exc
    except ApiError as exc:
        if exc.status in (404, 410):
            raise Gone(f"{intent.target} is gone: {exc}") from exc
        if exc.status == 409:
            raise
        raise Refused(_refusal(intent, exc)) from exc
    return Applied(target=written, already=False)


def _refusal(intent: ActionRecord, exc: ApiError) -> str:
    # Quotas and admission webhooks refuse with 403, too; only the authorizer says it in these words.
    if exc.status == 403 and "cannot patch" in exc.message:
        plural = KINDS[intent.target.kind].plural
        role, component = (
            ("clusterheal-node-act", "remediation-nodes")
            if intent.target.kind == "Node"
            else ("clusterheal-engine-act", "remediation-enforce")
        )
        return (
            f"the engine's service account may not patch {plural} in {intent.target.namespace or 'the cluster'}: "
            f"{exc.message}; bind ClusterRole {role} (component {component})"
        )
    return f"the API server refused {intent.action} on {intent.target}: {exc}"


async def _read(cluster: Cluster, intent: ActionRecord) -> Manifest:
    resource, ref = KINDS[intent.target.kind], intent.target
    try:
        target = await cluster.get(resource, ref.name, namespace=ref.namespace)
    except ApiError as exc:
        if exc.status == 404:
            raise Gone(f"{ref} does not exist any more") from exc
        raise
    if ref.uid is not None and target["metadata"].get("uid") != ref.uid:
        raise Gone(f"{ref} was replaced by another object of that name")
    return target


async def _completed(cluster: Cluster, intent: ActionRecord) -> Mapping[str, Any]:
    """Parameters, with the template of the ReplicaSet to return to: too large to store in an incident."""
    if intent.action != "undo":
        return intent.parameters
    name = str(intent.parameters["replica_set"])
    try:
        found = await cluster.get(REPLICA_SETS, name, namespace=intent.target.namespace)
    except ApiError as exc:
        if exc.status != 404:
            raise
        raise Refused(f"ReplicaSet {name} to return to does not exist any more") from exc
    return {**intent.parameters, "template": found["spec"]["template"]}


def _mark(target: Manifest) -> str | None:
    mark: str | None = (target["metadata"].get("annotations") or {}).get(ACTION)
    return mark


def _stamped(change: Change, target: Manifest, stamp: Stamp) -> Change:
    """The change with its mark and the resourceVersion it rests on."""
    version = target["metadata"]["resourceVersion"]
    notes = {ACTION: stamp.action_id, INCIDENT: stamp.incident}
    if change.patch_type is PatchType.JSON:
        all_notes = {**(target["metadata"].get("annotations") or {}), **notes}
        extra = [
            {"op": "add", "path": "/metadata/annotations", "value": all_notes},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
        ]
        return replace(change, patch=[*change.patch, *extra])
    patch = copy.deepcopy(change.patch)
    metadata = patch.setdefault("metadata", {})
    metadata["resourceVersion"] = version
    metadata["annotations"] = {**metadata.get("annotations", {}), **notes}
    return replace(change, patch=patch)


async def _send(cluster: Cluster, intent: ActionRecord, change: Change, *, dry_run: bool) -> Manifest:
    return await cluster.patch(
        KINDS[intent.target.kind],
        intent.target.name,
        change.patch,
        patch_type=change.patch_type,
        namespace=intent.target.namespace,
        field_manager=change.field_manager,
        dry_run=dry_run,
    )
