"""From polls and objects to signals: GPU errors, jobs, cordons, silences, labels of what is only told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from engine_kit import CART, NOW, deployment, minutes, node, observation, pod, record, replica_set, signal, snapshot

from clusterheal.contracts import SignalSource
from clusterheal.engine.correlate import target_of_entity, target_of_labels
from clusterheal.engine.merge import merge_signal
from clusterheal.engine.signals.alertmanager import alert_fingerprint
from clusterheal.engine.signals.gpu import XidClass, xid_class, xid_signals
from clusterheal.engine.signals.kubernetes import scan
from clusterheal.engine.signals.prometheus import alert_signals
from clusterheal.engine.signals.silences import parse_silences
from clusterheal.errors import InvalidInput
from clusterheal.kube.resources import (
    CRON_JOBS,
    DEPLOYMENTS,
    INCIDENTS,
    INFERENCE_SERVICES,
    JOBS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    REPLICA_SETS,
)


class Sample:
    def __init__(self, value: float = 1.0, **labels: str) -> None:
        self.labels = labels
        self.value = value


@pytest.mark.parametrize(
    ("xid", "kind"),
    [
        (13, XidClass.APPLICATION),
        (31, XidClass.APPLICATION),
        (94, XidClass.APPLICATION),  # contained: only the program that met it ends
        (48, XidClass.HARDWARE),
        (74, XidClass.HARDWARE),
        (79, XidClass.HARDWARE),
        (95, XidClass.HARDWARE),
        (119, XidClass.HARDWARE),
        (63, XidClass.IGNORED),  # a row was remapped, as it should be
        (45, XidClass.IGNORED),  # the clean-up after another one
        (999, XidClass.UNKNOWN),
    ],
)
def test_xids_are_classed_as_nvidias_catalogue_has_them(xid: int, kind: XidClass) -> None:
    assert xid_class(xid) is kind


def test_no_xid_has_two_classes() -> None:
    from clusterheal.engine.signals import gpu

    assert not gpu._APPLICATION & gpu._HARDWARE
    assert not (gpu._APPLICATION | gpu._HARDWARE) & gpu._IGNORED


def test_an_applications_xid_is_about_the_workload_that_had_the_gpu() -> None:
    seen = Sample(31, Hostname="worker-0", gpu="0", exported_namespace="shop", exported_pod="cart-2-a")
    (found,) = xid_signals([seen], [seen], snapshot(), frozenset())
    assert str(found.target) == "Deployment shop/cart"
    broken = Sample(79, Hostname="worker-0", gpu="0", exported_namespace="shop", exported_pod="cart-2-a")
    (found,) = xid_signals([broken], [broken], snapshot(), frozenset())
    assert str(found.target) == "Node worker-0"
    assert found.details["used_by"] == "Deployment shop/cart"


def test_an_ignored_xid_and_a_host_that_is_no_node_are_no_signals() -> None:
    for seen in (Sample(63, Hostname="worker-0", gpu="0"), Sample(79, Hostname="elsewhere", gpu="0")):
        assert list(xid_signals([seen], [seen], snapshot(), frozenset())) == []


def test_polled_alerts_skip_heartbeats_and_count_what_they_cannot_map() -> None:
    firing = [
        Sample(alertname="Watchdog", severity="none"),
        Sample(alertname="A", namespace="shop", deployment="cart", alertstate="firing"),
        Sample(alertname="B", namespace="elsewhere", deployment="x", alertstate="firing"),
    ]
    since = [Sample(NOW.timestamp() - 90, alertname="A", namespace="shop", deployment="cart")]
    signals, unmapped = alert_signals(firing, since, snapshot())  # type: ignore[arg-type]
    assert [(s.name, s.starts_at) for s in signals] == [("A", NOW - timedelta(seconds=90))]
    assert unmapped == 1


def test_an_alert_has_one_fingerprint_whichever_server_added_its_labels() -> None:
    own = {"alertname": "A", "namespace": "shop"}
    assert alert_fingerprint(own) == alert_fingerprint({**own, "prometheus": "k8s", "prometheus_replica": "1"})
    assert alert_fingerprint(own) != alert_fingerprint({**own, "namespace": "other"})


def test_what_the_poll_showed_once_its_silence_can_end_though_a_webhook_repeats_it() -> None:
    polled = observation(signal(details={"polled": True}), age=minutes(2))
    merged = merge_signal([polled], signal(), NOW)
    assert merged is not None
    assert merged[0].signal.details["polled"]


@pytest.mark.parametrize(("age", "reopens"), [(5, False), (1, True)])
def test_a_notification_that_comes_after_the_poll_has_ended_the_alert_reopens_nothing(
    age: float, reopens: bool
) -> None:
    """A webhook's start is later than the poll's by the rule's `for`, and is no new episode for that."""
    ended = observation(signal(age=minutes(9), details={"polled": True}), resolved=minutes(2))
    assert (merge_signal([ended], signal(age=minutes(age)), NOW) is not None) is reopens
    pending = signal(age=minutes(5), details={"polled": True})
    assert merge_signal([ended], pending, NOW) is not None, "true again while it was counted as gone, and fires now"


