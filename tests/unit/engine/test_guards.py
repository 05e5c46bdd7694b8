"""Every guard as a table: what it lets pass, what it stops, and that it fails closed."""

from __future__ import annotations

from dataclasses import replace
from datetime import time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from engine_kit import (
    AUTO,
    CART,
    NOW,
    WORKER,
    action,
    budget,
    case,
    deployment,
    diagnosis,
    hpa,
    minutes,
    node,
    observation,
    past,
    plan,
    pod,
    pool,
    record,
    signal,
    snapshot,
)

from clusterheal.contracts import IncidentState, SignalSource, Verdict
from clusterheal.engine import guards
from clusterheal.engine.actions.drain import evictions
from clusterheal.engine.calibration import Proposal, measured_coverage
from clusterheal.engine.guards import (
    approval,
    blast_radius,
    confidence,
    contract,
    cooldown,
    disruption_budget,
    freshness,
    held,
    machine_config_pool,
    mode,
    pause,
    rate,
    silence,
    target,
    window,
)
from clusterheal.engine.policy import Autonomy, Policy, PolicySet, Window
from clusterheal.engine.records import Approval, Request
from clusterheal.engine.signals.models import ModelVerdicts
from clusterheal.engine.signals.silences import Matcher, Silence, Silences
from clusterheal.engine.signals.window_quality import WindowQuality
from clusterheal.engine.world import Config, Pause
from clusterheal.kube.resources import (
    APPLICATIONS,
    DEPLOYMENTS,
    HORIZONTAL_POD_AUTOSCALERS,
    MACHINE_CONFIG_POOLS,
    NAMESPACES,
    NODE_HEALTH_CHECKS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    POD_DISRUPTION_BUDGETS,
    PODS,
)

HOUR = timedelta(hours=1)
CLAIM = replace(CART, api_version="v1", kind="PersistentVolumeClaim", name="data", uid=None)
DRAIN = plan("drain", WORKER, ttl_seconds=60)
SCALE = plan("scale", from_replicas=2, to_replicas=3, max_replicas=10)


@pytest.mark.parametrize(
    ("engine", "policy", "allowed"),
    [
        ("auto", AUTO, True),
        ("approve", AUTO, True),
        ("observe", AUTO, False),
        ("suggest", AUTO, False),
        ("auto", Policy(name="p", mode="suggest"), False),
        ("auto", None, False),  # without a policy the engine observes
        ("auto", Policy(name="p", mode="auto", namespaces=frozenset({"other"})), False),
        ("auto", Policy(name="p", mode="auto", actions=frozenset({"scale"})), False),
    ],
)
def test_mode_is_the_strictest_of_engine_and_policy(engine: str, policy: Policy | None, allowed: bool) -> None:
    assert mode.check(case(policy=policy, config=Config(mode=engine)))[0] is allowed


def test_a_policy_that_cannot_be_read_holds_everything_at_observe() -> None:
    broken = PolicySet(policies=(AUTO,), problems={"bad": "unknown time zone"})
    allowed, reason = mode.check(case(policies=broken))
    assert not allowed
    assert "bad" in reason


def test_one_harm_takes_an_action_class_back_to_approval_until_forgiven() -> None:
    harmed = (past(Verdict.HARMED),)
    assert case(others=harmed).mode[0] == "approve"
    forgiven = replace(AUTO, autonomy=Autonomy(forgive_before=NOW))
    assert case(others=harmed, policy=forgiven).mode[0] == "auto"


@pytest.mark.parametrize(
    ("decision", "plan_id", "age", "allowed"),
    [
        (None, "", minutes(0), False),
        ("approve", "p1", minutes(1), True),
        ("approve", "p0", minutes(1), False),  # the plan changed after the approval
        ("approve", "p1", timedelta(hours=5), False),  # too old
        ("reject", "p1", minutes(1), False),
    ],
)
def test_approval_is_for_this_plan_and_recent(
    decision: str | None, plan_id: str, age: timedelta, allowed: bool
) -> None:
    given = None if decision is None else Approval(decision=decision, by="ann", at=NOW - age, plan_id=plan_id)
    checked = case(rec=record(approval=given), config=Config(mode="approve"))
    assert approval.check(checked)[0] is allowed


