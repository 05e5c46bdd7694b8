"""What the engine may do: RemediationPolicy custom resources, and the strictest of those that match."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from clusterheal.contracts import ObjectRef
from clusterheal.engine.codec import parse_time
from clusterheal.engine.quantities import duration, quantity
from clusterheal.errors import InvalidInput
from clusterheal.kube.ports import Manifest

MODES = ("observe", "suggest", "approve", "auto")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def is_system(namespace: str | None) -> bool:
    """Whether the cluster itself lives there: Kubernetes reserves `kube-`, OpenShift `openshift` and `openshift-`."""
    return namespace is not None and (namespace.startswith(("kube-", "openshift-")) or namespace == "openshift")


def strictest(*modes: str) -> str:
    return MODES[min(MODES.index(m) for m in modes)]


@dataclass(frozen=True, kw_only=True)
class Window:
    """A time of the week, possibly over midnight. `kind` is `allow` or `block`."""

    name: str
    kind: str
    days: frozenset[str]
    start: time
    end: time
    zone: ZoneInfo

    def contains(self, now: datetime) -> bool:
        local = now.astimezone(self.zone)
        clock = local.time()
        if self.start <= self.end:
            return DAYS[local.weekday()] in self.days and self.start <= clock < self.end
        if clock >= self.start:
            return DAYS[local.weekday()] in self.days
        return clock < self.end and DAYS[local.weekday() - 1] in self.days


@dataclass(frozen=True, kw_only=True)
class Autonomy:
    """How a (action, kind of target) earns its mode. `bar`: what the Wilson lower bound has to reach."""

    earn: bool = False
    start: str = "approve"
    bar: float = 0.8
    forgive_before: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One policy, or the effective one: every limit is the strictest of those that match.

    `None` for a bound means: none given. Without `memory_max`, `cpu_max` or `volume_max` (bytes, cores, bytes) nothing
    of that kind is raised: how large it may get is somebody's decision and somebody's bill.
    """

    name: str
    mode: str
    actions: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    match_labels: Mapping[str, str] = field(default_factory=dict)
    autonomy: Autonomy = field(default_factory=Autonomy)
    confidence_floor: float = 0.0
    cooldown: timedelta = timedelta(minutes=15)
    per_target_per_hour: int = 3
    per_namespace_per_hour: int = 10
    per_hour: int = 20
    concurrent: int = 3
    ineffective_before_escalation: int = 2
    repeats_before_escalation: int = 4
    scale_max_replicas: int = 10
    scale_step: int = 1
    drain_ttl: timedelta = timedelta(hours=4)
    drain_timeout: timedelta = timedelta(minutes=30)
    memory_max: float | None = None
    cpu_max: float | None = None
    volume_max: float | None = None
    volume_step: float = 0.25
    verify_after: timedelta | None = None
    verify_timeout: timedelta | None = None
    windows: tuple[Window, ...] = ()

    def matches(self, action: str, target: ObjectRef, labels: Mapping[str, str]) -> bool:
        return (
            (not self.actions or action in self.actions or (action == "uncordon" and "drain" in self.actions))
            and (not self.kinds or target.kind in self.kinds)
            and (not self.namespaces or target.namespace in self.namespaces or target.kind == "Node")
            and (not self.names or target.name in self.names)
            and all(labels.get(k) == v for k, v in self.match_labels.items())
        )


@dataclass(frozen=True, kw_only=True)
class PolicySet:
    """All policies of the engine's namespace. `problems`: those that could not be read, by name, with the reason."""

    policies: tuple[Policy, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)

    def effective(self, action: str, target: ObjectRef, labels: Mapping[str, str]) -> Policy:
        """The strictest combination of the policies that match; without one: observe.

        An unreadable policy might have been meant for this target, so it holds everything at observe. In the cluster's
        own namespaces a policy that names none still restricts, but only one that names them permits.
        """
        if self.problems:
            name, problem = sorted(self.problems.items())[0]
            return Policy(name=f"(invalid {name}: {problem})", mode="observe")
        matching = [p for p in self.policies if p.matches(action, target, labels)]
        if not matching:
            return Policy(name="(none matches)", mode="observe")
        if is_system(target.namespace) and not any(target.namespace in p.namespaces for p in matching):
            return Policy(name=f"(none names the system namespace {target.namespace})", mode="observe")
        return _combine(matching)


def _combine(policies: list[Policy]) -> Policy:
    first = min(policies, key=lambda p: MODES.index(p.mode))
    earning = [p.autonomy for p in policies if p.autonomy.earn]
    forgiven = [p.autonomy.forgive_before for p in policies]
    autonomy = Autonomy(
        earn=bool(earning),
        start=strictest(*(a.start for a in earning)) if earning else "approve",
        bar=max((a.bar for a in earning), default=0.8),
        forgive_before=None if None in forgiven else min(t for t in forgiven if t is not None),
    )
    after = [p.verify_after for p in policies if p.verify_after is not None]
    timeout = [p.verify_timeout for p in policies if p.verify_timeout is not None]
    return Policy(
        name="+".join(sorted(p.name for p in policies)),
        mode=first.mode,
        autonomy=autonomy,
        confidence_floor=max(p.confidence_floor for p in policies),
        cooldown=max(p.cooldown for p in policies),
        per_target_per_hour=min(p.per_target_per_hour for p in policies),
        per_namespace_per_hour=min(p.per_namespace_per_hour for p in policies),
        per_hour=min(p.per_hour for p in policies),
        concurrent=min(p.concurrent for p in policies),
        ineffective_before_escalation=min(p.ineffective_before_escalation for p in policies),
        repeats_before_escalation=min(p.repeats_before_escalation for p in policies),
        scale_max_replicas=min(p.scale_max_replicas for p in policies),
        scale_step=min(p.scale_step for p in policies),
        drain_ttl=min(p.drain_ttl for p in policies),
        drain_timeout=min(p.drain_timeout for p in policies),
        memory_max=_least(p.memory_max for p in policies),
        cpu_max=_least(p.cpu_max for p in policies),
        volume_max=_least(p.volume_max for p in policies),
        volume_step=min(p.volume_step for p in policies),
        verify_after=max(after, default=None),
        verify_timeout=max(timeout, default=None),
        windows=tuple(w for p in policies for w in p.windows),
    )