def job(name: str, *, failed: bool, age: float, owner: str | None = None) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, "namespace": "shop", "creationTimestamp": (NOW - minutes(age)).isoformat()}
    if owner is not None:
        meta["ownerReferences"] = [{"kind": "CronJob", "name": owner, "controller": True}]
    state = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
    state["lastTransitionTime"] = (NOW - minutes(age - 1)).isoformat()
    return {"metadata": meta, "status": {"conditions": [state] if failed else []}}


CRON = {"metadata": {"name": "report", "namespace": "shop"}, "spec": {"schedule": "0 3 * * *"}, "status": {}}


@pytest.mark.parametrize(
    ("jobs", "targets"),
    [
        ([job("once", failed=True, age=5)], ["Job shop/once"]),
        ([job("once", failed=True, age=24 * 60)], []),  # somebody's before this engine looked
        ([job("report-1", failed=True, age=5, owner="report")], ["CronJob shop/report"]),
        (
            [
                job("report-1", failed=True, age=60, owner="report"),
                job("report-2", failed=False, age=5, owner="report"),
            ],
            [],  # the next run was good
        ),
    ],
)
def test_failed_jobs_are_seen_on_what_owns_them(jobs: list[dict[str, Any]], targets: list[str]) -> None:
    seen = snapshot((CRON_JOBS, CRON), *((JOBS, j) for j in jobs))
    assert [str(s.target) for s in scan(seen) if s.name == "job-failed"] == targets


def cordoned(owner: str, until: timedelta) -> Any:
    notes = {
        "clusterheal.io/cordoned-by": owner,
        "clusterheal.io/cordoned-until": (NOW + until).isoformat(),
    }
    return node("worker-0", cordoned=True, annotations=notes)


def incident(state: str) -> Any:
    return {"metadata": {"name": "node-worker-0-1", "namespace": "platform"}, "status": {"state": state}}


@pytest.mark.parametrize(
    ("state", "until", "orphaned"),
    [
        ("Verifying", timedelta(hours=1), False),
        ("Verifying", -timedelta(hours=1), True),  # out of time, and nothing happened
        ("Resolved", timedelta(hours=1), True),
        (None, timedelta(hours=1), True),
    ],
)
def test_a_cordon_that_outlived_its_incident_is_seen(state: str | None, until: timedelta, orphaned: bool) -> None:
    objects = [(NODES, cordoned("node-worker-0-1", until))]
    if state is not None:
        objects.append((INCIDENTS, incident(state)))
    seen = snapshot(*objects)
    known = replace(seen, synced_at={**seen.synced_at, INCIDENTS: NOW})
    assert any(s.name == "cordon-orphaned" for s in scan(known)) is orphaned
    assert not any(s.name == "cordon-orphaned" for s in scan(seen)), "without incidents nothing can be said"