def test_asking_for_an_action_is_approving_it_but_not_another_one() -> None:
    asked = record(request=Request(action="restart", parameters={}, by="ann", at=NOW))
    assert approval.check(case(rec=asked, config=Config(mode="approve")))[0]
    assert not approval.check(case(SCALE, rec=asked, config=Config(mode="approve")))[0]


@pytest.mark.parametrize(("until", "allowed"), [(None, False), (NOW + minutes(1), False), (NOW - minutes(1), True)])
def test_a_pause_holds_until_it_expires(until: object, allowed: bool) -> None:
    assert pause.check(case(pause=Pause(until=until, reason="r", by="ann")))[0] is allowed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label", "allowed"),
    [("true", False), ("20260105T120100Z", False), ("20260105T115900Z", True), ("nonsense", False), ("false", True)],
)
def test_a_pause_label_on_namespace_or_object_holds(label: str, allowed: bool) -> None:
    labels = {"clusterheal.io/pause": label}
    on_namespace = snapshot((NAMESPACES, {"metadata": {"name": "shop", "labels": labels}}))
    on_object = snapshot((DEPLOYMENTS, deployment(labels=labels)))
    assert pause.check(case(snapshot=on_namespace))[0] is allowed
    assert pause.check(case(snapshot=on_object))[0] is allowed


def a_window(kind: str, start: int, end: int, zone: str = "UTC", days: str = "Mon") -> Window:
    return Window(
        name=kind, kind=kind, days=frozenset(days.split()), start=time(start), end=time(end), zone=ZoneInfo(zone)
    )


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ((), True),
        ((a_window("block", 11, 13),), False),
        ((a_window("block", 12, 13),), False),
        ((a_window("block", 11, 12),), True),  # the end is exclusive
        ((a_window("block", 11, 13, days="Tue"),), True),
        ((a_window("allow", 11, 13),), True),
        ((a_window("allow", 13, 14),), False),
        ((a_window("allow", 11, 13), a_window("block", 11, 13)), False),
        ((a_window("block", 22, 13, days="Sun"),), False),  # over midnight, begun on Sunday
        ((a_window("block", 22, 13, days="Mon"),), True),
        ((a_window("block", 20, 22, zone="Asia/Tokyo"),), False),  # 21:00 there
    ],
)
def test_windows_of_the_week(given: tuple[Window, ...], allowed: bool) -> None:
    assert window.check(case(policy=replace(AUTO, windows=given)))[0] is allowed


def test_a_target_that_is_gone_replaced_or_going_is_left_alone() -> None:
    gone = snapshot()
    gone = replace(gone, objects={**gone.objects, DEPLOYMENTS: {}})
    assert not target.check(case(snapshot=gone))[0]
    assert not target.check(case(snapshot=snapshot((DEPLOYMENTS, deployment(uid="another")))))[0]
    going = deployment(deletionTimestamp="2026-01-05T12:00:00Z")
    assert not target.check(case(snapshot=snapshot((DEPLOYMENTS, going))))[0]
    assert target.check(case())[0]


def test_nothing_is_done_on_a_resolved_signal() -> None:
    over = record(observations=(observation(resolved=minutes(0)),))
    assert not freshness.check(case(rec=over))[0]


@pytest.mark.parametrize(
    ("seen", "began", "allowed"),
    [
        (minutes(0), minutes(1), True),
        (minutes(11), minutes(20), False),  # nobody confirmed it lately
        (minutes(0), timedelta(hours=7), False),  # days-old events are not replayed into actions
        (minutes(0), -minutes(30), False),  # from the future
    ],
)
def test_old_signals_trigger_nothing(seen: timedelta, began: timedelta, allowed: bool) -> None:
    stale = record(observations=(observation(signal(age=began), age=seen),))
    assert freshness.check(case(rec=stale))[0] is allowed


def test_a_stale_view_of_the_cluster_is_not_acted_on() -> None:
    fresh = snapshot()
    old = replace(fresh, synced_at={**fresh.synced_at, PODS: NOW - minutes(11)})
    assert not freshness.check(case(snapshot=old))[0]
    unread = replace(fresh, synced_at={DEPLOYMENTS: NOW}, unreadable={PODS: "forbidden: list pods"})
    allowed, reason = freshness.check(case(snapshot=unread))
    assert not allowed
    assert "list pods" in reason


UNPROVEN = Config(mode="auto", ai_needs_outcomes=False)


