"""Signals: what sources say, which object they mean, and how repeats, resolves and replays add up."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from engine_kit import CART, NOW, deployment, forecast, minutes, node, observation, past, pod, record, signal, snapshot

from clusterheal.contracts import (
    Detection,
    EntityKind,
    FeatureContract,
    FeatureSpec,
    ObjectRef,
    SignalSource,
    default_window,
)
from clusterheal.engine.codec import decode, encode
from clusterheal.engine.correlate import target_of_entity, target_of_labels
from clusterheal.engine.merge import is_old_news, merge_signal
from clusterheal.engine.signals.alertmanager import parse_webhook
from clusterheal.engine.signals.kubernetes import scan
from clusterheal.engine.signals.models import Path, default_threshold, detection_signal, forecast_signals, path_of
from clusterheal.engine.signals.symptoms import Symptom, symptom_of_alert, symptom_of_feature
from clusterheal.engine.views import ContainerView, pod_view
from clusterheal.errors import InvalidInput
from clusterheal.kube.resources import DEPLOYMENTS, NODES

LINGER = minutes(30)


def alert(status: str = "firing", starts: datetime = NOW, **labels: str) -> dict[str, Any]:
    named = {"alertname": "MemoryLeakPredicted", "namespace": "shop", "workload": "cart", **labels}
    return {"status": status, "labels": named, "annotations": {"summary": "s"}, "startsAt": starts.isoformat()}


def webhook(*alerts: Any, version: str = "4") -> dict[str, Any]:
    return {"version": version, "groupKey": "g", "alerts": list(alerts)}


def test_a_group_of_alerts_becomes_signals_on_the_workload() -> None:
    parsed = parse_webhook(webhook(alert(), alert("resolved", workload="checkout")), snapshot())
    assert [(str(s.target), s.resolved) for s in parsed.signals] == [
        ("Deployment shop/cart", False),
        ("Deployment shop/checkout", True),
    ]
    assert parsed.signals[0].target.uid == "uid-cart"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ([], "expected an Alertmanager webhook object"),
        (webhook(version="3"), "version"),
        ({"version": "4"}, "alerts: expected a list"),
        (webhook("x"), "alerts[0]: expected an object"),
        (webhook(alert(status="broken")), "status: expected firing or resolved"),
        (webhook({"status": "firing", "labels": {"alertname": "A"}}), "startsAt"),
        (webhook({**alert(), "labels": {"alertname": 3}}), "labels: expected an object of strings"),
        (webhook({**alert(), "labels": {}}), "expected an alertname"),
        (webhook({**alert(), "startsAt": "yesterday"}), "RFC 3339"),
        (webhook(*[alert()] * 1001), "at most 1000"),
    ],
)
def test_malformed_notifications_are_refused_by_name(payload: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says.replace("[", r"\[").replace("]", r"\]")):
        parse_webhook(payload, snapshot())


def test_an_alert_about_nothing_we_know_is_reported_not_invented() -> None:
    parsed = parse_webhook(webhook(alert(namespace="elsewhere")), snapshot())
    assert parsed.signals == ()
    assert parsed.unmapped[0]["namespace"] == "elsewhere"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"namespace": "shop", "deployment": "cart"}, "Deployment shop/cart"),
        ({"namespace": "shop", "workload": "cart", "workload_type": "deployment"}, "Deployment shop/cart"),
        ({"namespace": "shop", "pod": "cart-2-a"}, "Deployment shop/cart"),
        ({"namespace": "shop", "pod": "cart-77aa-zz9q"}, "Deployment shop/cart"),  # replaced already
        ({"namespace": "shop", "pod": "cart-2-a", "node": "worker-0"}, "Deployment shop/cart"),
        ({"node": "worker-1"}, "Node worker-1"),
        ({"instance": "worker-1:9100"}, "Node worker-1"),
        ({"instance": "10.0.0.9:9100"}, "Node worker-2"),
        ({"instance": "machine-1-1"}, "Deployment shop/checkout"),  # by annotation
        ({"pool": "worker"}, "MachineConfigPool worker"),
        ({"namespace": "shop", "deployment": "gone"}, "None"),
        ({"namespace": "shop", "instance": "worker-1:9100"}, "None"),  # an app's target is not its node
        ({"job": "cart", "namespace": "shop"}, "None"),  # Prometheus' scrape job is no workload
        ({}, "None"),
    ],
)
def test_labels_name_the_owning_object(labels: dict[str, str], expected: str) -> None:
    third = node("worker-2")
    third["status"]["addresses"] = [{"type": "InternalIP", "address": "10.0.0.9"}]
    mapped = deployment("checkout", annotations={"clusterheal.io/instance": "machine-1-1"})
    seen = snapshot((NODES, third), (DEPLOYMENTS, mapped))
    assert str(target_of_labels(labels, seen)) == expected


@pytest.mark.parametrize(
    ("entity", "expected"),
    [
        ("workload/shop/cart", "Deployment shop/cart"),
        ("node/worker-0", "Node worker-0"),
        ("instance/machine-1-1", "Deployment shop/checkout"),
        ("workload/shop/gone", "None"),
        ("etcd/10.0.0.1%3A2379", "None"),
    ],
)
def test_entities_of_the_models_map_to_objects(entity: str, expected: str) -> None:
    mapped = deployment("checkout", annotations={"clusterheal.io/instance": "machine-1-1"})
    assert str(target_of_entity(entity, snapshot((DEPLOYMENTS, mapped)))) == expected


def test_meaning_is_read_from_whole_words() -> None:
    assert symptom_of_alert({"alertname": "PostgresDown"}) is Symptom.OTHER
    assert symptom_of_alert({"alertname": "CartMemoryLeak"}) is Symptom.MEMORY_LEAK
    assert symptom_of_alert({"alertname": "Custom", "clusterheal_io_symptom": "saturation"}) is Symptom.SATURATION
    assert symptom_of_feature("workload_memory_of_limit", SignalSource.DETECTOR) is Symptom.MEMORY_LEAK
    assert symptom_of_feature("m07", SignalSource.DETECTOR) is Symptom.ANOMALY


def test_a_repeat_changes_nothing_but_keeps_the_signal_fresh() -> None:
    known = (observation(signal(), age=timedelta(seconds=10)),)
    assert merge_signal(known, signal(), NOW) is None
    refreshed = merge_signal((observation(signal(), age=minutes(2)),), signal(), NOW)
    assert refreshed is not None
    assert refreshed[0].last_seen == NOW


def test_a_resolve_ends_its_episode_only() -> None:
    later = signal(age=minutes(1))
    known = (observation(later),)
    assert merge_signal(known, replace(later, starts_at=NOW - minutes(9), resolved=True), NOW) is None
    ended = merge_signal(known, replace(later, resolved=True), NOW)
    assert ended is not None
    assert not ended[0].active


def test_a_late_repeat_of_a_resolved_episode_is_ignored_and_a_new_episode_is_a_flap() -> None:
    known = (observation(signal(age=minutes(5)), resolved=minutes(1)),)
    assert merge_signal(known, signal(age=minutes(5)), NOW) is None
    again = merge_signal(known, signal(age=minutes(0)), NOW)
    assert again is not None
    assert (again[0].active, again[0].flaps) == (True, 1)


def test_a_resolve_without_a_firing_opens_nothing() -> None:
    assert merge_signal((), signal(resolved=True), NOW) is None


@pytest.mark.parametrize(
    ("seen", "ended_ago", "old"),
    [
        (signal(age=minutes(40)), minutes(10), True),  # the episode that was dealt with, still firing
        (signal(age=minutes(40)), minutes(31), False),  # it lingers too long: the cure did not cure
        (signal(age=minutes(5)), minutes(10), False),  # a new episode
        (signal("saturation", age=minutes(200)), minutes(10), True),  # began before, replayed after a break
        (signal("saturation", age=minutes(2)), minutes(10), False),
    ],
)
def test_what_was_dealt_with_opens_nothing_new(seen: Any, ended_ago: timedelta, old: bool) -> None:
    ended = past(observations=(observation(signal(age=minutes(40))),), opened_at=NOW - minutes(40))
    ended = replace(ended, ended_at=NOW - ended_ago)
    assert is_old_news(ended, seen, NOW, LINGER) is old


def waiting(reason: str, **changes: Any) -> Any:
    view = ContainerView(
        name="main",
        image="shop:2",
        ready=False,
        restarts=3,
        waiting=reason,
        waiting_message="m",
        last_reason=None,
        last_exit_code=1,
        last_finished_at=None,
        memory_limit="1Gi",
    )
    return pod(ready=False, containers=(replace(view, **changes),))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (waiting("CrashLoopBackOff"), Symptom.CRASH_LOOP),
        (waiting("CrashLoopBackOff", last_reason="OOMKilled"), Symptom.OOM_KILLED),
        (waiting("ImagePullBackOff"), Symptom.IMAGE_PULL),
        (waiting("ContainerCreating"), None),
        (pod(phase="Pending", unschedulable="0/3 nodes: Insufficient cpu"), Symptom.UNSCHEDULABLE),
        (pod(phase="Pending", unschedulable="x", created_at=NOW.isoformat()), None),  # just created
    ],
)
def test_pods_in_trouble_are_seen_on_their_owner(seen: Any, expected: Symptom | None) -> None:
    found = scan(snapshot(pods=(seen, pod("cart-2-b"))))
    assert [s.name for s in found] == ([expected.value] if expected else [])
    assert all(str(s.target) == "Deployment shop/cart" for s in found)


def test_two_pods_of_one_workload_are_one_signal() -> None:
    first = waiting("CrashLoopBackOff")
    found = scan(snapshot(pods=(first, replace(first, name="cart-2-b"))))
    assert len(found) == 1
    assert found[0].details["pods"] == ["cart-2-a", "cart-2-b"]


def test_a_pods_manifest_is_cut_down_to_what_decisions_need() -> None:
    view = pod_view(
        {
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "ownerReferences": [{"kind": "Job", "name": "j"}]},
            "spec": {"nodeName": "w", "containers": [{"name": "c", "resources": {"limits": {"memory": "1Gi"}}}]},
            "status": {"containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
        }
    )
    assert (view.owner_kind, view.containers[0].waiting, view.containers[0].memory_limit) == (
        "Job",
        "CrashLoopBackOff",
        "1Gi",
    )


CONTRACT = FeatureContract(
    entity_kinds=(EntityKind(name="workload", labels=("namespace", "workload")),),
    features=(FeatureSpec(name="workload_memory_of_limit", promql="x", unit="ratio", entity_kind="workload"),),
    step=timedelta(seconds=60),
    window=default_window(timedelta(seconds=60)),
)


def to_cart(entity: str) -> ObjectRef | None:
    return CART if entity == "workload/shop/cart" else None


def test_a_forecast_that_crosses_its_threshold_is_a_signal_with_time_and_probability() -> None:
    rising = forecast("workload/shop/cart", "workload_memory_of_limit", [0.7, 0.8, 0.95, 1.0])
    (found,) = forecast_signals(rising, CONTRACT, to_cart, {})
    assert found.details["crosses_at"] == (NOW + minutes(3)).isoformat()
    assert found.details["symptom"] == "memory-leak"
    assert found.confidence == pytest.approx(0.9)


@pytest.mark.parametrize("path", [[0.5, 0.6, 0.7], [0.89, 0.89, 0.89], [float("nan"), 1.0]])
def test_a_forecast_below_its_threshold_or_without_numbers_is_none(path: list[float]) -> None:
    flat = forecast("workload/shop/cart", "workload_memory_of_limit", path)
    assert forecast_signals(flat, CONTRACT, to_cart, {}) == []


def test_only_what_fills_up_or_queues_has_a_threshold_of_its_own() -> None:
    assert default_threshold("workload_memory_of_limit", "ratio") == 0.9
    assert default_threshold("node_cpu_busy", "ratio") == 0.85
    assert default_threshold("workload_cpu_throttled", "ratio") is None
    assert default_threshold("workload_memory_bytes", "bytes") is None


def a_detection(*, alarm: bool = True, entity: str = "workload/shop/cart") -> Detection:
    return Detection(
        entity=entity,
        time=NOW,
        score=6.0,
        tail_probability=1e-6,
        alarm=alarm,
        confidence=0.93,
        contributions={"a": 1.0, "workload_memory_of_limit": 5.0},
        expected={},
        model_version="v3",
        contract_sha256=CONTRACT.sha256,
    )


def test_a_detection_is_a_signal_only_past_the_packages_own_threshold() -> None:
    assert detection_signal(a_detection(alarm=False), to_cart) is None
    assert detection_signal(a_detection(entity="workload/shop/gone"), to_cart) is None
    found = detection_signal(a_detection(), to_cart)
    assert found is not None
    assert next(iter(found.details["contributions"])) == "workload_memory_of_limit"
    assert (found.confidence, found.details["symptom"]) == (0.93, "memory-leak")


def test_a_kept_path_tells_what_would_have_been() -> None:
    path = path_of(forecast("e", "f", [0.5, 0.6, 0.7]), "f")
    assert path is not None
    assert Path.from_dict(path.to_dict()) == path
    assert path.at(NOW + minutes(2)) == pytest.approx((0.55, 0.6, 0.65))
    assert path.at(NOW + minutes(99)) == pytest.approx((0.65, 0.7, 0.75))  # past the horizon: its end
    assert path_of(forecast("e", "f", [0.5]), "g") is None
    assert path_of(replace(forecast("e", "f", [0.5]), quantiles=np.full((1, 1, 3), np.nan, np.float32)), "f") is None


def test_an_incident_survives_being_stored() -> None:
    full = past(observations=(observation(resolved=minutes(1)), observation(signal("crash-loop", confidence=0.5))))
    assert decode(encode(full)) == full
    assert decode(encode(record())) == record()


def test_what_people_noted_on_an_incident_is_written_back_with_it() -> None:
    noted = encode(record())
    noted["metadata"]["labels"] |= {"team": "shop"}
    noted["metadata"] |= {"annotations": {"ticket": "OPS-1"}, "finalizers": ["example.com/archive"]}
    assert encode(replace(decode(noted), message="m"))["metadata"] == noted["metadata"]


def test_a_malformed_incident_is_named() -> None:
    broken = encode(record())
    del broken["spec"]["target"]
    with pytest.raises(InvalidInput, match="deployment-cart-1"):
        decode(broken)
