"""The loop: look, decide, write, act, write again. Level-triggered, so a crash at any point is only a pause."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from clusterheal.clock import Clock
from clusterheal.contracts import IncidentState
from clusterheal.engine.actions import Gone, Refused
from clusterheal.engine.actions.apply import SKEW, FenceLost, IntentExpired, apply, was_applied
from clusterheal.engine.actions.drain import evictions
from clusterheal.engine.actions.hand_over import note, to_be_noted
from clusterheal.engine.audit import Reporter
from clusterheal.engine.cache import BEFORE_ACTING, Cache
from clusterheal.engine.decide import Effect, Step, concluded, decide
from clusterheal.engine.guards import GuardCase, evaluate
from clusterheal.engine.lease import Elector
from clusterheal.engine.pause import read_pause
from clusterheal.engine.policy import PolicySet, parse_policies
from clusterheal.engine.records import ActionRecord, Record
from clusterheal.engine.signals.models import ModelVerdicts
from clusterheal.engine.store import IncidentStore, Superseded
from clusterheal.engine.views import KINDS, Key
from clusterheal.engine.world import Config, Leadership, World
from clusterheal.errors import ClusterhealError
from clusterheal.kube.ports import ApiError, ApiRetryable, Cluster, Manifest
from clusterheal.kube.resources import REMEDIATION_POLICIES

log = logging.getLogger(__name__)

MAX_ROLLBACK_TRIES = 20
LOG_LINES = 20
SPACING = 0.25  # seconds between two rounds at least
LONGEST_YIELD, YIELD_STEP = 1.0, 0.05  # seconds


class Observer(Protocol):
    """Sources that the leader polls. `observe` stores what they see and returns the models' newest word."""

    async def observe(self, world: World) -> ModelVerdicts: ...