@pytest.mark.parametrize(
    ("origin", "value", "allowed"),
    [
        ("rule", 0.1, True),
        ("ai", 0.8, True),
        ("ai", 0.79, False),
        ("ai", float("nan"), False),
    ],
)
def test_ai_below_its_floor_never_acts(origin: str, value: float, allowed: bool) -> None:
    assert confidence.check(case(why=diagnosis(origin, value), config=UNPROVEN))[0] is allowed


@pytest.mark.parametrize(("in_band", "allowed"), [(None, True), (0.79, True), (0.5, True), (0.4, False)])
def test_confidence_counts_only_while_the_measured_coverage_bears_it_out(in_band: float | None, allowed: bool) -> None:
    quality = WindowQuality(entities=9, series=90, silent=0.0, implausible=0.0, in_band=in_band)
    seen = case(why=diagnosis("ai", 0.95), models=ModelVerdicts(quality=quality), config=UNPROVEN)
    assert confidence.check(seen)[0] is allowed
    assert confidence.check(case(why=diagnosis("rule"), models=ModelVerdicts(quality=quality)))[0], "rules need none"


def test_a_policy_may_raise_the_confidence_floor() -> None:
    strict = replace(AUTO, confidence_floor=0.95)
    assert not confidence.check(case(why=diagnosis("ai", 0.9), policy=strict, config=UNPROVEN))[0]


@pytest.mark.parametrize(
    ("mode", "right", "wrong", "at", "allowed"),
    [
        ("auto", 0, 0, 0.9, False),  # nothing is known yet
        ("approve", 0, 0, 0.9, True),  # a person decides
        ("auto", 3, 0, 0.9, False),  # 1 - 1/4
        ("auto", 4, 0, 0.9, True),  # 1 - 1/5
        ("auto", 8, 1, 0.9, True),  # 1 - 2/10
        ("auto", 7, 1, 0.9, False),
        ("auto", 9, 0, 0.85, False),  # those were less sure than this one
    ],
)
def test_ai_acts_by_itself_only_where_its_outcomes_bear_it_out(
    mode: str, right: int, wrong: int, at: float, allowed: bool
) -> None:
    verdicts = [Verdict.HELPED] * right + [Verdict.NO_EFFECT] * wrong + [Verdict.SELF_HEALED] * 9
    others = tuple(
        past(verdict, sequence=100 + n, diagnosis=diagnosis("ai", at), name=f"past-{n}")
        for n, verdict in enumerate(verdicts)
    )
    seen = case(why=diagnosis("ai", 0.9), others=others, config=Config(mode=mode))
    assert confidence.check(seen)[0] is allowed
    by_rules = tuple(replace(r, diagnosis=diagnosis("rule")) for r in others)
    if mode == "auto":
        assert not confidence.check(case(why=diagnosis("ai", 0.9), others=by_rules))[0], "rules' outcomes are not AI's"


def test_coverage_is_measured_on_what_was_known_before() -> None:
    def judged(*right: bool) -> list[Proposal]:
        return [Proposal(action="restart", confidence=0.9, right=r) for r in right]

    assert measured_coverage([], 0.8) is None
    assert measured_coverage(judged(True, True, True, True), 0.8) is None, "none of the four was sure beforehand"
    assert measured_coverage(judged(*[True] * 5), 0.8) == 1.0
    assert measured_coverage(judged(*[True] * 4, False), 0.8) == 0.0
    assert measured_coverage(judged(*[True] * 9, False), 0.8) == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("verdicts", "allowed"),
    [
        (ModelVerdicts(contract_sha256="a"), True),
        (ModelVerdicts(contract_sha256="b"), False),
        (ModelVerdicts(contract_sha256="a", problem="down"), False),
        (ModelVerdicts(), False),
    ],
)
def test_what_rests_on_models_needs_their_contract(verdicts: ModelVerdicts, allowed: bool) -> None:
    seen = signal("anomaly", source=SignalSource.DETECTOR, details={"contract_sha256": "a"})
    assert contract.check(case(rec=record(seen), why=diagnosis("ai", 0.9), models=verdicts))[0] is allowed


def test_a_rule_on_an_alert_needs_no_model() -> None:
    assert contract.check(case(models=ModelVerdicts(problem="down")))[0]


@pytest.mark.parametrize(("age", "allowed"), [(minutes(14), False), (minutes(15), True)])
def test_no_restart_during_cooldown(age: timedelta, allowed: bool) -> None:
    assert cooldown.check(case(others=(past(age=age),)))[0] is allowed


