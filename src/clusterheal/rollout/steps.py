"""The steps of a rollout. Each can be repeated after a kill, and each ends with the state that names the next one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from clusterheal.clock import Clock
from clusterheal.contracts import ModelPackage
from clusterheal.errors import ClusterhealError
from clusterheal.kube.ports import ApiError, Cluster, Manifest
from clusterheal.rollout.asking import Asking
from clusterheal.rollout.probe import FAILED_POLLS, load_failure, not_ready_reason
from clusterheal.rollout.result import OnStep, StepRecord
from clusterheal.rollout.service import Canary, Service, address_of
from clusterheal.rollout.shadow import has_canary, shadow_name, start_shadow, stop_shadow
from clusterheal.rollout.state import RolloutState, Step, StepFailed
from clusterheal.settings import RolloutSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = logging.getLogger(__name__)

BAD_ROUNDS = 2  # in a row: one lost request while a pod moves is no reason to go back


@dataclass(kw_only=True)
class Rollout:
    """One rollout of one holder. `state` is what was last written; `records` what was done, for the result."""

    cluster: Cluster
    service: Service
    asking: Asking
    state: RolloutState
    on_step: OnStep
    records: list[StepRecord] = field(default_factory=list)
    url: str | None = None

    async def shadow(self) -> None:
        """The candidate beside the incumbent: ready, golden requests answered, not worse on the same windows."""
        async with self._timed("stage") as note:
            incumbent = await self._object(self.service)
            await start_shadow(self.cluster, self.service, incumbent, self.state.target)
            url = await self._serving(self._shadow, self.package.sha256)
            note(await self.asking.golden(url))
        async with self._timed("shadow") as note:
            baseline, compared = await self.asking.compare(address_of(incumbent), url, self._keep)
            note(compared)
        await stop_shadow(self.cluster, self.service)
        canary = self.settings.strategy != "shadow" and await has_canary(self.cluster, incumbent)
        step = Step.CANARY if canary else Step.PROMOTE
        self.state = await self.service.write(
            self.state.at(step, self.clock.now(), baseline=baseline), self.state.previous
        )

    async def canary(self) -> None:
        """A growing share of the Route's traffic for the candidate; dropped fields and failures are noticed."""
        name = f"{self.service.name}-{self.state.target.version or 'candidate'}"
        for percent in self.settings.canary_steps:
            async with self._timed(f"canary {percent} %") as note:
                canary = Canary(name=name, uri=self.state.target.uri, percent=percent)
                self.state = await self.service.write(self.state, self.state.previous, canary)
                if not (await self._object(self.service))["spec"].get("canary"):
                    note("the API server dropped spec.canary, its CRD is older: promoted without")
                    break
                await self._canary_ready(name)
                note(await self._watch(self.settings.bake, expected=None))
        self.state = await self.service.write(self.state.at(Step.PROMOTE, self.clock.now()), self.state.previous)

    async def promote(self) -> None:
        """The InferenceService serves the candidate: by its own word, by its hash, and by its answers."""
        async with self._timed("promote") as note:
            self.state = await self.service.write(self.state, self.state.target)
            self.url = await self._serving(self.service, self.package.sha256)
            note(await self.asking.golden(self.url))
        self.state = await self.service.write(self.state.at(Step.BAKE, self.clock.now()), self.state.target)

    async def bake(self) -> None:
        """Watch the candidate in service; without a predecessor there is nothing to go back to, and no watch.

        Where the two could be compared in shadow, the version before runs beside it meanwhile, and they still are.
        """
        rest = self.settings.bake - (self.clock.now() - self.state.step_since)
        replaced = self.state.previous is not None and self.state.previous.uri != self.state.target.uri
        if replaced and rest > timedelta(0):
            async with self._timed("bake") as note:
                beside = self.settings.keep_previous and self.state.baseline.p99 is not None
                note(await self._watch(rest, expected=self.package.sha256, beside=beside))
        self.state = await self.service.write(self.state.at(Step.FINISH, self.clock.now()), self.state.target)

    async def finish(self) -> None:
        """The candidate stays; what was kept beside it goes."""
        await stop_shadow(self.cluster, self.service)
        await self.service.release(self.state.target, replaced=self.state.previous)

    async def roll_back(self, reason: str) -> str | None:
        """Serve what was served before; returns why that did not come back, None when it did."""
        async with self._timed("roll back") as note:
            state = self.state.at(Step.ROLL_BACK, self.clock.now(), reason=reason)
            if state.previous is None and state.created:
                self.state = await self.service.write(state, state.target)
                await stop_shadow(self.cluster, self.service)
                await self.service.delete()
                note("nothing was in service before: the InferenceService was removed")
                return None
            self.state = await self.service.write(state, state.previous)
            await stop_shadow(self.cluster, self.service)
            problem = None
            if state.previous is None:
                note("nothing was in service before: the model path was taken back")
            else:
                try:
                    self.url = await self._serving(self.service, state.previous_sha256)
                    note(f"{state.previous.version or state.previous.uri} is back")
                except StepFailed as exc:
                    problem = f"{state.previous.version or state.previous.uri} did not come back: {exc}"
                    note(problem)
            await self.service.release(state.previous)
            return problem

    async def _watch(self, duration: timedelta, *, expected: str | None, beside: bool = False) -> str:
        """Look again and again for `duration`; what was seen, in words. `expected`: the package that must answer.

        `beside`: the version before is kept beside it, to compare their answers.

        Raises:
            StepFailed: `BAD_ROUNDS` looks in a row broke a limit.
        """
        until = self.clock.monotonic() + duration.total_seconds()
        looks = bad = 0
        shares: list[float] = []
        while True:
            found, share = await self._look(expected, beside=beside)
            looks += 1
            shares += [] if share is None else [share]
            bad = bad + 1 if found else 0
            if bad >= BAD_ROUNDS:
                raise StepFailed(f"while watched: {'; '.join(found)}")
            if self.clock.monotonic() >= until and not found:
                return f"{looks} looks, no breach; {_agreed(shares, beside=beside)}"
            await self.clock.sleep(self.settings.poll.total_seconds())
            await self._keep()

    async def _look(self, expected: str | None, *, beside: bool) -> tuple[list[str], float | None]:
        service = await self._object(self.service)
        problem = not_ready_reason(service)
        url = address_of(service)
        if problem is None and url is not None and expected is not None:
            problem = await self.asking.identity(url, expected)
        if problem is not None or url is None:
            return [problem or "the status has no address"], None
        previous = await self._previous_url() if beside else None
        return await self.asking.look(url, self.state.baseline, previous, self._keep)

    async def _previous_url(self) -> str | None:
        """Where the version before answers, that is kept beside the candidate; it is made when it is not there."""
        found = await self._shadow.read()
        if found is None and self.state.previous is not None:
            incumbent = await self._object(self.service)
            try:
                await start_shadow(self.cluster, self.service, incumbent, self.state.previous)
            except ApiError as exc:  # a quota, say: no reason to take a good version back
                log.warning("the version before cannot run beside it", extra={"reason": str(exc)})
        if found is None or not_ready_reason(found) is not None:
            return None
        url = str(address_of(found))
        return url if await self.asking.identity(url, self.state.previous_sha256) is None else None

    async def _serving(self, service: Service, sha256: str | None) -> str:
        """Wait until `service` serves the package with that hash (None: whatever it is); its address.

        Raises:
            StepFailed: not within `ready_timeout`, or KServe gave it up.
        """
        deadline = self.clock.monotonic() + self.settings.ready_timeout.total_seconds()
        failures = 0
        while True:
            found = await self._object(service)
            failure = load_failure(found)
            failures = failures + 1 if failure else 0
            if failure and failures >= FAILED_POLLS:
                raise StepFailed(f"{service.name} does not load: {failure}")
            problem = not_ready_reason(found) or await self.asking.identity(str(address_of(found)), sha256)
            if problem is None:
                return str(address_of(found))
            if self.clock.monotonic() >= deadline:
                seconds = self.settings.ready_timeout.total_seconds()
                raise StepFailed(f"{service.name} did not serve within {seconds:g} s: {failure or problem}")
            await self.clock.sleep(self.settings.poll.total_seconds())
            await self._keep()

    async def _canary_ready(self, name: str) -> None:
        deadline = self.clock.monotonic() + self.settings.ready_timeout.total_seconds()
        while True:
            status = (await self._object(self.service)).get("status") or {}
            if any(c.get("name") == name and c.get("ready") for c in status.get("canaryStatuses") or []):
                return
            if self.clock.monotonic() >= deadline:
                raise StepFailed(
                    f"canary {name} was not ready within {self.settings.ready_timeout.total_seconds():g} s"
                )
            await self.clock.sleep(self.settings.poll.total_seconds())
            await self._keep()

    async def _object(self, service: Service) -> Manifest:
        found = await service.read()
        if found is None:
            raise StepFailed(f"InferenceService {service.namespace}/{service.name} is gone")
        return found

    async def _keep(self) -> None:
        self.state = await self.service.renew(self.state)

    @property
    def _shadow(self) -> Service:
        """Reads the InferenceService beside it; nothing is written through it."""
        return Service(
            self.cluster,
            namespace=self.service.namespace,
            name=shadow_name(self.service.name),
            holder=self.state.holder,
            lease=self.settings.lease,
            clock=self.clock,
        )

    @property
    def package(self) -> ModelPackage:
        return self.asking.package

    @property
    def settings(self) -> RolloutSettings:
        return self.asking.settings

    @property
    def clock(self) -> Clock:
        return self.asking.clock

    @asynccontextmanager
    async def _timed(self, name: str) -> AsyncIterator[Callable[[str], None]]:
        """Record a step with its time; what is noted inside becomes its detail."""
        began = self.clock.monotonic()
        notes: list[str] = []
        ok = False
        try:
            yield notes.append
            ok = True
        except ClusterhealError as exc:
            notes.append(str(exc))
            raise
        finally:
            seconds = self.clock.monotonic() - began
            record = StepRecord(name=name, seconds=seconds, detail="; ".join(notes), ok=ok)
            self.records.append(record)
            self.on_step(record)


def _agreed(shares: Sequence[float], *, beside: bool) -> str:
    if not beside:
        return "the version before did not run beside it"
    if not shares:
        return "the version before did not answer beside it"
    return f"agreed with the version before on {min(shares):.1%} or more, in {len(shares)} of the looks"


__all__ = ["Rollout"]
