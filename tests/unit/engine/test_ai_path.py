"""What no rule knows: causes ranked by contribution and topology, and the autonomy that outcomes earn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from engine_kit import CART, NOW, case, minutes, past, plan, pod, record, replica_set, signal, snapshot, world

from clusterheal.contracts import Detection, IncidentState, SignalSource, Verdict
from clusterheal.engine.autonomy import earned_mode, ledger
from clusterheal.engine.diagnosis import diagnose
from clusterheal.engine.guards import contract, rate
from clusterheal.engine.policy import Autonomy, Policy
from clusterheal.engine.records import Record
from clusterheal.engine.signals.models import ModelVerdicts
from clusterheal.kube.resources import REPLICA_SETS


def anomaly(**changes: Any) -> Any:
    details = {
        "contributions": {"workload_network_receive": 4.0, "workload_cpu_cores": 1.0},
        "entity": "workload/shop/cart",
        "score": 5.0,
    }
    return signal("anomaly", source=SignalSource.DETECTOR, confidence=0.9, details=details, **changes)


def alarm(entity: str) -> Detection:
    return Detection(
        entity=entity,
        time=NOW,
        score=5.0,
        tail_probability=1e-5,
        alarm=True,
        confidence=0.9,
        contributions={},
        expected={},
        model_version="v1",
        contract_sha256="c",
    )


def found(models: ModelVerdicts | None = None, **changes: Any) -> Any:
    rec = record(anomaly())
    return diagnose(rec, world(rec, models=models or ModelVerdicts(), **changes))


def test_an_objects_own_metrics_come_first_when_nothing_else_stands_out() -> None:
    finding = found()
    assert finding.diagnosis.cause == "anomaly led by workload_network_receive, workload_cpu_cores"
    assert [c["what"] for c in finding.diagnosis.evidence["ranked_causes"]] == [
        "workload_network_receive",
        "workload_cpu_cores",
    ]
    assert finding.plan.action == "restart"


def test_a_node_on_which_much_else_is_anomalous_comes_first_and_nothing_is_restarted() -> None:
    names = ("cart", "a", "b", "c")
    seen = snapshot(
        *((REPLICA_SETS, replica_set(n)) for n in names),
        pods=tuple(pod(f"{n}-2-x", owner=f"{n}-2", node="worker-0") for n in names),
    )
    verdicts = ModelVerdicts(detections={f"workload/shop/{n}": alarm(f"workload/shop/{n}") for n in ("a", "b")})
    from engine_kit import deployment

    from clusterheal.kube.resources import DEPLOYMENTS

    objects = {**seen.objects, DEPLOYMENTS: {("shop", n): deployment(n) for n in names}}
    finding = found(verdicts, snapshot=replace(seen, objects=objects))
    first = finding.diagnosis.evidence["ranked_causes"][0]
    assert first["what"] == "node worker-0"
    assert "2 of 3 other workloads on it are anomalous too" in first["why"]
    assert finding.plan is None


def test_a_revision_rolled_out_just_before_comes_first_and_is_what_is_undone() -> None:
    seen = snapshot(
        (REPLICA_SETS, replica_set(revision=2, age=minutes(10))), (REPLICA_SETS, replica_set(revision=1, available=0))
    )
    finding = found(snapshot=seen)
    assert finding.diagnosis.cause == "anomaly from revision 2"
    assert (finding.plan.action, finding.plan.parameters["to_revision"]) == ("undo", 1)
    assert finding.diagnosis.origin == "ai"


def test_while_a_model_is_in_trouble_itself_only_rules_act() -> None:
    service = replace(CART, api_version="serving.kserve.io/v1beta1", kind="InferenceService", name="anomaly-detector")
    sick = record(signal("model-worse", target=service), target=service)
    own = record(anomaly())
    models = ModelVerdicts(contract_sha256="c", data_at=NOW)
    allowed, reason = contract.check(case(plan(), rec=own, others=(sick,), models=models))
    assert not allowed
    assert sick.name in reason
    ended = replace(sick, state=IncidentState.RESOLVED)
    assert "is in trouble" not in contract.check(case(plan(), rec=own, others=(ended,), models=models))[1]


def shown(state: IncidentState, sequence: int) -> Record:
    """An incident whose plan was not carried out."""
    return record(sequence=sequence, state=state, plan=plan(), ended_at=NOW - minutes(30))


EARNING = Policy(name="p", mode="auto", autonomy=Autonomy(earn=True, start="observe", bar=0.7))


@pytest.mark.parametrize(
    ("records", "mode"),
    [
        ([], "observe"),
        ([shown(IncidentState.SUGGESTED, n) for n in range(3)], "observe"),  # three say little
        ([shown(IncidentState.SUGGESTED, n) for n in range(12)], "approve"),
        ([shown(IncidentState.SELF_HEALED, n) for n in range(12)], "observe"),  # nothing had to be done
        ([shown(IncidentState.REJECTED, n) for n in range(12)], "observe"),
        ([past(sequence=n) for n in range(12)], "observe"),  # runs alone skip no rung
        (
            [shown(IncidentState.SUGGESTED, n) for n in range(12)] + [past(sequence=n + 20) for n in range(12)],
            "auto",
        ),
        (
            [shown(IncidentState.SUGGESTED, n) for n in range(12)]
            + [past(sequence=n + 20) for n in range(12)]
            + [past(Verdict.HARMED, sequence=99)],
            "approve",  # one harm takes it back
        ),
    ],
)
def test_autonomy_climbs_by_what_was_needed_and_then_by_what_helped(records: list[Record], mode: str) -> None:
    assert earned_mode(EARNING, "restart", "Deployment", records)[0] == mode


def test_self_healed_runs_prove_nothing_and_are_not_counted() -> None:
    counted = ledger(EARNING, "restart", "Deployment", [past(Verdict.SELF_HEALED), past(sequence=3)])
    assert (counted.helped, counted.runs, counted.shown) == (1, 1, 0)


def test_a_policys_mode_is_a_ceiling_on_what_is_earned() -> None:
    low = replace(EARNING, mode="suggest", autonomy=Autonomy(earn=True, start="approve", bar=0.5))
    rec = record()
    others = tuple(past(sequence=n + 20) for n in range(12))
    assert case(rec=rec, others=others, policy=low).mode[0] == "suggest"


def test_what_helped_often_and_never_lasted_is_for_a_person() -> None:
    often = tuple(past(sequence=n + 20, age=minutes(60 * (n + 2))) for n in range(4))
    allowed, reason = rate.check(case(others=often))
    assert not allowed
    assert "came back each time" in reason
    assert rate.check(case(others=often[:3]))[0]