def test_cooldown_is_per_object_and_counts_intents_whose_fate_is_unknown() -> None:
    elsewhere = past(action=action(target=replace(CART, name="checkout")))
    assert cooldown.check(case(others=(elsewhere,)))[0]
    unknown = past(action=action(applied_at=None, result=""))
    assert not cooldown.check(case(others=(unknown,)))[0]
    withdrawn = past(action=action(applied_at=None, result="withdrawn: paused"))
    assert cooldown.check(case(others=(withdrawn,)))[0]


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        (AUTO, True),
        (replace(AUTO, per_target_per_hour=2), False),
        (replace(AUTO, per_namespace_per_hour=2), False),
        (replace(AUTO, per_hour=2), False),
        (replace(AUTO, per_target_per_hour=0), False),
    ],
)
def test_limits_per_hour(policy: Policy, allowed: bool) -> None:
    two = (past(sequence=8), past(sequence=9))
    assert rate.check(case(others=two, policy=policy))[0] is allowed


def test_what_does_not_help_is_not_repeated_for_ever() -> None:
    futile = tuple(past(Verdict.NO_EFFECT, sequence=n, age=minutes(120 * n)) for n in (2, 3))
    allowed, reason = rate.check(case(others=futile))
    assert not allowed
    assert "a person has to look" in reason


def test_only_so_many_actions_at_once() -> None:
    moving = tuple(past(sequence=n, state=IncidentState.VERIFYING, ended_at=None) for n in (2, 3, 4))
    assert not blast_radius.check(case(others=moving))[0]
    assert blast_radius.check(case(others=moving[:2]))[0]


def test_no_node_is_touched_when_half_of_them_are_gone_or_it_is_control_plane() -> None:
    dark = snapshot((NODES, node("worker-0", ready=False)), (NODES, node("worker-1", ready=False)))
    assert not blast_radius.check(case(DRAIN, snapshot=dark))[0]
    one = snapshot((NODES, node("worker-0", ready=False)))
    assert blast_radius.check(case(DRAIN, snapshot=one))[0]
    control = snapshot((NODES, node("worker-0", labels={"node-role.kubernetes.io/control-plane": ""})))
    assert not blast_radius.check(case(DRAIN, snapshot=control))[0]


@pytest.mark.parametrize(
    ("made", "given", "allowed"),
    [
        ("restart", budget(1), True),
        ("restart", budget(0), False),
        ("restart", budget(1, observed=0), False),  # the controller has not looked since it changed
        ("scale", budget(0), True),  # takes no pod away
        ("drain", budget(0), True),  # each eviction asks the API server
    ],
)
def test_disruption_budgets(made: str, given: dict[str, object], allowed: bool) -> None:
    wanted = {"restart": plan(), "scale": SCALE, "drain": DRAIN}[made]
    seen = snapshot((POD_DISRUPTION_BUDGETS, given))
    assert disruption_budget.check(case(wanted, snapshot=seen))[0] is allowed


def test_unreadable_disruption_budgets_forbid() -> None:
    blind = replace(snapshot(), unreadable={POD_DISRUPTION_BUDGETS: "may not list poddisruptionbudgets"})
    allowed, reason = disruption_budget.check(case(snapshot=blind))
    assert not allowed
    assert "may not list poddisruptionbudgets" in reason


@pytest.mark.parametrize(
    ("objects", "allowed"),
    [
        ([], True),
        ([(MACHINE_CONFIG_POOLS, pool(updating=True))], False),
        ([(MACHINE_CONFIG_POOLS, pool(degraded=True))], False),
        ([(NODES, node("worker-1", cordoned=True))], False),  # somebody else's cordon uses the budget up
        ([(NODES, node("worker-1", ready=False))], False),
        ([(NODES, node("worker-1", cordoned=True)), (MACHINE_CONFIG_POOLS, pool(max_unavailable=2))], True),
        ([(NODES, node("worker-1", cordoned=True)), (MACHINE_CONFIG_POOLS, pool(max_unavailable="67%"))], True),
        ([(NODES, node("worker-0", annotations={"machineconfiguration.openshift.io/state": "Working"}))], False),
        (
            [(NODES, node("worker-0", annotations={"machineconfiguration.openshift.io/desiredConfig": "new"}))],
            False,
        ),
    ],
)
def test_one_budget_per_pool_over_all_actors(objects: list[tuple[object, dict[str, object]]], allowed: bool) -> None:
    assert machine_config_pool.check(case(DRAIN, snapshot=snapshot(*objects)))[0] is allowed