@pytest.mark.parametrize("written", ["tomorrow", "", "2026-13-45"])
def test_an_annotation_that_is_no_time_hides_nothing_else(written: str) -> None:
    odd = node("worker-0", cordoned=True)
    odd["metadata"]["annotations"] = {"clusterheal.io/cordoned-by": "gone-1", "clusterheal.io/cordoned-until": written}
    seen = snapshot((NODES, odd), (NODES, node("worker-2", ready=False)))
    known = replace(seen, synced_at={**seen.synced_at, INCIDENTS: NOW})
    assert {s.name for s in scan(known)} == {"cordon-orphaned", "node-not-ready"}


PREDICTOR = deployment(
    "detector-predictor", ownerReferences=[{"kind": "InferenceService", "name": "detector", "controller": True}]
)
MODEL = {"metadata": {"name": "detector", "namespace": "shop", "uid": "m"}, "status": {}}
CLAIM = {"metadata": {"name": "data", "namespace": "shop", "uid": "c"}}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"namespace": "shop", "persistentvolumeclaim": "data"}, "PersistentVolumeClaim shop/data"),
        ({"namespace": "shop", "deployment": "detector-predictor"}, "InferenceService shop/detector"),
        ({"model_name": "detector"}, "InferenceService shop/detector"),
        ({"namespace": "shop", "pod": "detector-predictor-2-a"}, "InferenceService shop/detector"),
        ({"namespace": "shop", "cronjob": "report"}, "CronJob shop/report"),
        ({"namespace": "shop", "job_name": "report-1"}, "CronJob shop/report"),
        ({"alertname": "TargetDown", "namespace": "shop", "service": "cart", "job": "cart"}, "Deployment shop/cart"),
        ({"alertname": "TargetDown", "namespace": "shop", "service": "x", "job": "x"}, "Service shop/x"),
        (
            {"alertname": "CertManagerCertExpirySoon", "exported_namespace": "shop", "name": "tls"},
            "Certificate shop/tls",
        ),
        ({"alertname": "Other", "namespace": "shop", "service": "x"}, "None"),
    ],
)
def test_labels_name_what_they_are_about(labels: dict[str, str], expected: str) -> None:
    seen = snapshot(
        (DEPLOYMENTS, PREDICTOR),
        (REPLICA_SETS, replica_set("detector-predictor")),
        (INFERENCE_SERVICES, MODEL),
        (PERSISTENT_VOLUME_CLAIMS, CLAIM),
        (CRON_JOBS, CRON),
        (JOBS, job("report-1", failed=True, age=5, owner="report")),
        pods=(pod("detector-predictor-2-a", owner="detector-predictor-2"),),
    )
    assert str(target_of_labels(labels, seen)) == expected


def test_a_models_entity_may_be_a_volume() -> None:
    found = target_of_entity("pvc/shop/data", snapshot((PERSISTENT_VOLUME_CLAIMS, CLAIM)))
    assert str(found) == "PersistentVolumeClaim shop/data"


@pytest.mark.parametrize("data", [{}, [{"id": "x"}], "nonsense", [{"id": "x", "matchers": 1, "status": {}}]])
def test_silences_of_another_form_are_refused_and_not_taken_for_none(data: Any) -> None:
    if data == {}:
        assert parse_silences(data) == ()
        return
    with pytest.raises(InvalidInput, match="list of silences"):
        parse_silences(data)


def test_sources_of_a_signal_do_not_change_what_it_is_about() -> None:
    alert, poll = signal(), signal(details={"polled": True})
    assert {o.source for o in (alert, poll)} == {SignalSource.ALERT}
    assert record(alert).root == record(poll).root == f"Deployment/shop/{CART.name}"