class Reconciler:
    """Owns the loop of one replica; decides and acts only while the elector says that it leads."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        cache: Cache,
        store: IncidentStore,
        elector: Elector,
        clock: Clock,
        config: Config,
        observer: Observer,
        reporter: Reporter,
        interval: timedelta,
        request_timeout: timedelta = timedelta(seconds=5),
        enrich: Callable[[World], Awaitable[World]] | None = None,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._store = store
        self._elector = elector
        self._clock = clock
        self._config = config
        self._observer = observer
        self._reporter = reporter
        self._interval = interval
        self._timeout = request_timeout.total_seconds()
        self._enrich = enrich
        self._wake = asyncio.Event()
        self._epoch = 0  # of the lease under which the present round decided
        self._policies_read: tuple[Mapping[Key, Manifest] | None, PolicySet] = (None, PolicySet())
        self.verdicts = ModelVerdicts()

    def poke(self) -> None:
        """Something changed: do not wait for the interval to pass."""
        self._wake.set()

    async def run(self) -> None:
        """Rounds for ever; a failed one is logged, counted and followed by the next."""
        while True:
            self._wake.clear()
            await self._yield_to_signals()
            if self._elector.leading:
                try:
                    await self.round()
                    self._reporter.round_done()
                except ClusterhealError as exc:
                    self._reporter.round_failed(exc)
                except Exception as exc:
                    log.exception("round failed")
                    self._reporter.round_failed(exc)
            await self._pause()

    async def _yield_to_signals(self) -> None:
        """Signals are stored first: their senders wait, and a decision on half of them is made again at once.

        A storm does not hold decisions up for longer than a second.
        """
        began = self._clock.monotonic()
        while self._store.busy and self._clock.monotonic() - began < LONGEST_YIELD:
            await self._clock.sleep(YIELD_STEP)

    async def _pause(self) -> None:
        """Until the interval has passed or somebody pokes; never at once, or a write that fails would spin."""
        await self._clock.sleep(min(SPACING, self._interval.total_seconds()))
        timer = asyncio.ensure_future(self._clock.sleep(self._interval.total_seconds()))
        poke = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({timer, poke}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            poke.cancel()

    def world(self) -> World:
        """This replica's view of everything."""
        snapshot = self._cache.snapshot()
        return World(
            now=self._clock.now(),
            snapshot=snapshot,
            records=self._store.records(),
            policies=self._policies(),
            models=self.verdicts,
            config=self._config,
            pause=read_pause(snapshot),
        )

    def _policies(self) -> PolicySet:
        """Parsed anew only when one has changed."""
        objects = self._cache.objects(REMEDIATION_POLICIES)
        if self._policies_read[0] is not objects:
            self._policies_read = (objects, parse_policies(objects.values()))
        return self._policies_read[1]

    async def round(self) -> None:
        """One pass: observe, decide, and carry out what was decided."""
        self.verdicts = await self._observer.observe(self.world())
        leadership = self._elector.leadership()
        if leadership is None:
            return
        steps = await self._decided(leadership)
        if any(step.intent for step in steps):
            # Decide again on a view that was read just now: budgets and rights must not rest on a lagging watch.
            await self._cache.refresh(BEFORE_ACTING)
            steps = await self._decided(leadership)
        self._epoch = leadership.epoch
        for step in steps:
            if not self._fenced():
                return  # even if it leads again: somebody else may have acted since this was decided
            try:
                await self._carry_out(step)
            except (Superseded, ApiRetryable, FenceLost) as exc:
                log.info("step put off", extra={"incident": step.before.name, "reason": str(exc)})
            except ClusterhealError as exc:  # refused for good: that is this incident's trouble and no other's
                log.warning("step failed", extra={"incident": step.before.name, "error": str(exc)})
                self._reporter.round_failed(exc)

    def _fenced(self) -> bool:
        """Whether the lease under which this round decided is still held, with time for one more request."""
        now = self._elector.leadership()
        return now is not None and now.epoch == self._epoch

    async def _decided(self, leadership: Leadership) -> list[Step]:
        world = self.world()
        if self._enrich is not None:
            world = await self._enrich(world)
        self._reporter.world(world)
        return decide(world, leadership)

    async def _carry_out(self, step: Step) -> None:
        record = step.before
        if step.after != step.before:
            after = await self._with_logs(step.after) if step.after.ended else step.after
            if to_be_noted(step.before, after):
                await note(self._cluster, after, self._clock.now())
            record = await self._store.write_status(after)
            self._reporter.step(step.before, record)
        if step.effect is Effect.ACT:
            await self._act(record, resumed=step.before.state is IncidentState.ACTING)
        elif step.effect is Effect.RELEASE:
            await self._release(record)

    async def _act(self, record: Record, *, resumed: bool) -> None:
        """Carry out the intent, or find that it was, or let it lapse."""
        intent = record.action
        assert intent is not None
        try:
            if intent.applied_at is None:
                if resumed and not await self._still_wanted(record, intent):
                    return
                applied = await self._apply(record, intent)
                before = record
                intent = replace(intent, applied_at=self._clock.now(), result="applied")
                record = await self._store.write_status(replace(record, action=intent))
                self._reporter.applied(before, record, again=applied)
            if intent.action == "drain" and not await self._evict(record, intent):
                return
            await self._verifying(record, intent)
        except IntentExpired as exc:
            await self._withdraw(record, f"not carried out: {exc}")
        except (Gone, Refused) as exc:
            await self._give_up(record, exc)
        except ApiError as exc:
            if exc.status != 409:
                raise
            log.info("target changed in between", extra={"incident": record.name, "error": str(exc)})

    async def _apply(self, record: Record, intent: ActionRecord) -> bool:
        applied = await apply(
            self._cluster,
            intent,
            record.name,
            clock=self._clock,
            fence=self._fenced,
            timeout_seconds=self._timeout,
        )
        self._cache.put(KINDS[intent.target.kind], applied.target)
        return applied.already

    async def _verifying(self, record: Record, intent: ActionRecord) -> None:
        intent = replace(intent, done_at=self._clock.now())
        message = f"{intent.action} on {intent.target} carried out; waiting for its effect"
        after = record.moved(IncidentState.VERIFYING, message, self._clock.now(), action=intent)
        written = await self._store.write_status(after)
        self._reporter.step(record, written)

    async def _still_wanted(self, record: Record, intent: ActionRecord) -> bool:
        """For an intent that somebody left behind: carried out already, or still right to carry out?

        If it is not right any more it must lapse, because its author might still be about to write: only when its time
        is over is it withdrawn.
        """
        if await was_applied(self._cluster, intent) is not None:
            return True
        await self._cache.refresh(BEFORE_ACTING)
        fresh = await self._store.read(record.name)
        world = replace(self.world(), records={**self.world().records, fresh.name: fresh})
        assert fresh.plan is not None
        assert fresh.diagnosis is not None
        case = GuardCase(
            plan=fresh.plan, diagnosis=fresh.diagnosis, record=fresh, world=world, plan_id=fresh.plan_id or ""
        )
        denied = [v for v in evaluate(case) if not v.allowed]
        if not denied and fresh.action == record.action:
            return True
        if self._clock.now() > intent.not_after + SKEW:
            await self._withdraw(fresh, "; ".join(f"{v.guard}: {v.reason}" for v in denied) or "superseded")
        return False

    async def _withdraw(self, record: Record, why: str) -> None:
        message = f"intent withdrawn: {why}"
        after = record.moved(IncidentState.PLANNED, message, self._clock.now(), action=None)
        self._reporter.step(record, await self._store.write_status(after))

    async def _give_up(self, record: Record, exc: Exception) -> None:
        gone = isinstance(exc, Gone)
        if not gone:
            self._reporter.refused(record)
        state = IncidentState.SELF_HEALED if gone else IncidentState.ESCALATED
        action = None if record.action is None else replace(record.action, result=f"withdrawn: {exc}")
        after = record.moved(state, str(exc), self._clock.now(), action=action)
        self._reporter.step(record, await self._store.write_status(after))

    async def _evict(self, record: Record, intent: ActionRecord) -> bool:
        """Evict what is left on the node; `True` once nothing is, or the time for it is over."""
        snapshot = self._cache.snapshot()
        left = evictions(intent.target.name, snapshot)
        policy = self.world().policy_for("drain", intent.target)
        assert intent.applied_at is not None
        if self._clock.now() - intent.applied_at > policy.drain_timeout:
            log.warning("drain incomplete", extra={"node": intent.target.name, "left": [p.name for p in left]})
            return True
        for pod in left:
            if not self._fenced():
                raise FenceLost("the lease ran out between evictions")
            try:
                await self._cluster.evict(pod.name, namespace=pod.namespace, uid=pod.uid or None)
                self._reporter.evicted(record, pod)
            except ApiRetryable as exc:
                log.info("eviction waits", extra={"pod": pod.name, "reason": str(exc)})
            except ApiError as exc:
                if exc.status not in (404, 409):
                    raise Refused(f"may not evict {pod.namespace}/{pod.name}: {exc}") from exc
        return not left

    async def _release(self, record: Record) -> None:
        """Take an action back before its incident ends."""
        intent = record.rollback
        assert intent is not None
        assert record.outcome is not None
        try:
            await self._apply(record, replace(intent, not_after=self._clock.now() + self._config.action_timeout))
            result = "applied"
        except (Gone, Refused) as exc:
            result = f"not possible: {exc}"
        except ApiError as exc:
            if exc.status != 409 or intent.attempts < MAX_ROLLBACK_TRIES:
                again = replace(record, rollback=replace(intent, attempts=intent.attempts + 1))
                await self._store.write_status(again)
                return
            result = f"not possible: {exc}"
        done = replace(record, rollback=replace(intent, done_at=self._clock.now(), result=result))
        ended = concluded(done, record.outcome, self.world())
        self._reporter.step(record, await self._store.write_status(ended))

    async def _with_logs(self, record: Record) -> Record:
        """Attach the last lines of a failing container where the diagnosis asks for them."""
        diagnosis = record.diagnosis
        if diagnosis is None or not diagnosis.evidence.get("wants_logs") or "log" in diagnosis.evidence:
            return record
        pods = [p for p in self._cache.snapshot().pods_of(record.target) if not p.ready]
        evidence = dict(diagnosis.evidence)
        for pod in pods[:1]:
            failing = next((c.name for c in pod.containers if c.restarts), None)
            try:
                text = await self._cluster.pod_log(
                    pod.name, namespace=pod.namespace, container=failing, previous=True, tail_lines=LOG_LINES
                )
                evidence["log"] = {"pod": pod.name, "container": failing, "lines": text[-4000:].splitlines()}
            except (ApiError, ApiRetryable) as exc:
                evidence["log"] = {"pod": pod.name, "error": str(exc)}
        return replace(record, diagnosis=replace(diagnosis, evidence=evidence))


__all__ = ["Observer", "Reconciler"]
