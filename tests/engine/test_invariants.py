"""Every invariant of the simulation refuses a breach that is planted for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from clusterheal.contracts import IncidentState, ObjectRef, Signal, SignalSource
from clusterheal.engine.codec import encode
from clusterheal.engine.names import ACTION, CORDON_OWNER, RESTARTED_AT
from clusterheal.engine.records import ActionRecord, Observation, Record
from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.store import Change
from clusterheal.local.simulation.invariants import GRACE, Bounds, Broken, Checker
from clusterheal.local.simulation.scenario import NAMESPACE, POOL_KEY
from clusterheal.local.simulation.virtual_time import START

LATER = START + timedelta(minutes=1)
BOUNDS = Bounds(concurrent=2, max_unavailable=1, per_hour=3, per_target_per_hour=2, cooldown=timedelta(seconds=60))


def workload(name: str = "cart") -> ObjectRef:
    return ObjectRef(api_version="apps/v1", kind="Deployment", namespace="shop", name=name)


def node(name: str) -> ObjectRef:
    return ObjectRef(api_version="v1", kind="Node", namespace=None, name=name)


def incident(target: ObjectRef, number: int = 1, *, epoch: int = 1, holder: str = "a", **changes: Any) -> Record:
    """An incident that means to act, with one signal that is still there."""
    seen = Observation(
        signal=Signal(source=SignalSource.ALERT, name="A", fingerprint="f", target=target, starts_at=START, details={}),
        first_seen=START,
        last_seen=START,
    )
    name = f"{target.kind.lower()}-{target.name}-{number}"
    intent = ActionRecord(
        id=f"act-{name}", action="restart", target=target, parameters={}, intent_at=START, not_after=LATER,
        holder=holder, epoch=epoch,
    )  # fmt: skip
    record = Record(
        name=name, namespace=NAMESPACE, target=target, opened_at=START, observations=(seen,),
        state=IncidentState.ACTING, action=intent,
    )  # fmt: skip
    return replace(record, **changes)


def resolved(record: Record, at: datetime) -> Record:
    return replace(record, observations=tuple(replace(o, resolved_at=at) for o in record.observations))


class Story:
    """Feeds a checker with writes in their order; `at` moves the time."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.checker = Checker(bounds)
        self.now = START
        self._objects: dict[tuple[str, str], Manifest] = {}

    def at(self, moment: datetime) -> Story:
        self.now = moment
        return self

    def incident(self, record: Record) -> Story:
        return self._write("incidents.clusterheal.io", record.name, encode(record))

    def node(self, name: str, *, cordoned: bool = False, ready: bool = True, owner: str | None = None) -> Story:
        notes = {} if owner is None else {CORDON_OWNER: owner}
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        spec = {"unschedulable": True} if cordoned else {}
        metadata = {"name": name, "annotations": notes}
        return self._write("nodes", name, {"metadata": metadata, "spec": spec, "status": {"conditions": conditions}})

    def pool(self, *, updating: bool) -> Story:
        conditions = [{"type": "Updating", "status": "True" if updating else "False"}]
        return self._write(POOL_KEY, "worker", {"metadata": {"name": "worker"}, "status": {"conditions": conditions}})

    def acted(self, name: str, action: str | None, *, restarted_at: str = "1") -> Story:
        """The Deployment carries this action's mark."""
        template = {"metadata": {"annotations": {RESTARTED_AT: restarted_at}}}
        metadata = {"name": name, "annotations": {} if action is None else {ACTION: action}}
        return self._write("deployments.apps", name, {"metadata": metadata, "spec": {"template": template}})

    def _write(self, resource: str, name: str, new: Manifest) -> Story:
        old = self._objects.get((resource, name))
        self._objects[resource, name] = new
        change = Change(revision=1, resource=resource, namespace="", old=old, new=new)
        self.checker.change(change, self.now)
        return self


def test_a_whole_incident_passes() -> None:
    meant = incident(workload())
    story = Story().pool(updating=False).node("worker-0").acted("cart", None).incident(meant)
    story.acted("cart", "act-deployment-cart-1").incident(replace(meant, state=IncidentState.VERIFYING))
    story.at(LATER).incident(replace(resolved(meant, START), state=IncidentState.RESOLVED))
    story.checker.at_end(LATER)
    assert story.checker.actions == 1


def test_two_holders_of_an_object() -> None:
    story = Story().incident(incident(workload(), 1))
    with pytest.raises(Broken, match="both hold"):
        story.incident(incident(workload(), 2))


def test_more_actions_at_once_than_the_budget() -> None:
    story = Story().incident(incident(workload("a"))).incident(incident(workload("b")))
    with pytest.raises(Broken, match="3 actions at once, the budget is 2"):
        story.incident(incident(workload("c")))