def test_our_own_running_drain_uses_the_pools_budget_before_the_cordon_shows() -> None:
    other = replace(WORKER, name="worker-1", uid="uid-worker-1")
    running = record(target=other, state=IncidentState.ACTING, plan=plan("drain", other))
    assert not machine_config_pool.check(case(DRAIN, others=(running,)))[0]


def test_workloads_on_nodes_under_upgrade_are_not_restarted() -> None:
    assert not machine_config_pool.check(case(snapshot=snapshot((MACHINE_CONFIG_POOLS, pool(updating=True)))))[0]
    assert machine_config_pool.check(case(SCALE, snapshot=snapshot((MACHINE_CONFIG_POOLS, pool(updating=True)))))[0]


def test_without_machine_config_pools_the_cluster_is_one_pool() -> None:
    plain = snapshot((NODES, node("worker-1", cordoned=True)))
    objects = {k: v for k, v in plain.objects.items() if k != MACHINE_CONFIG_POOLS}
    plain = replace(plain, objects=objects, absent=frozenset({MACHINE_CONFIG_POOLS}))
    assert not machine_config_pool.check(case(DRAIN, snapshot=plain))[0]


ARGO = {"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/cart"}}
HELM = {"annotations": {"meta.helm.sh/release-name": "shop"}}
OWNED = {"ownerReferences": [{"kind": "Cart", "name": "cart", "controller": True}]}


@pytest.mark.parametrize(
    ("made", "meta", "allowed", "says"),
    [
        ("restart", {}, True, "manual"),
        ("restart", ARGO, True, "argocd"),  # an annotation on the template is not in Git, nothing reverts it
        ("scale", ARGO, False, "argocd app sync shop"),
        ("scale", HELM, False, "helm upgrade shop <chart> --namespace shop"),
        ("undo", HELM, False, "helm rollback shop --namespace shop"),
        ("undo", ARGO, False, "argocd app rollback shop"),
        ("scale", OWNED, False, "Cart cart"),
        ("scale", {}, True, ""),
    ],
)
def test_how_an_object_is_deployed_decides(made: str, meta: dict[str, object], allowed: bool, says: str) -> None:
    wanted = {"restart": plan(), "scale": SCALE, "undo": plan("undo")}[made]
    verdict, reason = held.check(case(wanted, snapshot=snapshot((DEPLOYMENTS, deployment(**meta)))))
    assert verdict is allowed
    assert says in reason


def test_an_autoscaler_is_never_fought() -> None:
    seen = snapshot((HORIZONTAL_POD_AUTOSCALERS, hpa()))
    allowed, reason = held.check(case(SCALE, snapshot=seen))
    assert not allowed
    assert "cart-hpa" in reason
    assert held.check(case(SCALE, snapshot=snapshot((HORIZONTAL_POD_AUTOSCALERS, hpa("checkout")))))[0]


def test_replicas_stay_within_the_policy() -> None:
    assert not held.check(case(SCALE, policy=replace(AUTO, scale_max_replicas=2)))[0]


def test_the_engine_does_not_act_on_what_runs_it() -> None:
    running = replace(record(), namespace="shop")  # its own namespace is that of its incidents
    allowed, why = held.check(case(rec=running, config=Config(mode="auto", pod="cart-2-b")))
    assert not allowed
    assert "is this engine" in why
    assert held.check(case(rec=running, config=Config(mode="auto", pod="checkout-2-a")))[0], "another workload"
    assert held.check(case(config=Config(mode="auto", pod="cart-2-b")))[0], "a pod of that name elsewhere"
    assert held.check(case(rec=running, config=Config(mode="auto")))[0], "outside a cluster"


def test_a_drain_leaves_what_nothing_would_bring_back() -> None:
    pods = (
        pod(),
        pod("bare", owner_kind=None, owner_name=None),
        pod("agent", owner_kind="DaemonSet", owner_name="agent"),
        pod("going", deleting=True),
        pod("done", phase="Succeeded"),
    )
    assert [p.name for p in evictions("worker-0", snapshot(pods=pods))] == ["cart-2-a"]


