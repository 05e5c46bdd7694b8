"""A note on an object that Git owns: what should be done about it, for whoever looks there.

An annotation that Git does not name is neither a difference to Argo CD nor reverted by it, and on the object itself,
not on its pod template, it restarts nothing.
"""

from __future__ import annotations

import logging
from datetime import datetime

from clusterheal.contracts import IncidentState
from clusterheal.engine.names import SUGGESTION
from clusterheal.engine.records import Record
from clusterheal.engine.views import KINDS
from clusterheal.kube.ports import ApiError, Cluster, PatchType

log = logging.getLogger(__name__)

LONGEST = 2000  # characters
WANTED = "annotate"  # in a diagnosis' evidence: the policy lets the engine write to the object


def to_be_noted(before: Record, after: Record) -> bool:
    """Whether this step hands an incident over, and may say so on the object."""
    ends = after.state is IncidentState.SUGGESTED and before.state is not IncidentState.SUGGESTED
    return ends and after.diagnosis is not None and bool(after.diagnosis.evidence.get(WANTED))


async def note(cluster: Cluster, record: Record, now: datetime) -> None:
    """Write the note; the same one again where an earlier try was interrupted. What is refused for good is logged.

    Raises:
        ApiRetryable: no answer; the incident has not ended yet and is handed over in the next round.
    """
    assert record.diagnosis is not None
    target = record.target
    text = f"{now:%Y-%m-%d %H:%M} UTC, incident {record.name}: {record.diagnosis.explanation}"
    metadata = {"annotations": {SUGGESTION: text[:LONGEST]}, **({"uid": target.uid} if target.uid else {})}
    try:
        await cluster.patch(
            KINDS[target.kind],
            target.name,
            {"metadata": metadata},
            patch_type=PatchType.MERGE,
            namespace=target.namespace,
        )
    except ApiError as exc:
        log.warning("suggestion not noted", extra={"incident": record.name, "target": str(target), "error": str(exc)})
