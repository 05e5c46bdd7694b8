"""Rules, arbitration, verification and the state machine, as pure functions."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from engine_kit import (
    AUTO,
    CART,
    LEADER,
    NOW,
    WORKER,
    action,
    deployment,
    diagnosis,
    forecast,
    minutes,
    node,
    observation,
    past,
    plan,
    pod,
    pool,
    record,
    replica_set,
    signal,
    snapshot,
    world,
)

from clusterheal.contracts import IncidentState, SignalSource, Verdict
from clusterheal.engine import verify
from clusterheal.engine.arbitration import arbitrate
from clusterheal.engine.autonomy import earned_mode, wilson_lower_bound
from clusterheal.engine.decide import Effect, decide, plan_id
from clusterheal.engine.diagnosis import diagnose
from clusterheal.engine.guards import GUARDS
from clusterheal.engine.policy import Autonomy, Policy, parse_policies
from clusterheal.engine.quantities import allowed_count, duration, quantity
from clusterheal.engine.records import Approval
from clusterheal.engine.signals.models import ModelVerdicts
from clusterheal.engine.views import ContainerView
from clusterheal.engine.world import Config
from clusterheal.errors import InvalidInput
from clusterheal.kube.resources import DEPLOYMENTS, MACHINE_CONFIG_POOLS, NODES, REPLICA_SETS

POOL = replace(CART, kind="MachineConfigPool", namespace=None, name="worker", uid=None)


def crashing(name: str = "cart-2-a", owner: str = "cart-2") -> Any:
    container = ContainerView(
        name="main",
        image="i",
        ready=False,
        restarts=4,
        waiting="CrashLoopBackOff",
        waiting_message="",
        last_reason="Error",
        last_exit_code=1,
        last_finished_at=None,
        memory_limit=None,
    )
    return pod(name, owner=owner, ready=False, containers=(container,))


def found(record_: Any, **changes: Any) -> Any:
    return diagnose(record_, world(record_, **changes))


def test_memory_that_rises_is_met_with_a_rolling_restart() -> None:
    finding = found(record(signal()))
    assert (finding.plan.action, finding.plan.playbook) == ("restart", "predicted-memory-leak")
    assert finding.diagnosis.origin == "rule"


def test_a_low_confidence_detection_alone_is_no_fact_for_a_rule() -> None:
    low = signal(source=SignalSource.DETECTOR, confidence=0.5, details={"contributions": {"memory": 1.0}})
    assert found(record(low)).diagnosis.origin == "ai"
    sure = replace(low, confidence=0.85)
    assert found(record(sure)).diagnosis.origin == "rule"


def test_a_crash_loop_after_a_rollout_goes_back_to_the_revision_that_still_serves() -> None:
    young = snapshot(
        (REPLICA_SETS, replica_set(revision=2, age=minutes(2), available=0)),
        (REPLICA_SETS, replica_set(revision=1, available=2)),
        pods=(crashing(),),
    )
    finding = found(record(signal("crash-loop")), snapshot=young)
    assert finding.plan.action == "undo"
    assert finding.plan.parameters == {"to_revision": 1, "replica_set": "cart-1", "from_revision": 2}


def test_a_revision_that_an_earlier_incident_found_bad_is_not_returned_to() -> None:
    three = snapshot(
        (REPLICA_SETS, replica_set(revision=3, age=minutes(2), available=0)),
        (REPLICA_SETS, replica_set(revision=2, available=0)),
        (REPLICA_SETS, replica_set(revision=1, available=0)),
        (DEPLOYMENTS, deployment(annotations={"deployment.kubernetes.io/revision": "3"})),
        pods=(crashing(owner="cart-3"),),
    )
    bad = replace(diagnosis(), evidence={"bad_replica_set": "cart-2"})
    looping = record(signal("crash-loop"), sequence=2)
    finding = diagnose(looping, world(looping, past(diagnosis=bad), snapshot=three))
    assert finding is not None
    assert finding.plan is not None
    assert finding.plan.parameters["replica_set"] == "cart-1"


@pytest.mark.parametrize(
    "sets",
    [
        [replica_set(revision=2, age=minutes(600), available=0), replica_set(revision=1, age=minutes(900))],  # old
        [replica_set(revision=2, age=minutes(2), available=0)],  # nothing to return to
    ],
)
def test_a_crash_loop_without_a_rollout_is_for_people_with_logs(sets: list[Any]) -> None:
    seen = snapshot(*((REPLICA_SETS, s) for s in sets), pods=(crashing(),))
    finding = found(record(signal("crash-loop")), snapshot=seen)
    assert finding.plan is None
    assert finding.final
    assert finding.diagnosis.evidence["wants_logs"]
    assert "exit codes: 1" in finding.diagnosis.explanation


def test_saturation_adds_a_replica_within_the_policy() -> None:
    finding = found(record(signal("saturation")))
    assert finding.plan.parameters["to_replicas"] == 3
    capped = found(record(signal("saturation")), policy=replace(AUTO, scale_max_replicas=2))
    assert capped.plan.parameters["to_replicas"] == 2  # which the guard `held` refuses


def test_an_image_that_cannot_be_pulled_is_undone_only_where_an_older_one_serves() -> None:
    serves = snapshot(
        (REPLICA_SETS, replica_set(revision=2, age=minutes(2), available=0)),
        (REPLICA_SETS, replica_set(revision=1, available=2)),
    )
    assert found(record(signal("image-pull")), snapshot=serves).plan.action == "undo"
    assert found(record(signal("image-pull"))).plan is None


def test_a_stuck_rollout_is_undone_but_not_for_want_of_room() -> None:
    serves = snapshot(
        (REPLICA_SETS, replica_set(revision=2, age=minutes(20), available=0)),
        (REPLICA_SETS, replica_set(revision=1, available=2)),
    )
    assert found(record(signal("rollout-stuck")), snapshot=serves).plan.action == "undo"
    full = replace(serves, pods={("shop", "p"): pod("p", unschedulable="Insufficient cpu")})
    assert found(record(signal("rollout-stuck")), snapshot=full).plan is None


@pytest.mark.parametrize(("lasted", "plans"), [(minutes(1), False), (minutes(4), True)])
def test_a_node_is_drained_only_after_its_trouble_has_lasted(lasted: timedelta, plans: bool) -> None:
    seen = signal("node-not-ready", source=SignalSource.KUBERNETES, target=WORKER, age=lasted)
    finding = found(record(seen, target=WORKER))
    assert (finding is not None) is plans


def test_a_degraded_pool_is_explained_and_never_touched() -> None:
    broken = snapshot((MACHINE_CONFIG_POOLS, pool(degraded=True)))
    finding = found(record(signal("pool-degraded", target=POOL), target=POOL), snapshot=broken)
    assert finding.plan is None
    assert "would fight it" in finding.diagnosis.explanation


def test_unschedulable_pods_name_the_constraint() -> None:
    text = "0/3 nodes are available: 2 Insufficient cpu, 1 node(s) had untolerated taint {x: }."
    finding = found(record(signal("unschedulable", details={"message": text})))
    assert "too little CPU" in finding.diagnosis.explanation
    assert "taints" in finding.diagnosis.explanation


def an_anomaly(confidence: float = 0.9) -> Any:
    details = {"contributions": {"m07": 4.0, "m02": 1.0}, "entity": "instance/x", "score": 5.0}
    return signal("anomaly", source=SignalSource.DETECTOR, confidence=confidence, details=details)


def test_the_ai_path_ranks_causes_by_contribution() -> None:
    finding = found(record(an_anomaly()))
    assert finding.diagnosis.cause == "anomaly led by m07, m02"
    assert (finding.diagnosis.origin, finding.diagnosis.confidence) == ("ai", 0.9)
    assert finding.plan.action == "restart"


def test_running_beats_pending_rules_beat_ai_then_priority_then_age() -> None:
    def candidate(name: str, origin: str, priority: int, age: float) -> Any:
        made = replace(record(), name=name, opened_at=NOW - minutes(age))
        return made, plan(priority=priority), diagnosis(origin)

    ai = candidate("a-1", "ai", 99, 9)
    rule = candidate("b-1", "rule", 10, 1)
    urgent = candidate("c-1", "rule", 20, 1)
    older = candidate("d-1", "rule", 20, 5)
    winners, losers = arbitrate([ai, rule, urgent, older], [], snapshot())
    assert [w[0].name for w in winners] == ["d-1"]
    assert set(losers) == {"a-1", "b-1", "c-1"}
    assert "d-1, which goes first (a rule, priority 20" in losers["a-1"]
    running = replace(record(sequence=7), plan=plan(), state=IncidentState.VERIFYING)
    winners, losers = arbitrate([urgent], [running], snapshot())
    assert winners == []
    assert "is under way" in losers["c-1"]


def test_unrelated_targets_do_not_conflict_but_a_node_conflicts_with_what_runs_on_it() -> None:
    cart = (record(), plan(), diagnosis())
    checkout_ref = replace(CART, name="checkout")
    checkout = (record(target=checkout_ref), plan(target=checkout_ref), diagnosis())
    assert len(arbitrate([cart, checkout], [], snapshot())[0]) == 2
    drain = (record(target=WORKER), plan("drain", WORKER, priority=90), diagnosis())
    winners, losers = arbitrate([cart, checkout, drain], [], snapshot())
    assert [w[1].action for w in winners] == ["drain", "restart"]
    assert list(losers) == [cart[0].name]  # cart runs on worker-0, checkout does not


def proof(path: list[float] | None = None, **extra: Any) -> dict[str, Any]:
    from clusterheal.engine.signals.models import path_of

    made: dict[str, Any] = {"entity": "workload/shop/cart", "feature": "f", "lower_is_better": True, **extra}
    if path is not None:
        kept = path_of(replace(forecast("e", "f", path), origin=NOW - minutes(5)), "f")
        assert kept is not None
        made["counterfactual"] = kept.to_dict()
    return made


def verified(
    *, observed: float | None, path: list[float] | None, gone: bool = True, ago: float = 5, **changes: Any
) -> Any:
    """The verdict `ago` minutes after the action."""
    seen = observation(signal(), resolved=minutes(3)) if gone else observation(signal())
    acted = action(age=minutes(ago))
    rec = record(
        state=IncidentState.VERIFYING,
        plan=plan(proof=proof(path, threshold=0.9)),
        action=acted,
        observations=(seen,),
    )
    current = {} if observed is None else {"workload/shop/cart": {"f": observed}}
    models = ModelVerdicts(data_at=NOW, current=current, contract_sha256="c")
    outcome = verify.judge(rec, acted, world(rec, models=models, **changes))
    return outcome and outcome.verdict


CRASH = snapshot((DEPLOYMENTS, deployment(available=0)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"observed": 0.3, "path": [0.8, 0.9, 0.95, 1.0, 1.0]}, Verdict.HELPED),
        ({"observed": 0.5, "path": [0.5] * 5}, Verdict.SELF_HEALED),  # it was forecast to be well
        ({"observed": 0.8, "path": [0.5] * 5}, Verdict.HELPED),  # it grew past a forecast that had not seen it
        ({"observed": None, "path": None}, Verdict.HELPED),
        ({"observed": 0.95, "path": [1.0] * 5}, None),  # still above the threshold, and early
        ({"observed": 0.95, "path": [1.0] * 5, "ago": 20}, Verdict.NO_EFFECT),
        ({"observed": 0.3, "path": [1.0] * 5, "gone": False}, None),  # "remediated" is not said while firing
        ({"observed": 0.3, "path": [1.0] * 5, "gone": False, "ago": 20}, Verdict.NO_EFFECT),
        ({"observed": 1.4, "path": [1.0] * 5, "gone": False, "ago": 20}, Verdict.HARMED),
        ({"observed": 0.3, "path": [1.0] * 5, "snapshot": CRASH, "ago": 3}, None),
        ({"observed": 0.3, "path": [1.0] * 5, "snapshot": CRASH, "ago": 8}, Verdict.HARMED),
        ({"observed": 0.3, "path": [1.0] * 5, "ago": 1}, None),  # too early for anything
    ],
)
def test_outcomes_are_judged_against_what_would_have_been(given: dict[str, Any], expected: Verdict | None) -> None:
    assert verified(**given) == expected


def test_a_sample_from_before_the_action_proves_nothing() -> None:
    acted = action(age=minutes(5))
    rec = record(
        state=IncidentState.VERIFYING,
        plan=plan(proof=proof([1.0] * 5)),
        action=acted,
        observations=(observation(resolved=minutes(3)),),
    )
    old = ModelVerdicts(data_at=NOW - minutes(6), current={"workload/shop/cart": {"f": 0.1}}, contract_sha256="c")
    outcome = verify.judge(rec, acted, world(rec, models=old))
    assert outcome is not None
    assert outcome.observed is None


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"), [(0, 0, 0, 0), (10, 10, 0.7, 0.73), (0, 5, 0, 0.01), (50, 100, 0.4, 0.41)]
)
def test_wilson_lower_bound(successes: int, trials: int, low: float, high: float) -> None:
    assert low <= wilson_lower_bound(successes, trials) <= high


def test_autonomy_is_earned_by_verified_successes() -> None:
    earning = Policy(name="p", mode="auto", autonomy=Autonomy(earn=True, start="approve", bar=0.7))
    few = [past(sequence=n) for n in range(3)]
    many = [past(sequence=n) for n in range(12)]
    assert earned_mode(earning, "restart", "Deployment", few)[0] == "approve"
    assert earned_mode(earning, "restart", "Deployment", many)[0] == "auto"
    assert earned_mode(earning, "scale", "Deployment", many)[0] == "approve"  # another class
    assert earned_mode(earning, "restart", "Deployment", [*many, past(Verdict.HARMED)])[0] == "approve"


def steps(*records: Any, **changes: Any) -> dict[str, Any]:
    return {s.after.name: s for s in decide(world(*records, **changes), LEADER)}


def test_an_open_incident_becomes_an_intent_with_everything_written_down() -> None:
    (step,) = steps(record()).values()
    assert (step.effect, step.after.state) == (Effect.ACT, IncidentState.ACTING)
    intent = step.after.action
    assert (intent.holder, intent.epoch, intent.before["available"]) == ("a", 3, 2)
    assert intent.not_after == NOW + Config().action_timeout
    assert [g.guard for g in step.after.guards] == [name for name, _ in GUARDS]
    assert [t.state for t in step.after.timeline] == ["Planned", "Acting"]


@pytest.mark.parametrize("broken", ["clusterheal.engine.decide.diagnose", "clusterheal.engine.decide.evaluate"])
def test_an_incident_that_no_decision_can_be_made_of_does_not_hold_up_the_others(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = broken.rsplit(".", 1)
    real = getattr(sys.modules[module], name)

    def fails(subject: Any, *rest: Any) -> Any:
        if getattr(subject, "record", subject).target == CART:
            raise ValueError("no quantity")
        return real(subject, *rest)

    monkeypatch.setattr(broken, fails)
    other = replace(CART, name="checkout", uid="uid-checkout")
    planned = replace(record(), plan=plan(), plan_id="p1", state=IncidentState.PLANNED)
    steps = {s.before.name: s for s in decide(world(planned, record(target=other)), LEADER)}
    assert steps["deployment-checkout-1"].effect is Effect.ACT
    assert steps["deployment-cart-1"].effect is None
    assert steps["deployment-cart-1"].after.plan is None
    old = replace(planned, opened_at=NOW - timedelta(hours=1))
    (step,) = decide(world(old), LEADER)
    assert step.after.state is IncidentState.ESCALATED
    assert "no quantity" in step.after.message


def test_the_same_world_gives_the_same_decisions() -> None:
    given = (
        record(),
        record(signal("saturation", target=replace(CART, name="checkout")), target=replace(CART, name="checkout")),
    )
    assert decide(world(*given), LEADER) == decide(world(*reversed(given)), LEADER)


def test_observing_records_what_would_be_done_and_does_nothing() -> None:
    (step,) = steps(record(), config=Config(mode="observe")).values()
    assert (step.effect, step.after.state) == (None, IncidentState.PLANNED)
    assert "mode is observe" in step.after.message


def test_suggesting_ends_with_the_suggestion() -> None:
    (step,) = steps(record(), config=Config(mode="suggest")).values()
    assert step.after.state is IncidentState.SUGGESTED


def test_approving_waits_and_then_acts_on_the_word_of_a_person() -> None:
    asked = Config(mode="approve")
    (step,) = steps(record(), config=asked).values()
    assert step.after.state is IncidentState.AWAITING_APPROVAL
    agreed = replace(step.after, approval=Approval(decision="approve", by="ann", at=NOW, plan_id=step.after.plan_id))
    (acted,) = steps(agreed, config=asked).values()
    assert acted.after.state is IncidentState.ACTING
    refused = replace(agreed, approval=replace(agreed.approval, decision="reject"))
    (ended,) = steps(refused, config=asked).values()
    assert ended.after.state is IncidentState.REJECTED


def test_the_plans_id_does_not_move_with_its_figures_but_with_what_it_does() -> None:
    first, second = plan(proof={"baseline": 1.0}), plan(proof={"baseline": 2.0})
    assert plan_id(record(), first) == plan_id(record(), second)
    assert plan_id(record(), first) != plan_id(record(), plan(to_replicas=3))


def test_trouble_that_goes_away_before_an_action_is_self_healed_after_a_quiet_time() -> None:
    over = record(observations=(observation(resolved=minutes(3)),))
    assert steps(over)[over.name].after.state is IncidentState.SELF_HEALED
    just_now = record(observations=(observation(resolved=minutes(1)),))
    assert steps(just_now) == {}


def test_a_budget_is_free_only_after_the_end_that_frees_it_is_stored() -> None:
    one_at_a_time = replace(AUTO, concurrent=1)
    checkout = replace(CART, name="checkout")
    ending = record(
        state=IncidentState.VERIFYING,
        plan=plan(target=checkout),
        action=action(age=minutes(20)),
        plan_id="p",
        observations=(observation(resolved=minutes(9)),),
        sequence=1,
        target=checkout,
    )
    waiting = record()
    made = steps(ending, waiting, policy=one_at_a_time)
    assert made[ending.name].after.ended
    assert made[waiting.name].effect is None
    assert "blast-radius" in made[waiting.name].after.message


def test_the_loser_is_recorded_and_looked_at_again() -> None:
    drain = record(signal("node-not-ready", target=WORKER, age=minutes(9)), target=WORKER)
    cart = record()
    broken = snapshot((NODES, node(ready=False)))
    made = steps(drain, cart, snapshot=broken)
    assert made[drain.name].effect is Effect.ACT
    assert made[cart.name].after.deferred_by is not None
    assert made[cart.name].after.state is IncidentState.PLANNED
    later = steps(replace(made[cart.name].after, planned_at=NOW - minutes(1)))
    assert later[cart.name].effect is Effect.ACT
    assert later[cart.name].after.deferred_by is None


def test_low_confidence_ends_as_an_explained_suggestion() -> None:
    unsure = record(an_anomaly(0.6), opened_at=NOW - minutes(11), planned_at=NOW - minutes(11))
    models = ModelVerdicts(contract_sha256="c", data_at=NOW)
    (step,) = steps(unsure, models=models).values()
    assert step.after.state is IncidentState.SUGGESTED
    assert "below the floor" in step.after.message


def test_what_nobody_can_explain_is_handed_to_people() -> None:
    odd = record(signal("other"), opened_at=NOW - minutes(11))
    (step,) = steps(odd).values()
    assert step.after.state is IncidentState.ESCALATED


@pytest.mark.parametrize(
    ("verdict_world", "state"),
    [
        ({"gone": True}, IncidentState.RESOLVED),
        ({"gone": False}, IncidentState.ESCALATED),
    ],
)
def test_verified_incidents_end(verdict_world: dict[str, bool], state: IncidentState) -> None:
    seen = observation(resolved=minutes(9)) if verdict_world["gone"] else observation()
    rec = record(
        state=IncidentState.VERIFYING, plan=plan(), plan_id="p", action=action(age=minutes(20)), observations=(seen,)
    )
    (step,) = steps(rec).values()
    assert step.after.state is state
    assert step.after.outcome is not None


def test_harm_is_taken_back_before_the_incident_ends() -> None:
    scaled = action("scale", age=minutes(20), parameters={"from_replicas": 2, "to_replicas": 3})
    rec = record(state=IncidentState.VERIFYING, plan=plan("scale"), plan_id="p", action=scaled)
    (step,) = steps(rec, snapshot=CRASH).values()
    assert (step.effect, step.after.state) == (Effect.RELEASE, IncidentState.VERIFYING)
    back = step.after.rollback
    assert (back.action, back.parameters) == ("scale", {"from_replicas": 3, "to_replicas": 2})
    again = decide(world(step.after, snapshot=CRASH), LEADER)
    assert again[0].effect is Effect.RELEASE  # until it is done


def test_a_cordon_never_outlives_its_incident() -> None:
    drained = action("drain", target=WORKER, age=minutes(20))
    rec = record(
        state=IncidentState.VERIFYING,
        target=WORKER,
        plan=plan("drain", WORKER),
        plan_id="p",
        action=drained,
        observations=(observation(signal(target=WORKER), resolved=minutes(9)),),
    )
    (step,) = steps(rec).values()
    assert (step.effect, step.after.rollback.action) == (Effect.RELEASE, "uncordon")


def test_intents_that_come_to_nothing_end_with_people() -> None:
    tried = record()
    for _ in range(5):
        tried = tried.moved(IncidentState.ACTING, "x", NOW).moved(IncidentState.PLANNED, "y", NOW)
    (step,) = steps(tried).values()
    assert step.after.state is IncidentState.ESCALATED


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"mode": "yolo"}, "mode"),
        ({"mode": "auto", "cooldown": "soon"}, "duration"),
        (
            {"mode": "auto", "windows": [{"kind": "block", "start": "09:00", "end": "10:00", "timezone": "Mars"}]},
            "Mars",
        ),
        ({"mode": "auto", "windows": [{"kind": "block", "start": "29:00", "end": "10:00"}]}, "hour"),
        ({"mode": "auto", "autonomy": {"start": "often"}}, "autonomy"),
    ],
)
def test_a_policy_that_does_not_validate_is_named_and_blocks(spec: dict[str, Any], says: str) -> None:
    parsed = parse_policies([{"metadata": {"name": "bad"}, "spec": spec}])
    assert says in parsed.problems["bad"]
    assert parsed.effective("restart", CART, {}).mode == "observe"


def test_where_policies_meet_the_strictest_value_holds() -> None:
    loose = {"mode": "auto", "cooldown": "5m", "limits": {"concurrent": 5}}
    tight = {"mode": "approve", "cooldown": "1m", "limits": {"concurrent": 1}, "targets": {"namespaces": ["shop"]}}
    both = parse_policies([{"metadata": {"name": "a"}, "spec": loose}, {"metadata": {"name": "b"}, "spec": tight}])
    effective = both.effective("restart", CART, {})
    assert (effective.mode, effective.cooldown, effective.concurrent) == ("approve", minutes(5), 1)
    elsewhere = both.effective("restart", replace(CART, namespace="other"), {})
    assert elsewhere.mode == "auto"


@pytest.mark.parametrize(
    ("namespace", "named", "mode"),
    [
        ("shop", [], "auto"),
        ("kubernetes-dashboard", [], "auto"),
        ("openshifters", [], "auto"),
        ("kube-system", [], "observe"),
        ("kube-node-lease", [], "observe"),
        ("openshift", [], "observe"),
        ("openshift-monitoring", [], "observe"),
        ("openshift-monitoring", ["shop", "openshift-monitoring"], "auto"),
        ("openshift-monitoring", ["openshift-ingress"], "observe"),
    ],
)
def test_the_clusters_own_namespaces_are_left_alone_unless_they_are_named(
    namespace: str, named: list[str], mode: str
) -> None:
    parsed = parse_policies([{"metadata": {"name": "p"}, "spec": {"mode": "auto", "targets": {"namespaces": named}}}])
    assert parsed.effective("restart", replace(CART, namespace=namespace), {}).mode == mode


def test_a_policy_without_namespaces_still_restricts_the_clusters_own() -> None:
    specs = {"named": {"mode": "auto", "targets": {"namespaces": ["kube-system"]}}, "everywhere": {"mode": "suggest"}}
    both = parse_policies([{"metadata": {"name": name}, "spec": spec} for name, spec in specs.items()])
    assert both.effective("restart", replace(CART, namespace="kube-system"), {}).mode == "suggest"


def test_quantities_durations_and_counts() -> None:
    assert quantity("512Mi") == 512 * 2**20
    assert quantity("250m") == 0.25
    assert duration("1h30m") == timedelta(minutes=90)
    assert [allowed_count(v, 10, default=1) for v in (None, 2, "25%", "1%")] == [1, 2, 2, 1]
    for bad in ("12Qi", "", "x"):
        with pytest.raises(InvalidInput):
            quantity(bad)
    with pytest.raises(InvalidInput):
        duration("5 minutes")


@pytest.mark.parametrize(
    ("source", "quiet"),
    [
        (SignalSource.DETECTOR, True),  # its window still holds the trouble, and the restart
        (SignalSource.ALERT, False),
        (SignalSource.FORECASTER, False),
        (SignalSource.KUBERNETES, False),
    ],
)
def test_after_an_action_facts_decide_and_the_detector_s_alarm_may_linger(source: SignalSource, quiet: bool) -> None:
    gone = observation(signal(age=minutes(9)), resolved=minutes(3))
    rec = record(observations=(gone, observation(signal(source=source, age=minutes(4)))))
    assert rec.quiet_for(minutes(2), NOW, acted=True) is quiet
    assert not rec.quiet_for(minutes(2), NOW), "before an action everything counts"


def test_a_detector_alone_must_fall_silent_unless_the_plan_s_metric_proves_the_effect() -> None:
    rec = record(observations=(observation(signal(source=SignalSource.DETECTOR, age=minutes(9))),))
    assert not rec.quiet_for(minutes(2), NOW, acted=True)
    assert rec.quiet_for(minutes(2), NOW, acted=True, proven=True)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (0.45, Verdict.HELPED),  # below all that was forecast without the action
        (0.57, None),  # within what was forecast: the detector may be right, so wait
        (0.95, None),  # past the threshold
    ],
)
def test_the_plan_s_metric_outweighs_a_detector_whose_window_still_holds_the_trouble(
    observed: float, expected: Verdict | None
) -> None:
    acted = action(age=minutes(5))
    detector = observation(signal(source=SignalSource.DETECTOR, age=minutes(8)))
    rec = record(
        state=IncidentState.VERIFYING,
        plan=plan(proof=proof([0.58] * 10, threshold=0.9)),
        action=acted,
        observations=(detector,),
    )
    models = ModelVerdicts(data_at=NOW, current={"workload/shop/cart": {"f": observed}}, contract_sha256="c")
    outcome = verify.judge(rec, acted, world(rec, models=models))
    assert (outcome and outcome.verdict) == expected


def test_what_only_the_detector_hints_at_waits_for_an_alert_to_say_what_it_is() -> None:
    hint = record(signal("cpu-throttling", source=SignalSource.DETECTOR, age=minutes(1)))
    made = steps(hint)
    assert hint.name not in made or not made[hint.name].after.ended
    fact = record(signal("cpu-throttling", age=minutes(9)), opened_at=NOW - minutes(9))
    assert steps(fact)[fact.name].after.state is IncidentState.ESCALATED
