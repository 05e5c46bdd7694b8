"""A node's file system that fills up, before the kubelet calls it pressure: people free it, with the time they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from clusterheal.contracts import SignalSource
from clusterheal.engine.diagnosis.case import Case, Finding, report
from clusterheal.engine.signals.symptoms import Symptom


def diagnose(case: Case) -> Finding | None:
    """Explain; `DiskPressure` itself is a node in trouble and is drained by that rule, which comes first."""
    seen = case.of(Symptom.NODE_DISK)
    if not seen or any(o.signal.details.get("condition") == "DiskPressure" for o in seen):
        return None
    labels: Mapping[str, str] = next((o.signal.details["labels"] for o in seen if "labels" in o.signal.details), {})
    crossing = next((o.signal.details["crosses_at"] for o in seen if "crosses_at" in o.signal.details), None)
    where = f" {labels['mountpoint']} ({labels.get('device', '?')})" if "mountpoint" in labels else ""
    when = f"; it is forecast to pass its threshold at {crossing}" if crossing else ""
    found = report(
        case,
        cause="node-disk-filling",
        explanation=f"File system{where} of {case.record.target} fills up{when}. At 85 % the kubelet removes unused "
        "images, at 90 % it evicts pods; only then would moving pods help. Look for logs, images and emptyDir volumes: "
        f"oc adm top images; oc debug {str(case.record.target).replace(' ', '/').lower()} -- chroot /host du -xh /var",
        evidence={"mountpoint": labels.get("mountpoint"), "device": labels.get("device"), "crosses_at": crossing},
    )
    return replace(found, final=any(o.signal.source is not SignalSource.DETECTOR for o in seen))
