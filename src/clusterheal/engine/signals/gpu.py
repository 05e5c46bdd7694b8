"""GPU errors by NVIDIA's XID numbers, as DCGM exports them.

`DCGM_FI_DEV_XID_ERRORS` is a gauge with the last XID and stays set after recovery: only a change opens a signal. It
ends when the gauge shows another number or the node has booted anew, which is how a recovery is observed.

The classes follow the immediate actions of NVIDIA's XID catalogue
(https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html): RESTART_APP is the application's, RESET_GPU,
RESTART_BM, RESTART_VM, CHECK_MECHANICALS and the ECC and NVLink workflows need the node emptied, IGNORE is no signal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

from clusterheal.contracts import ObjectRef, Signal, SignalSource
from clusterheal.engine.names import digest
from clusterheal.engine.signals.symptoms import Symptom
from clusterheal.engine.views import Snapshot

CURRENT_XIDS = "DCGM_FI_DEV_XID_ERRORS != 0"
CHANGED_XIDS = "DCGM_FI_DEV_XID_ERRORS != 0 and changes(DCGM_FI_DEV_XID_ERRORS[10m]) > 0"


class XidClass(StrEnum):
    APPLICATION = "application"
    HARDWARE = "hardware"
    IGNORED = "ignored"
    UNKNOWN = "unknown"


_APPLICATION = frozenset(
    {8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86, 88, 89, 94, 139}
    | set(range(96, 106))
    | set(range(126, 136))
)
_HARDWARE = frozenset(
    {46, 48, 54, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 151, 155, 156, 158} | set(range(144, 151))
)
_IGNORED = frozenset(
    {14, 37, 38, 43, 44, 45, 63, 66, 67, 92, 93, 106, 107, 108, 121, 137, 141, 152, 153, 154, 157, 160, 161}
)  # 43, 45 and 154 follow another XID, 63 is a row that was remapped well
_TEXT: Mapping[int, str] = {
    13: "graphics engine exception",
    31: "GPU memory page fault",
    48: "double-bit ECC error",
    62: "internal micro-controller halt",
    64: "GPU memory remapping failure",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    94: "contained memory error",
    95: "uncontained memory error",
    109: "context switch timeout",
    119: "GSP RPC timeout",
    120: "GSP error",
    140: "unrecovered ECC error",
}


class Sample(Protocol):
    """`clusterheal.metrics.client.Sample`."""

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def value(self) -> float: ...


def xid_class(xid: int) -> XidClass:
    """Whose fault an XID is, by NVIDIA's catalogue."""
    for known, kind in (
        (_APPLICATION, XidClass.APPLICATION),
        (_HARDWARE, XidClass.HARDWARE),
        (_IGNORED, XidClass.IGNORED),
    ):
        if xid in known:
            return kind
    return XidClass.UNKNOWN


def xid_signals(
    current: Sequence[Sample], changed: Sequence[Sample], snapshot: Snapshot, active: frozenset[str]
) -> Iterator[Signal]:
    """A signal for every XID that appeared lately, and for those already open that are still there."""
    fresh = {_key(s) for s in changed}
    for sample in current:
        kind = xid_class(int(sample.value))
        node = _node(sample.labels, snapshot)
        if kind is XidClass.IGNORED or node is None:
            continue
        boot = _boot_id(node, snapshot)
        fingerprint = f"xid-{digest(node.name, *_key(sample), boot, length=16)}"
        if _key(sample) in fresh or fingerprint in active:
            yield _signal(sample, kind, node, fingerprint, snapshot)


def _signal(sample: Sample, kind: XidClass, node: ObjectRef, fingerprint: str, snapshot: Snapshot) -> Signal:
    labels, xid = sample.labels, int(sample.value)
    user = _user(labels, snapshot)
    target = user if kind is XidClass.APPLICATION and user is not None else node
    text = f"XID {xid}" + (f" ({_TEXT[xid]})" if xid in _TEXT else "")
    details: dict[str, Any] = {
        "symptom": Symptom.GPU_FAULT.value,
        "xid": xid,
        "xid_class": kind.value,
        "gpu": labels.get("gpu") or labels.get("UUID"),
        "node": node.name,
        "used_by": None if user is None else str(user),
        "polled": True,
    }
    return Signal(
        source=SignalSource.ALERT,
        name="GpuXid",
        fingerprint=fingerprint,
        target=target,
        starts_at=snapshot.taken_at,
        severity="critical" if kind is XidClass.HARDWARE else "warning",
        summary=f"{text} on GPU {details['gpu']} of node {node.name}, class {kind.value}",
        details=details,
    )


def _key(sample: Sample) -> tuple[str, str, str]:
    labels = sample.labels
    host = labels.get("Hostname") or labels.get("hostname") or ""
    return host, labels.get("UUID") or labels.get("gpu") or "", str(int(sample.value))


def _node(labels: Mapping[str, str], snapshot: Snapshot) -> ObjectRef | None:
    host = labels.get("Hostname") or labels.get("hostname") or labels.get("node")
    return None if host is None else snapshot.node_by_address(host)


def _user(labels: Mapping[str, str], snapshot: Snapshot) -> ObjectRef | None:
    """The workload that had the GPU: `pod` and `namespace` are the exporter's own where Prometheus renamed them."""
    namespace = labels.get("exported_namespace") or labels.get("namespace")
    name = labels.get("exported_pod") or labels.get("pod")
    pod = snapshot.pods.get((namespace, name)) if namespace and name else None
    return None if pod is None else snapshot.root_of_pod(pod)


def _boot_id(node: ObjectRef, snapshot: Snapshot) -> str:
    manifest = snapshot.manifest(node) or {}
    return str(((manifest.get("status") or {}).get("nodeInfo") or {}).get("bootID") or "")