def test_no_restart_into_an_unfinished_rollout_or_a_paused_deployment() -> None:
    assert not held.check(case(snapshot=snapshot((DEPLOYMENTS, deployment(available=1)))))[0]
    paused = deployment()
    paused["spec"]["paused"] = True
    assert not held.check(case(snapshot=snapshot((DEPLOYMENTS, paused))))[0]


@pytest.mark.parametrize(
    ("meta", "cordoned", "allowed"),
    [
        ({}, False, True),
        ({}, True, False),  # a person's cordon
        ({"annotations": {"clusterheal.io/cordoned-by": "node-worker-0-1"}}, True, True),  # this incident's own
        ({"annotations": {"clusterheal.io/cordoned-by": "node-worker-0-7"}}, True, False),
        ({"annotations": {"remediation.medik8s.io/in-progress": "x"}}, False, False),  # NodeHealthCheck is at work
    ],
)
def test_two_remediators_never_hold_one_node(meta: dict[str, object], cordoned: bool, allowed: bool) -> None:
    seen = snapshot((NODES, node("worker-0", cordoned=cordoned, **meta)))
    assert held.check(case(DRAIN, snapshot=seen))[0] is allowed


def application(**fields: object) -> dict[str, object]:
    return {"metadata": {"name": "shop", "namespace": "openshift-gitops"}, "status": {}, **fields}


@pytest.mark.parametrize(
    ("app", "allowed"),
    [
        (application(), True),
        (application(operation={"sync": {}}), False),
        (application(status={"operationState": {"phase": "Running"}}), False),
        (application(status={"operationState": {"phase": "Succeeded"}}), True),
    ],
)
def test_nothing_is_done_while_argo_cd_syncs_the_object(app: Any, allowed: bool) -> None:
    seen = snapshot((DEPLOYMENTS, deployment(**ARGO)), (APPLICATIONS, app))
    assert held.check(case(snapshot=seen))[0] is allowed


def test_an_unreadable_argo_cd_forbids_what_it_deploys() -> None:
    seen = snapshot((DEPLOYMENTS, deployment(**ARGO)), unreadable={APPLICATIONS: "forbidden"})
    assert not held.check(case(snapshot=seen))[0]


@pytest.mark.parametrize(
    ("status", "taints", "labels", "says"),
    [
        ({"inFlightRemediations": {"worker-0": "2026-01-05T11:00:00Z"}}, [], {}, "NodeHealthCheck is remediating"),
        ({"unhealthyNodes": [{"name": "worker-0", "remediations": [{}]}]}, [], {}, "NodeHealthCheck is remediating"),
        ({}, [{"key": "medik8s.io/remediation", "effect": "NoExecute"}], {}, "taint medik8s.io/remediation"),
        ({}, [], {"nvidia.com/gpu-driver-upgrade-state": "drain-required"}, "GPU operator"),
        ({"unhealthyNodes": [{"name": "worker-0"}]}, [], {"nvidia.com/gpu-driver-upgrade-state": "upgrade-done"}, ""),
    ],
)
def test_who_else_works_on_a_node_is_left_alone(status: Any, taints: Any, labels: Any, says: str) -> None:
    worker = node("worker-0")
    worker["spec"]["taints"] = taints
    worker["metadata"]["labels"] |= labels
    check = {"metadata": {"name": "workers"}, "status": status}
    allowed, reason = held.check(case(DRAIN, snapshot=snapshot((NODES, worker), (NODE_HEALTH_CHECKS, check))))
    assert allowed is (not says)
    assert says in reason


def test_a_remediation_elsewhere_in_the_pool_uses_its_budget() -> None:
    check = {"metadata": {"name": "workers"}, "status": {"inFlightRemediations": {"worker-1": "2026-01-05T11:00:00Z"}}}
    allowed, reason = machine_config_pool.check(case(DRAIN, snapshot=snapshot((NODE_HEALTH_CHECKS, check))))
    assert not allowed
    assert "worker-1" in reason


@pytest.mark.parametrize(
    ("notes", "spec", "says"),
    [
        ({"machineconfiguration.openshift.io/desiredDrain": "drain-abc"}, {}, "about to drain"),
        (
            {
                "machineconfiguration.openshift.io/desiredDrain": "uncordon-abc",
                "machineconfiguration.openshift.io/lastAppliedDrain": "uncordon-abc",
            },
            {},
            "",
        ),
        ({}, {"paused": True}, "paused by somebody"),
    ],
)
def test_the_machine_config_operator_goes_first(notes: Any, spec: Any, says: str) -> None:
    held_pool = pool()
    held_pool["spec"] |= spec
    seen = snapshot((NODES, node("worker-0", annotations=notes)), (MACHINE_CONFIG_POOLS, held_pool))
    allowed, reason = machine_config_pool.check(case(DRAIN, snapshot=seen))
    assert allowed is (not says)
    assert says in reason


