"""Stop all automation, with an expiry: one ConfigMap that every replica follows."""

from __future__ import annotations

from datetime import datetime

from clusterheal.engine.codec import format_time, parse_time
from clusterheal.engine.names import PAUSE_CONFIG_MAP
from clusterheal.engine.views import Snapshot
from clusterheal.engine.world import Pause
from clusterheal.errors import InvalidInput
from clusterheal.kube.ports import ApiError, Cluster, Manifest
from clusterheal.kube.resources import CONFIG_MAPS


def read_pause(snapshot: Snapshot) -> Pause | None:
    """The pause in force or expired; what cannot be read pauses without an end, and so does a refused read."""
    if CONFIG_MAPS in snapshot.unreadable:
        return Pause(until=None, reason=snapshot.unreadable[CONFIG_MAPS], by="(unreadable)")
    found = next((o for o in snapshot.all(CONFIG_MAPS) if o["metadata"]["name"] == PAUSE_CONFIG_MAP), None)
    if found is None:
        return None
    data = found.get("data") or {}
    text = data.get("until")
    try:
        until = None if text is None else parse_time(text)
    except InvalidInput as exc:
        return Pause(until=None, reason=f"{PAUSE_CONFIG_MAP}: {exc}", by=data.get("by", "unknown"))
    return Pause(until=until, reason=data.get("reason", ""), by=data.get("by", "unknown"))


async def write_pause(cluster: Cluster, namespace: str, pause: Pause) -> Manifest:
    """Pause, or replace the pause in force.

    Raises:
        ApiError, ApiRetryable.
    """
    data = {"reason": pause.reason, "by": pause.by}
    if pause.until is not None:
        data["until"] = format_time(pause.until)
    body: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": PAUSE_CONFIG_MAP, "namespace": namespace},
        "data": data,
    }
    try:
        return await cluster.create(CONFIG_MAPS, body, namespace=namespace)
    except ApiError as exc:
        if exc.status != 409:
            raise
    found = await cluster.get(CONFIG_MAPS, PAUSE_CONFIG_MAP, namespace=namespace)
    return await cluster.update(CONFIG_MAPS, {**found, "data": data}, namespace=namespace)


async def lift_pause(cluster: Cluster, namespace: str) -> bool:
    """End the pause; `False` when there was none."""
    try:
        await cluster.delete(CONFIG_MAPS, PAUSE_CONFIG_MAP, namespace=namespace)
    except ApiError as exc:
        if exc.status == 404:
            return False
        raise
    return True


def still_paused(pause: Pause | None, now: datetime) -> bool:
    return pause is not None and (pause.until is None or now < pause.until)