def _least(bounds: Iterable[float | None]) -> float | None:
    return min((b for b in bounds if b is not None), default=None)


def parse_policies(objects: Iterable[Manifest]) -> PolicySet:
    """Read every policy; one that is invalid is reported in `problems` and never ignored."""
    policies, problems = [], {}
    for obj in objects:
        name = obj["metadata"]["name"]
        try:
            policies.append(parse_policy(obj))
        except InvalidInput as exc:
            problems[name] = str(exc)
    return PolicySet(policies=tuple(policies), problems=problems)


def parse_policy(obj: Manifest) -> Policy:
    """One policy.

    Raises:
        InvalidInput: a value that the schema cannot check (time zone, duration, mode) or that bypassed it.
    """
    name, spec = obj["metadata"]["name"], obj.get("spec") or {}
    try:
        if spec.get("mode") not in MODES:
            raise InvalidInput(f"spec.mode: expected one of {MODES}, got {spec.get('mode')!r}")
        targets, limits = spec.get("targets") or {}, spec.get("limits") or {}
        scale, drain, verify = spec.get("scale") or {}, spec.get("drain") or {}, spec.get("verify") or {}
        resources, volumes = spec.get("resources") or {}, spec.get("volumes") or {}
        given: dict[str, Any] = {
            "cooldown": _opt_duration(spec.get("cooldown")),
            "per_target_per_hour": limits.get("perTargetPerHour"),
            "per_namespace_per_hour": limits.get("perNamespacePerHour"),
            "per_hour": limits.get("perHour"),
            "concurrent": limits.get("concurrent"),
            "ineffective_before_escalation": limits.get("ineffectiveBeforeEscalation"),
            "repeats_before_escalation": limits.get("repeatsBeforeEscalation"),
            "scale_max_replicas": scale.get("maxReplicas"),
            "scale_step": scale.get("step"),
            "drain_ttl": _opt_duration(drain.get("ttl")),
            "drain_timeout": _opt_duration(drain.get("timeout")),
            "verify_after": _opt_duration(verify.get("after")),
            "verify_timeout": _opt_duration(verify.get("timeout")),
            "confidence_floor": spec.get("confidenceFloor"),
            "memory_max": _opt_quantity(resources.get("maxMemory")),
            "cpu_max": _opt_quantity(resources.get("maxCpu")),
            "volume_max": _opt_quantity(volumes.get("maxSize")),
            "volume_step": volumes.get("step"),
        }
        return Policy(
            name=name,
            mode=spec["mode"],
            actions=frozenset(spec.get("actions") or ()),
            kinds=frozenset(targets.get("kinds") or ()),
            namespaces=frozenset(targets.get("namespaces") or ()),
            names=frozenset(targets.get("names") or ()),
            match_labels=targets.get("matchLabels") or {},
            autonomy=_autonomy(spec.get("autonomy") or {}),
            windows=tuple(_window(w) for w in spec.get("windows") or ()),
            **{k: v for k, v in given.items() if v is not None},
        )
    except InvalidInput as exc:
        raise InvalidInput(f"RemediationPolicy {name}: {exc}") from exc
    except (KeyError, TypeError, ValueError) as exc:
        raise InvalidInput(f"RemediationPolicy {name}: {exc!r}") from exc


def _opt_duration(value: str | None) -> timedelta | None:
    return None if value is None else duration(value)


def _opt_quantity(value: str | float | None) -> float | None:
    return None if value is None else quantity(value)


def _autonomy(data: Mapping[str, Any]) -> Autonomy:
    start = data.get("start", "approve")
    if start not in MODES:
        raise InvalidInput(f"spec.autonomy.start: expected one of {MODES}, got {start!r}")
    forgive = data.get("forgiveBefore")
    return Autonomy(
        earn=bool(data.get("earn", False)),
        start=start,
        bar=float(data.get("bar", 0.8)),
        forgive_before=None if forgive is None else parse_time(forgive),
    )


def _window(data: Mapping[str, Any]) -> Window:
    zone = data.get("timezone", "UTC")
    try:
        info = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise InvalidInput(f"spec.windows: unknown time zone {zone!r}; expected a name such as Europe/Zurich") from exc
    if data.get("kind") not in ("allow", "block"):
        raise InvalidInput(f"spec.windows: kind must be allow or block, got {data.get('kind')!r}")
    return Window(
        name=data.get("name", data["kind"]),
        kind=data["kind"],
        days=frozenset(data.get("days") or DAYS),
        start=time.fromisoformat(data["start"]),
        end=time.fromisoformat(data["end"]),
        zone=info,
    )