def test_more_actions_in_an_hour_than_allowed() -> None:
    story = Story()
    for name in ("a", "b", "c"):
        meant = incident(workload(name))
        story.incident(meant).acted(name, None).acted(name, meant.action.id if meant.action else "")
        story.incident(replace(meant, state=IncidentState.RESOLVED))
    late = incident(workload("d"))
    story.incident(late).acted("d", None)
    with pytest.raises(Broken, match="4 actions in all within the hour, the limit is 3"):
        story.acted("d", "act-deployment-d-1")


def test_an_object_acted_on_again_inside_its_cooldown() -> None:
    first, second = incident(workload(), 1), incident(workload(), 2)
    story = Story().incident(first).acted("cart", "act-deployment-cart-1")
    story.incident(replace(first, state=IncidentState.RESOLVED)).incident(second)
    story.at(START + BOUNDS.cooldown - GRACE - timedelta(seconds=1))
    with pytest.raises(Broken, match="is acted on 0:00:39 after the last action"):
        story.acted("cart", "act-deployment-cart-2")


@pytest.mark.parametrize("away", [{"cordoned": True}, {"ready": False}])
def test_a_node_taken_away_while_another_is_away(away: dict[str, bool]) -> None:
    story = Story().node("worker-0").node("worker-1").node("worker-1", **away)
    story.at(START + GRACE + timedelta(seconds=1))
    with pytest.raises(Broken, match=r"takes worker-0 away while \['worker-1'\] are away already"):
        story.incident(incident(node("worker-0")))


def test_a_node_taken_away_while_another_incident_holds_one() -> None:
    story = Story().node("worker-0").node("worker-1").incident(incident(node("worker-1")))
    with pytest.raises(Broken, match="takes worker-0 away"):
        story.incident(incident(node("worker-0")))


def test_an_action_while_the_pool_changes() -> None:
    story = Story().pool(updating=True).incident(incident(workload()))
    story.at(START + GRACE + timedelta(seconds=1))
    with pytest.raises(Broken, match="while the MachineConfigPool has been changing"):
        story.acted("cart", "act-deployment-cart-1")
    calm = Story().pool(updating=True).pool(updating=False).incident(incident(workload()))
    calm.at(START + GRACE + timedelta(seconds=1)).acted("cart", "act-deployment-cart-1")


def test_an_action_carried_out_twice() -> None:
    story = Story().incident(incident(workload())).acted("cart", "act-deployment-cart-1")
    with pytest.raises(Broken, match="carried out twice: the pods are restarted again"):
        story.acted("cart", "act-deployment-cart-1", restarted_at="2")


def test_an_action_marked_twice() -> None:
    story = Story().incident(incident(workload())).acted("cart", "act-deployment-cart-1").acted("cart", None)
    with pytest.raises(Broken, match="was carried out 2 times"):
        story.acted("cart", "act-deployment-cart-1")


def test_an_action_without_a_stored_intent() -> None:
    with pytest.raises(Broken, match="without a stored intent"):
        Story().acted("cart", "act-unknown")


def test_an_action_after_its_intent_was_withdrawn() -> None:
    story = Story().incident(incident(workload(), state=IncidentState.PLANNED))
    with pytest.raises(Broken, match="was carried out while deployment-cart-1 is Planned"):
        story.acted("cart", "act-deployment-cart-1")


def test_an_intent_on_a_resolved_signal() -> None:
    with pytest.raises(Broken, match="every signal of it is resolved"):
        Story().incident(resolved(incident(workload()), START))


def test_an_action_on_a_signal_that_was_resolved_before_it() -> None:
    meant = incident(workload())
    story = Story().incident(meant).incident(resolved(meant, START)).at(START + GRACE + timedelta(seconds=1))
    with pytest.raises(Broken, match="though every signal of deployment-cart-1 was resolved"):
        story.acted("cart", "act-deployment-cart-1")


def test_two_leaders_in_one_epoch() -> None:
    story = Story().incident(incident(workload("a"), epoch=7, holder="a"))
    with pytest.raises(Broken, match="epoch 7 has two leaders, a and b"):
        story.incident(incident(workload("b"), epoch=7, holder="b"))


def test_an_incident_that_comes_back_from_its_end() -> None:
    story = Story().incident(incident(workload(), state=IncidentState.RESOLVED))
    with pytest.raises(Broken, match="came back from its end"):
        story.incident(incident(workload()))


def test_an_incident_without_an_end() -> None:
    story = Story().incident(incident(workload()))
    with pytest.raises(Broken, match=r"without an end: .*deployment-cart-1"):
        story.checker.at_end(LATER)


def test_a_cordon_that_is_left_behind() -> None:
    story = Story().node("worker-0", cordoned=True, owner="node-worker-0-1")
    with pytest.raises(Broken, match=r"cordons of ours are left on \['worker-0'\]"):
        story.checker.at_end(LATER)
