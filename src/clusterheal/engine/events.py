"""Kubernetes Events on incidents, so that `kubectl describe incident` and event viewers tell the story."""

from __future__ import annotations

import logging

from clusterheal.clock import Clock
from clusterheal.engine.codec import API_VERSION, encode_ref, format_time
from clusterheal.engine.names import FIELD_MANAGER, digest
from clusterheal.engine.records import Record
from clusterheal.errors import ClusterhealError
from clusterheal.kube.ports import Cluster
from clusterheal.kube.resources import EVENTS

log = logging.getLogger(__name__)

MAX_MESSAGE = 1000  # bytes; the API server refuses more than 1024, and counts bytes


async def write_event(
    cluster: Cluster, clock: Clock, identity: str, record: Record, kind: str, reason: str, message: str
) -> None:
    """Best effort: an Event that cannot be written must not hold up a remediation, the incident tells it all anyway."""
    now = format_time(clock.now())
    target = encode_ref(record.target)
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{record.name}.{digest(record.name, reason, now, length=16)}",
            "namespace": record.namespace,
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": "Incident",
            "namespace": record.namespace,
            "name": record.name,
            **({"uid": record.uid} if record.uid else {}),
        },
        "related": target,
        "type": kind,
        "reason": reason,
        "message": _cut(f"{record.target}: {message}"),
        "action": reason,
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": identity,
        "source": {"component": FIELD_MANAGER},
        "eventTime": now,
        "firstTimestamp": f"{now[:19]}Z",
        "lastTimestamp": f"{now[:19]}Z",
        "count": 1,
    }
    try:
        await cluster.create(EVENTS, body, namespace=record.namespace)
    except ClusterhealError as exc:
        log.warning("event not written", extra={"incident": record.name, "error": str(exc)})


def _cut(text: str) -> str:
    return text.encode()[:MAX_MESSAGE].decode(errors="ignore")
