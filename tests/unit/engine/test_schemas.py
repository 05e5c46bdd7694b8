"""What is written fits our definitions: a real API server drops silently what a structural schema does not name."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import yaml
from engine_kit import NOW, action, diagnosis, minutes, observation, plan, record, signal

from clusterheal.contracts import GuardVerdict, IncidentState, Outcome, SignalSource, Verdict
from clusterheal.engine.codec import encode
from clusterheal.engine.merge import MAX_OBSERVATIONS
from clusterheal.engine.policy import Policy, parse_policy
from clusterheal.engine.records import MAX_TIMELINE, Approval, Record, Request, TimelineEntry
from clusterheal.local.kube.structural import admit, prune

CRDS = Path(__file__).parents[3] / "manifests" / "cluster" / "crds"


def schema_of(plural: str) -> Any:
    definition = yaml.safe_load((CRDS / f"{plural}.clusterheal.io.yaml").read_text())
    (version,) = definition["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def full() -> Record:
    """An incident in which every field has a value."""
    noticed = signal(confidence=0.5, severity="critical", summary="s", details={"labels": {"a": "b"}})
    seen = replace(observation(noticed, resolved=minutes(1)), flaps=2)
    done = action(attempts=2, applied_at=NOW, done_at=NOW, result="applied", before={"replicas": 2})
    done = replace(done, parameters={"a": 1})
    return record(
        uid="u",
        kept={"annotations": {"ticket": "OPS-1"}},
        observations=(seen,),
        approval=Approval(decision="approve", by="ann", at=NOW, plan_id="p1"),
        request=Request(action="restart", parameters={"a": 1}, by="ann", at=NOW),
        state=IncidentState.RESOLVED,
        message="m",
        diagnosis=replace(diagnosis("ai", 0.9), evidence={"log": ["line"]}),
        plan=replace(plan(proof={"threshold": 0.9}), verify_promql="up"),
        plan_id="p1",
        planned_at=NOW,
        guards=(GuardVerdict(guard="mode", allowed=True, reason="r"),),
        deferred_by="deployment-other-1",
        action=done,
        rollback=done,
        outcome=Outcome(
            verdict=Verdict.HELPED, observed=0.4, counterfactual=0.6, explanation="e", finished_at=NOW + minutes(1)
        ),
        timeline=(TimelineEntry(at=NOW, state="Open", message="m"),),
        ended_at=NOW,
    )


def unset(value: Any, at: str = "") -> Iterator[str]:
    """Paths of fields that have no value, so that a new field cannot go by unnoticed."""
    if is_dataclass(value):
        for field in fields(value):
            yield from unset(getattr(value, field.name), f"{at}.{field.name}")
    elif value is None or value == () or value == {}:
        yield at
    elif isinstance(value, tuple):
        for index, entry in enumerate(value):
            yield from unset(entry, f"{at}[{index}]")


def test_every_field_of_an_incident_is_in_the_definition() -> None:
    made = full()
    assert not list(unset(made)), "the incident of this test must set every field"
    schema = schema_of("incidents")
    written = orjson.loads(orjson.dumps(encode(made)))
    kept = copy.deepcopy(written)
    prune(schema, kept, root=True)
    assert kept == written
    assert admit(schema, written, None) == []


def test_a_field_that_the_definition_lacks_is_found() -> None:
    schema = schema_of("incidents")
    del schema["properties"]["status"]["properties"]["outcome"]["properties"]["counterfactual"]
    written = encode(full())
    prune(schema, written, root=True)
    assert "counterfactual" not in written["status"]["outcome"]


def test_bounds_of_the_definition_are_the_engines() -> None:
    properties = schema_of("incidents")["properties"]
    status, spec = properties["status"]["properties"], properties["spec"]["properties"]
    assert set(status["state"]["enum"]) == {s.value for s in IncidentState}
    assert set(status["outcome"]["properties"]["verdict"]["enum"]) == {v.value for v in Verdict}
    signals = spec["signals"]
    assert set(signals["items"]["properties"]["source"]["enum"]) == {s.value for s in SignalSource}
    assert signals["maxItems"] >= MAX_OBSERVATIONS
    assert status["timeline"]["maxItems"] >= MAX_TIMELINE


POLICY = {
    "apiVersion": "clusterheal.io/v1alpha1",
    "kind": "RemediationPolicy",
    "metadata": {"name": "all"},
    "spec": {
        "mode": "auto",
        "actions": ["restart"],
        "targets": {
            "kinds": ["Deployment"],
            "namespaces": ["shop"],
            "names": ["cart"],
            "matchLabels": {"team": "shop"},
        },
        "autonomy": {"earn": True, "start": "suggest", "bar": 0.9, "forgiveBefore": "2026-01-01T00:00:00Z"},
        "confidenceFloor": 0.95,
        "cooldown": "1h30m",
        "limits": {
            "perTargetPerHour": 1,
            "perNamespacePerHour": 2,
            "perHour": 4,
            "concurrent": 1,
            "ineffectiveBeforeEscalation": 1,
            "repeatsBeforeEscalation": 2,
        },
        "scale": {"maxReplicas": 5, "step": 2},
        "resources": {"maxMemory": "2Gi", "maxCpu": "1500m"},
        "volumes": {"maxSize": "50Gi", "step": 0.1},
        "drain": {"ttl": "2h", "timeout": "10m"},
        "verify": {"after": "3m", "timeout": "20m"},
        "windows": [
            {"name": "n", "kind": "block", "days": ["Sat"], "start": "08:00", "end": "18:00", "timezone": "Asia/Tokyo"}
        ],
    },
}  # fmt: skip


def test_every_field_of_a_policy_is_in_the_definition_and_read() -> None:
    schema = schema_of("remediationpolicies")
    kept = copy.deepcopy(POLICY)
    prune(schema, kept, root=True)
    assert kept == POLICY
    assert admit(schema, kept, None) == []
    policy = parse_policy(kept)
    untouched = [
        f.name
        for f in fields(Policy)
        if getattr(policy, f.name) == (f.default if f.default_factory is MISSING else f.default_factory())
    ]
    assert not untouched, "the policy of this test must set every field to another value than its default"


def _paths(schema: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    inner = schema.get("items") if schema.get("type") == "array" else schema
    properties = (inner or {}).get("properties")
    if not properties:
        yield at
        return
    for name, below in properties.items():
        yield from _paths(below, (*at, name))


def test_a_policy_offers_nothing_that_is_not_read() -> None:
    offered = list(_paths(schema_of("remediationpolicies")))

    def has(value: Any, path: tuple[str, ...]) -> bool:
        for name in path:
            value = value[0] if isinstance(value, list) else value
            if name not in value:
                return False
            value = value[name]
        return True

    assert [p for p in offered if not has(POLICY, p)] == []