RAISE = plan("patch-resources", container="main", resource="memory", from_limit="256Mi", to_limit="512Mi")
GROW = plan("expand-volume", CLAIM, from_size="10Gi", to_size="13Gi")


@pytest.mark.parametrize(("bound", "allowed"), [(None, False), (256 * 2.0**20, False), (512 * 2.0**20, True)])
def test_limits_are_raised_only_within_the_policy(bound: float | None, allowed: bool) -> None:
    assert held.check(case(RAISE, policy=replace(AUTO, memory_max=bound)))[0] is allowed


@pytest.mark.parametrize(
    ("bound", "conditions", "allowed"),
    [
        (None, [], False),
        (12 * 2.0**30, [], False),
        (13 * 2.0**30, [], True),
        (13 * 2.0**30, [{"type": "FileSystemResizePending", "status": "True"}], False),
    ],
)
def test_volumes_grow_only_within_the_policy_and_one_step_at_a_time(
    bound: float | None, conditions: Any, allowed: bool
) -> None:
    claim = {"metadata": {"name": "data", "namespace": "shop"}, "spec": {}, "status": {"conditions": conditions}}
    seen = snapshot((PERSISTENT_VOLUME_CLAIMS, claim))
    assert held.check(case(GROW, policy=replace(AUTO, volume_max=bound), snapshot=seen))[0] is allowed


def test_a_raise_of_limits_respects_disruption_budgets_unless_its_pods_are_down_already() -> None:
    tight = snapshot((POD_DISRUPTION_BUDGETS, budget(0)))
    assert not disruption_budget.check(case(RAISE, snapshot=tight))[0]
    down = snapshot((POD_DISRUPTION_BUDGETS, budget(0)), pods=(pod(ready=False), pod("cart-2-b")))
    assert disruption_budget.check(case(RAISE, snapshot=down))[0]


def muted(*matchers: tuple[str, str, bool, bool], ends: timedelta = HOUR) -> Silences:
    made = tuple(Matcher(name=n, value=v, regex=r, equal=e) for n, v, r, e in matchers)
    silence_ = Silence(
        id="s", matchers=made, starts_at=NOW - HOUR, ends_at=NOW + ends, created_by="ann", comment="known"
    )
    return Silences(known=(silence_,), read_at=NOW)


@pytest.mark.parametrize(
    ("silences", "allowed"),
    [
        (None, True),  # no Alertmanager is configured
        (Silences(read_at=NOW), True),
        (Silences(problem="no answer"), False),
        (Silences(read_at=NOW - minutes(11), problem="no answer"), False),
        (muted(("namespace", "shop", False, True)), False),
        (muted(("namespace", "sh.*", True, True)), False),
        (muted(("namespace", "sh", True, True)), True),  # Alertmanager anchors its expressions
        (muted(("alertname", "memory-leak", False, True), ("severity", "critical", False, False)), False),
        (muted(("alertname", "Other", False, True)), True),
        (muted(("namespace", "shop", False, True), ends=-minutes(1)), True),
    ],
)
def test_what_is_silenced_is_left_alone(silences: Silences | None, allowed: bool) -> None:
    assert silence.check(case(silences=silences))[0] is allowed


def test_a_guard_that_fails_forbids_and_the_others_still_answer() -> None:
    broken = snapshot(pods=(pod(labels=None),))  # type: ignore[arg-type]
    broken = replace(broken, objects={**broken.objects, POD_DISRUPTION_BUDGETS: {("shop", "x"): budget()}})
    verdicts = {v.guard: v for v in guards.evaluate(case(snapshot=broken))}
    assert not verdicts["disruption-budget"].allowed
    assert "the guard failed" in verdicts["disruption-budget"].reason
    assert verdicts["mode"].allowed
    assert len(verdicts) == len(guards.GUARDS)


def test_a_healthy_case_passes_every_guard() -> None:
    assert [v for v in guards.evaluate(case()) if not v.allowed] == []
