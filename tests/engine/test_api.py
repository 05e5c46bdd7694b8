"""The REST API: who may call what, what it answers, and what it does with bad input."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from api_kit import RIGHTS, Api, notification, opened
from fastapi.routing import APIRoute

from clusterheal.engine.api import MAX_BODY, PER_SECOND
from clusterheal.kube.ports import ApiError, ApiRetryable
from clusterheal.kube.resources import DEPLOYMENTS
from clusterheal.local.simulation.scenario import SHOP

CART = {"kind": "Deployment", "namespace": SHOP, "name": "cart"}
RESTART = {"target": CART, "action": "restart"}
PAUSE = {"minutes": 5, "reason": "test"}
ANOMALY = {"target": CART, "symptom": "memory-leak"}

ROUTES: dict[tuple[str, str], tuple[str | None, Any, int]] = {
    ("GET", "/health"): (None, None, 200),
    ("GET", "/healthz"): (None, None, 200),
    ("GET", "/readyz"): (None, None, 200),
    ("GET", "/metrics"): (None, None, 200),
    ("POST", "/alerts"): ("alertmanager", {"version": "4", "alerts": []}, 200),
    ("POST", "/api/v1/anomalies"): ("report", ANOMALY, 202),
    ("GET", "/api/v1/anomalies/{name}"): ("read", None, 404),
    ("POST", "/api/v1/remediate"): ("act", RESTART, 200),
    ("GET", "/api/v1/incidents"): ("read", None, 200),
    ("GET", "/api/v1/incidents/{name}"): ("read", None, 404),
    ("POST", "/api/v1/incidents/{name}/approve"): ("approve", {}, 404),
    ("POST", "/api/v1/incidents/{name}/reject"): ("approve", {}, 404),
    ("GET", "/api/v1/workflows/{name}"): ("read", None, 404),
    ("GET", "/api/v1/status"): ("read", None, 200),
    ("GET", "/api/v1/pause"): ("read", None, 200),
    ("POST", "/api/v1/pause"): ("pause", PAUSE, 200),
    ("DELETE", "/api/v1/pause"): ("pause", None, 200),
}
"""What a route needs (`None`: nothing), a body, and the answer to a caller who has the right."""
CALLERS = (*RIGHTS, "nothing", "alertmanager", "stranger", None)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with opened(tmp_path) as found:
        yield found


@pytest.fixture
async def acting(tmp_path: Path) -> AsyncIterator[Api]:
    async with opened(tmp_path, policy={"mode": "auto", "cooldown": "0s"}) as found:
        yield found


@pytest.fixture
async def approving(tmp_path: Path) -> AsyncIterator[Api]:
    async with opened(tmp_path, policy={"mode": "approve", "cooldown": "0s"}) as found:
        yield found


async def restarts(api: Api) -> int:
    found = await api.emulator.cluster().get(DEPLOYMENTS, "cart", namespace=SHOP)
    return int(found["metadata"]["generation"]) - 1


async def test_the_matrix_names_every_route(api: Api) -> None:
    served = {(m, r.path) for r in api.app.routes if isinstance(r, APIRoute) for m in r.methods}
    assert served == set(ROUTES)
    described = (await api.call("GET", "/openapi.json")).json()
    assert {(m.upper(), path) for path, found in described["paths"].items() for m in found} == set(ROUTES)


async def test_every_route_lets_in_only_who_has_the_right(api: Api) -> None:
    for (method, path), (right, body, success) in ROUTES.items():
        for caller in CALLERS:
            url = path.replace("{name}", "nothing-1")
            answer = await api.call(method, url, as_=caller, **({"json": body} if body is not None else {}))
            await asyncio.sleep(1 / PER_SECOND)
            if right in (None, caller):
                expected = success
            elif path == "/alerts" or caller in (None, "stranger", "alertmanager"):
                expected = 401
            else:
                expected = 403
            assert answer.status_code == expected, f"{method} {path} as {caller}: {answer.text}"
            if expected == 401:
                assert answer.headers["www-authenticate"] == "Bearer"
            if expected == 403:
                assert f"may-{caller} may not " in answer.json()["detail"]
                assert ".clusterheal.io in namespace" in answer.json()["detail"]
    assert await restarts(api) == 0


async def test_without_an_api_server_nobody_is_let_in(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(*_: Any, **__: Any) -> None:
        raise ApiRetryable("no answer")

    monkeypatch.setattr(api.engine.parts.cluster, "create", gone)
    answer = await api.call("GET", "/api/v1/status", as_="read")
    assert answer.status_code == 503
    assert "the API server did not review the token" in answer.json()["detail"]


async def test_incidents_are_filtered_and_paged(api: Api) -> None:
    await api.firing()
    await api.firing(workload="checkout", severity="critical")
    await api.firing(alertname="NodeSaturated", workload="", node="worker-0", namespace="", severity="info")

    async def names(**filters: Any) -> list[str]:
        answer = await api.call("GET", "/api/v1/incidents", as_="read", params=filters)
        assert answer.status_code == 200
        return [i["metadata"]["name"] for i in answer.json()["items"]]

    every = await names()
    assert every == ["node-worker-0-1", "deployment-checkout-1", "deployment-cart-1"] or len(every) == 3
    by_object = {n.split("-")[1]: n for n in every}
    assert await names(severity="critical") == [by_object["checkout"]]
    assert await names(kind="Node") == [by_object["worker"]]
    assert set(await names(namespace=SHOP)) == {by_object["cart"], by_object["checkout"]}
    assert set(await names(status="open")) == set(every)
    assert await names(status="ended") == []
    assert await names(severity="critical", kind="Node") == []
    first = (await api.call("GET", "/api/v1/incidents", as_="read", params={"limit": 2})).json()
    assert (len(first["items"]), first["total"], first["next_offset"]) == (2, 3, 2)
    rest = (await api.call("GET", "/api/v1/incidents", as_="read", params={"limit": 2, "offset": 2})).json()
    assert (len(rest["items"]), rest["next_offset"]) == (1, None)
    assert [i["metadata"]["name"] for i in first["items"] + rest["items"]] == every
    for wrong in ({"limit": 0}, {"limit": 501}, {"offset": -1}, {"limit": "x"}):
        answer = await api.call("GET", "/api/v1/incidents", as_="read", params=wrong)
        assert answer.status_code == 422, wrong


async def test_an_unknown_state_to_filter_by_is_refused(api: Api) -> None:
    answer = await api.call("GET", "/api/v1/incidents", as_="read", params={"status": "resolvd"})
    assert answer.status_code == 422
    assert "expected open, ended or one of" in answer.json()["detail"]


async def test_a_reported_anomaly_becomes_an_incident_and_can_be_read_back(api: Api) -> None:
    made = (await api.call("POST", "/api/v1/anomalies", as_="report", json=ANOMALY)).json()
    assert made["outcome"] == "stored"
    for path in (f"/api/v1/anomalies/{made['id']}", f"/api/v1/incidents/{made['id']}"):
        found = (await api.call("GET", path, as_="read")).json()
        assert found["spec"]["target"]["name"] == "cart"
        assert found["spec"]["signals"][0]["details"]["by"] == "may-report"
    steps = (await api.call("GET", f"/api/v1/workflows/{made['id']}", as_="read")).json()
    assert steps["id"] == made["id"]


async def test_a_remediation_is_a_dry_run_unless_said_otherwise(acting: Api) -> None:
    rehearsed = (await acting.call("POST", "/api/v1/remediate", as_="act", json=RESTART)).json()
    assert [g for g in rehearsed["guards"] if not g["allowed"]] == []
    assert (rehearsed["dry_run"], rehearsed["id"], rehearsed["allowed"]) == (True, None, True)
    assert "accepted" in rehearsed["api_server"]
    await asyncio.sleep(0.5)
    assert await restarts(acting) == 0
    misspelt = await acting.call("POST", "/api/v1/remediate", as_="act", json={**RESTART, "dryrun": False})
    assert misspelt.status_code == 422
    meant = (await acting.call("POST", "/api/v1/remediate", as_="act", json={**RESTART, "dry_run": False})).json()
    await acting.until(meant["id"], "Verifying", "Resolved", "Escalated")
    assert await restarts(acting) == 1
    again = await acting.call("POST", "/api/v1/remediate", as_="act", json={**RESTART, "dry_run": False})
    assert again.status_code in (200, 409)


async def test_a_plan_is_approved_or_rejected_once(approving: Api) -> None:
    api = approving
    name = await api.firing()
    waiting = await api.until(name, "AwaitingApproval")
    plan = waiting["status"]["plan"]["id"]
    stale = await api.call("POST", f"/api/v1/incidents/{name}/approve", as_="approve", json={"plan_id": "other"})
    assert stale.status_code == 409
    assert f"the plan is now {plan}" in stale.json()["detail"]
    agreed = await api.call("POST", f"/api/v1/incidents/{name}/approve", as_="approve", json={"plan_id": plan})
    assert agreed.json()["spec"]["approval"]["by"] == "may-approve"
    await api.until(name, "Verifying", "Escalated")
    late = await api.call("POST", f"/api/v1/incidents/{name}/reject", as_="approve")
    assert late.status_code == 409
    assert await restarts(api) == 1
    other = await api.firing(workload="checkout")
    await api.until(other, "AwaitingApproval")
    await api.call("POST", f"/api/v1/incidents/{other}/reject", as_="approve")
    await api.until(other, "Rejected")


async def test_a_pause_holds_everything_until_it_is_lifted(acting: Api) -> None:
    api = acting
    for wrong in (
        {"reason": "no end"},
        {"minutes": 1, "until": "2999-01-01T00:00:00Z", "reason": "both"},
        {"until": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(), "reason": "over"},
        {"minutes": -1, "reason": "negative"},
        {"minutes": 5},
    ):
        assert (await api.call("POST", "/api/v1/pause", as_="pause", json=wrong)).status_code == 422, wrong
    assert (await api.call("POST", "/api/v1/pause", as_="pause", json=PAUSE)).json()["by"] == "may-pause"
    await asyncio.sleep(0.3)
    assert (await api.call("GET", "/api/v1/status", as_="read")).json()["paused"]["paused"]
    name = await api.firing()
    await asyncio.sleep(1.0)
    assert "paused" in (await api.call("GET", f"/api/v1/incidents/{name}", as_="read")).text
    assert await restarts(api) == 0
    await api.call("DELETE", "/api/v1/pause", as_="pause")
    await api.until(name, "Verifying", "Resolved", "Escalated")
    assert await restarts(api) == 1


def _with(**changes: Any) -> bytes:
    alert = {"status": "firing", "labels": {"alertname": "A", "namespace": SHOP, "workload": "cart"}}
    alert = {**alert, "startsAt": "2026-01-01T00:00:00Z", **changes}
    return json.dumps({"version": "4", "alerts": [{k: v for k, v in alert.items() if v is not None}]}).encode()


BAD_NOTIFICATIONS = {
    "not JSON": b"{",
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "no alerts": b'{"version": "4"}',
    "alerts that are no list": b'{"version": "4", "alerts": {}}',
    "an alert that is no object": b'{"version": "4", "alerts": [1]}',
    "labels that are no object": b'{"version": "4", "alerts": [{"status": "firing", "labels": [], "startsAt": "x"}]}',
    "another version": b'{"version": "3", "alerts": []}',
    "no start": _with(startsAt=None),
    "a start that is no time": _with(startsAt="x"),
    "a start without a zone": _with(startsAt="2026-01-01T00:00:00"),
    "an unknown status": _with(status="odd"),
    "invalid UTF-8": b'{"version": "4", "alerts": ["\xff"]}',
}


@pytest.mark.parametrize("body", BAD_NOTIFICATIONS.values(), ids=BAD_NOTIFICATIONS)
async def test_a_malformed_notification_is_refused_with_what_was_expected(api: Api, body: bytes) -> None:
    answer = await api.call("POST", "/alerts", as_="alertmanager", content=body)
    assert answer.status_code == 422, answer.text
    assert "expected" in answer.json()["detail"]
    assert api.engine.store.records() == {}


async def test_a_storm_on_one_object_is_one_incident_and_leaves_no_queue_behind(api: Api) -> None:
    bodies = [notification(api.engine, alertname=f"WorkloadSaturated{n}") for n in range(30)]
    answers = await asyncio.gather(*(api.call("POST", "/alerts", as_="alertmanager", json=body) for body in bodies))
    assert [a.json() for a in answers] == [{"signals": 1, "stored": 1}] * 30
    (record,) = api.engine.store.records().values()
    assert len(record.observations) == 30
    assert api.engine.store._queues == {}


async def test_alerts_on_what_does_not_exist_are_counted_and_open_nothing(api: Api) -> None:
    for labels in ({"workload": "deleted"}, {"workload": "", "node": "gone", "namespace": ""}, {"namespace": "other"}):
        answer = await api.call("POST", "/alerts", as_="alertmanager", json=notification(api.engine, **labels))
        assert answer.json() == {"signals": 0, "stored": 0}
    assert api.engine.store.records() == {}
    found = (await api.call("GET", "/metrics")).text
    assert 'clusterheal_signals_total{outcome="unmapped",source="alert"} 3.0' in found


@pytest.mark.parametrize(
    ("target", "status", "says"),
    [
        ({**CART, "name": "gone"}, 404, "does not exist"),
        ({**CART, "kind": "Toaster"}, 422, "expected one of"),
        ({"kind": "Deployment", "name": "cart"}, 404, "does not exist"),
        ({"kind": "Deployment"}, 422, "name"),
    ],
    ids=["deleted", "unknown kind", "no namespace", "no name"],
)
async def test_a_target_that_cannot_be_found_is_said(api: Api, target: Any, status: int, says: str) -> None:
    for path, right, more in (
        ("/api/v1/remediate", "act", {"action": "restart"}),
        ("/api/v1/anomalies", "report", {"symptom": "memory-leak"}),
    ):
        answer = await api.call("POST", path, as_=right, json={"target": target, **more})
        assert answer.status_code == status, answer.text
        assert says in answer.text


async def test_large_bodies_and_quick_callers_are_refused(api: Api) -> None:
    large = await api.call("POST", "/alerts", as_="alertmanager", content=b" " * (MAX_BODY + 1))
    assert large.status_code == 413

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // 65536 + 2):
            yield b" " * 65536

    assert (await api.call("POST", "/alerts", as_="alertmanager", content=chunks())).status_code == 413
    codes = [(await api.call("GET", "/api/v1/status", as_="read")).status_code for _ in range(int(PER_SECOND) * 3)]
    assert 429 in codes
    assert codes.count(200) >= PER_SECOND
    assert (await api.call("GET", "/healthz")).status_code == 200  # a probe is never refused


async def test_an_error_of_ours_tells_no_stack(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(api.engine.reconciler, "world", broken)
    answer = await api.call("GET", "/api/v1/status", as_="read")
    assert answer.status_code == 500
    assert answer.json() == {"detail": "internal error; see the engine's log"}


async def test_a_right_that_the_engine_lacks_is_named(acting: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = acting.engine.parts.cluster
    allowed = cluster.patch

    async def forbidden(resource: Any, *args: Any, **options: Any) -> Any:
        if resource == DEPLOYMENTS:
            raise ApiError(403, "Forbidden", 'User "engine" cannot patch resource "deployments"')
        return await allowed(resource, *args, **options)

    monkeypatch.setattr(cluster, "patch", forbidden)
    answer = (await acting.call("POST", "/api/v1/remediate", as_="act", json=RESTART)).json()
    assert "may not patch deployments in shop" in answer["api_server"]
    ended = await acting.until(await acting.firing(), "Escalated")
    assert "may not patch deployments in shop" in ended["status"]["message"]
    assert "clusterheal-engine-act" in ended["status"]["message"]


async def test_a_policy_that_does_not_validate_holds_everything_and_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path, policy={"mode": "auto", "cooldown": "soon"}) as api:
        name = await api.firing()
        found = await api.until(name, "Planned", "AwaitingApproval")
        assert "mode is observe" in found["status"]["message"]
        policies = (await api.call("GET", "/api/v1/status", as_="read")).json()["policies"]
        assert "soon" in policies["invalid"]["test"]
        await asyncio.sleep(0.5)
        assert await restarts(api) == 0


METRICS_THAT_MOVE = (
    'clusterheal_signals_total{outcome="stored",source="alert"}',
    'clusterheal_incidents_opened_total{kind="Deployment"}',
    'clusterheal_decisions_total{origin="rule",playbook="predicted-memory-leak"}',
    'clusterheal_guard_verdicts_total{allowed="true",guard="mode"}',
    'clusterheal_actions_total{action="restart",kind="Deployment"}',
    'clusterheal_time_to_seconds_count{stage="detect"}',
    'clusterheal_time_to_seconds_count{stage="decide"}',
    'clusterheal_time_to_seconds_count{stage="act"}',
    'clusterheal_time_to_seconds_count{stage="verify"}',
    'clusterheal_time_to_seconds_count{stage="end"}',
)


async def metrics(api: Api) -> dict[str, float]:
    text = (await api.call("GET", "/metrics")).text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def test_metrics_follow_an_incident_from_start_to_end(acting: Api) -> None:
    api = acting
    await asyncio.sleep(0.5)
    before = await metrics(api)
    assert before["clusterheal_leader"] == 1
    assert (before['clusterheal_budget_left{budget="hour"}'], before["clusterheal_queue_depth"]) == (20, 0)
    payload = notification(api.engine)
    await api.call("POST", "/alerts", as_="alertmanager", json=payload)
    (name,) = api.engine.store.records()
    await api.until(name, "Verifying")
    payload["alerts"][0]["status"] = "resolved"
    await api.call("POST", "/alerts", as_="alertmanager", json=payload)
    await api.until(name, "Resolved")
    await asyncio.sleep(0.7)
    after = await metrics(api)
    still = [m for m in METRICS_THAT_MOVE if after.get(m, 0) <= before.get(m, 0)]
    assert still == []
    assert after['clusterheal_incidents{state="Resolved"}'] == 1
    assert after['clusterheal_incidents_ended_total{state="Resolved"}'] == 1
    assert after['clusterheal_outcomes_total{action="restart",verdict="helped"}'] == 1
    assert after['clusterheal_budget_left{budget="hour"}'] == 19
    assert after['clusterheal_budget_left{budget="concurrent"}'] == 3


async def test_the_queue_shows_in_the_metrics(approving: Api) -> None:
    await approving.until(await approving.firing(), "AwaitingApproval")
    await asyncio.sleep(0.5)
    assert (await metrics(approving))["clusterheal_queue_depth"] == 1
