"""What decisions ask Prometheus for: whether an action helped, what a container used, when a volume is full."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from clusterheal.contracts import ObjectRef
from clusterheal.engine.records import Record
from clusterheal.engine.signals.prometheus import Queries
from clusterheal.engine.signals.symptoms import Symptom, symptom
from clusterheal.engine.world import Usage, World
from clusterheal.errors import ClusterhealError

log = logging.getLogger(__name__)

AGAIN = timedelta(minutes=2)  # usage over a day hardly moves; it is not asked for every round
SPAN = "1d"
PODS_OF: Mapping[str, str] = {
    "Deployment": "{}-[a-z0-9]+-[a-z0-9]{{5}}",
    "StatefulSet": "{}-[0-9]+",
    "DaemonSet": "{}-[a-z0-9]{{5}}",
}
SERIES = {
    Symptom.OOM_KILLED: "container_memory_working_set_bytes{{{0}}}[{1}]",
    Symptom.CPU_THROTTLING: "rate(container_cpu_usage_seconds_total{{{0}}}[5m])[{1}:5m]",
}


class Measurements:
    """Adds measurements to a world; what cannot be measured is left out, and proves nothing."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._usage: dict[str, tuple[World, Usage]] = {}

    async def __call__(self, world: World) -> World:
        measured: dict[str, float] = {}
        usage: dict[str, Usage] = {}
        full_at = {}
        for record in world.open_records:
            if record.plan is not None and record.plan.verify_promql is not None and record.action is not None:
                value = await self._value(record.plan.verify_promql)
                if value is not None:
                    measured[record.name] = value
                continue
            found = await self._used(record, world)
            if found is not None:
                usage[record.name] = found
            if record.target.kind == "PersistentVolumeClaim" and record.action is None:
                seconds = await self._value(_seconds_left(record.target))
                if seconds is not None and 0 < seconds < timedelta(days=365).total_seconds():
                    full_at[record.name] = world.now + timedelta(seconds=seconds)
        self._usage = {name: kept for name, kept in self._usage.items() if name in world.records}
        return replace(world, measurements={**world.measurements, **measured}, usage=usage, full_at=full_at)

    async def _used(self, record: Record, world: World) -> Usage | None:
        """Of the target's pods over the last day; the highest of any pod counts."""
        kinds = {symptom(o.signal) for o in record.active}
        series = next((SERIES[s] for s in SERIES if s in kinds), None)
        pattern = PODS_OF.get(record.target.kind)
        if series is None or pattern is None or record.action is not None:
            return None
        kept = self._usage.get(record.name)
        if kept is not None and world.now - kept[0].now < AGAIN:
            return kept[1]
        pods = pattern.format(re.escape(record.target.name).replace("\\", "\\\\"))
        selector = f'namespace="{record.target.namespace}",pod=~"{pods}",container!="",container!="POD"'
        over = series.format(selector, SPAN)
        values = [
            await self._value(f"max({query})")
            for query in (
                f"quantile_over_time(0.5, {over})",
                f"quantile_over_time(0.99, {over})",
                f"max_over_time({over})",
            )
        ]
        if any(v is None for v in values):
            return None
        median, p99, peak = (float(v or 0.0) for v in values)
        found = Usage(median=median, p99=p99, peak=peak)
        self._usage[record.name] = (world, found)
        return found

    async def _value(self, promql: str) -> float | None:
        try:
            samples = await self._queries.query(promql)
        except ClusterhealError as exc:
            log.warning("not measured", extra={"query": promql, "error": str(exc)})
            return None
        return next((s.value for s in samples if math.isfinite(s.value)), None)


def _seconds_left(claim: ObjectRef) -> str:
    """Until a volume is full, by its rate over six hours; nothing while it does not fill."""
    series = (
        f'kubelet_volume_stats_available_bytes{{namespace="{claim.namespace}",persistentvolumeclaim="{claim.name}"}}'
    )
    return f"min({series} / -(deriv({series}[6h]) < 0))"
