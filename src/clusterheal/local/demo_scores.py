"""The report's second look: the served models' word on the fault's entity, over the incident."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import AnyHttpUrl

from clusterheal.contracts import DETECTOR
from clusterheal.errors import PermanentError
from clusterheal.inference.client import InferenceClient
from clusterheal.kube.ports import Manifest
from clusterheal.local.demo_incident import IncidentRun
from clusterheal.local.demo_platform import Platform
from clusterheal.local.faults import Fault
from clusterheal.local.report_scores import score_entity
from clusterheal.settings import PrometheusSettings

BEFORE = timedelta(seconds=60)
AFTER = timedelta(seconds=20)


def entity_of(fault: Fault) -> str:
    """The models' name for what the fault is on."""
    return f"instance/{fault.instance}" if fault.instance else f"workload/{fault.namespace}/{fault.workload}"


def proof_feature(incident: Manifest | None) -> str | None:
    """The feature that the engine's plan is verified by."""
    plan = ((incident or {}).get("status") or {}).get("plan") or {}
    feature = ((plan.get("parameters") or {}).get("proof") or {}).get("feature")
    return None if feature is None else str(feature)


async def scores_of(platform: Platform, run: IncidentRun, *, now: datetime) -> dict[str, Any]:
    """`Scores` of the fault's entity from a minute before the fault until shortly after the incident's end.

    Raises:
        PermanentError: a model server does not say which contract it serves.
        RetryableError, ContractMismatch: as the clients.
    """
    began = datetime.fromtimestamp(run.fault.started_at, UTC)
    engine = platform.settings.values["engine"]
    prometheus = PrometheusSettings(url=AnyHttpUrl(f"http://127.0.0.1:{platform.ports.prometheus}"))
    async with InferenceClient(engine["detector_url"]) as asking:
        contract = (await asking.metadata(DETECTOR)).contract
    if contract is None:
        raise PermanentError(f"{engine['detector_url']} does not say which contract it serves")
    async with (
        InferenceClient(engine["detector_url"], contract) as detector,
        InferenceClient(engine["forecaster_url"], contract) as forecaster,
    ):
        scores = await score_entity(
            prometheus,
            detector,
            forecaster,
            contract,
            entity_of(run.fault),
            start=began - BEFORE,
            end=min(now, began + timedelta(seconds=run.seconds) + AFTER),
            forecast_at=began,
            first=proof_feature(run.incident),
        )
    return scores.to_dict()


__all__ = ["entity_of", "proof_feature", "scores_of"]
