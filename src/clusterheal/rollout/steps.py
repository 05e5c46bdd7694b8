"""The steps of a rollout. Each can be repeated after a kill, and each ends with the state that names the next one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from clusterheal.clock import Clock
from clusterheal.contracts import FeatureContract, ModelInputs, ModelPackage
from clusterheal.contracts.requests import Tensor
from clusterheal.errors import ClusterhealError
from clusterheal.kube.ports import Cluster, Manifest
from clusterheal.rollout.judge import breaches, disagreement
from clusterheal.rollout.probe import (
    FAILED_POLLS,
    Connect,
    Round,
    agreement,
    check_golden,
    identity_problem,
    load_failure,
    not_ready_reason,
    play,
)
from clusterheal.rollout.result import OnStep, StepRecord
from clusterheal.rollout.service import Canary, Service, address_of
from clusterheal.rollout.shadow import has_canary, shadow_name, start_shadow, stop_shadow
from clusterheal.rollout.state import Baseline, RolloutState, Step, StepFailed
from clusterheal.settings import InferenceSettings, RolloutSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

log = logging.getLogger(__name__)

BAKE_WINDOWS = 8  # replayed ones per look, so that a look takes seconds
BAD_ROUNDS = 2  # in a row: one lost request while a pod moves is no reason to go back
LIVE_SECONDS = 20.0  # for the newest window; then it is looked without it

Live = Callable[[FeatureContract], Awaitable[ModelInputs]]
"""Gives the newest window of every entity for a contract."""

QUICK = {"attempts": 1, "timeout": timedelta(seconds=5)}  # while watching: a breach must show within a minute


@dataclass(kw_only=True)
class Rollout:
    """One rollout of one holder. `state` is what was last written; `records` what was done, for the result."""

    cluster: Cluster
    service: Service
    package: ModelPackage
    settings: RolloutSettings
    inference: InferenceSettings
    clock: Clock
    connect: Connect
    windows: Sequence[Mapping[str, Tensor]]
    state: RolloutState
    on_step: OnStep
    live: Live | None = None
    records: list[StepRecord] = field(default_factory=list)
    url: str | None = None

    async def shadow(self) -> None:
        """The candidate beside the incumbent: ready, golden requests answered, not worse on the same windows."""
        shadow = self._beside(shadow_name(self.service.name))
        async with self._timed("stage") as note:
            incumbent = await self._object(self.service)
            await start_shadow(self.cluster, self.service, incumbent, self.state.target)
            url = await self._serving(shadow, self.package.sha256)
            note(await self._golden(url))
        async with self._timed("shadow") as note:
            baseline, compared = await self._compare(address_of(incumbent), url)
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
                await self._watch(self.settings.bake, expected=None)
                note("no breach")
        self.state = await self.service.write(self.state.at(Step.PROMOTE, self.clock.now()), self.state.previous)

    async def promote(self) -> None:
        """The InferenceService serves the candidate: by its own word, by its hash, and by its answers."""
        async with self._timed("promote") as note:
            self.state = await self.service.write(self.state, self.state.target)
            self.url = await self._serving(self.service, self.package.sha256)
            note(await self._golden(self.url))
        self.state = await self.service.write(self.state.at(Step.BAKE, self.clock.now()), self.state.target)

    async def bake(self) -> None:
        """Watch the candidate in service; without a predecessor there is nothing to go back to, and no watch."""
        rest = self.settings.bake - (self.clock.now() - self.state.step_since)
        replaced = self.state.previous is not None and self.state.previous.uri != self.state.target.uri
        if replaced and rest > timedelta(0):
            async with self._timed("bake") as note:
                rounds = await self._watch(rest, expected=self.package.sha256)
                note(f"{rounds} looks, no breach")
        self.state = await self.service.write(self.state.at(Step.FINISH, self.clock.now()), self.state.target)

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

    async def _compare(self, incumbent_url: str | None, candidate_url: str) -> tuple[Baseline, str]:
        """The incumbent's figures, and the comparison in words.

        Raises:
            StepFailed: the candidate is worse than allowed.
        """
        live, said = await self._live_window()
        windows = [*self.windows, *live]
        theirs = await self._incumbent_round(incumbent_url, windows)
        mine = await self._play(candidate_url, self.inference, windows)
        baseline = Baseline() if theirs is None else Baseline(p99=theirs.p99, alarm_rate=theirs.alarm_rate)
        share = None if theirs is None else agreement(self.package.name, mine, theirs)
        found = breaches(mine, baseline, self.settings) + disagreement(share, self.settings)
        if found:
            raise StepFailed(f"worse in shadow: {'; '.join(found)}")
        if theirs is None:
            return baseline, f"{len(mine.answers)} windows{said}; the incumbent serves another contract or is silent"
        p99 = "unmeasured" if mine.p99 is None else f"{mine.p99 * 1000:.0f} ms"
        agreed = "nothing to compare" if share is None else f"{share:.1%} agreement with the incumbent"
        return baseline, f"{len(mine.answers)} windows{said}, {agreed}, p99 {p99}"

    async def _live_window(self) -> tuple[list[Mapping[str, Tensor]], str]:
        """The newest window, if metrics can be had now, and how it went in words. Without it the replayed ones do."""
        if self.live is None:
            return [], ""
        try:
            async with asyncio.timeout(LIVE_SECONDS):
                newest = await self.live(self.package.contract)
        except TimeoutError:
            return [], f" (none of them live: no metrics within {LIVE_SECONDS:g} s)"
        except ClusterhealError as exc:
            log.warning("no live window", extra={"model": self.package.name, "reason": str(exc)})
            return [], f" (none of them live: {exc})"
        if not newest.entity:
            return [], " (none of them live: no entity has samples now)"
        return [newest.tensors()], " (one of them live)"

    async def _incumbent_round(self, url: str | None, windows: Sequence[Mapping[str, Tensor]]) -> Round | None:
        """None when the incumbent cannot answer the candidate's windows."""
        if url is None:
            return None
        async with self.connect(url, None, self.inference) as client:
            try:
                metadata = await client.metadata(self.package.name)
            except ClusterhealError as exc:
                log.warning("incumbent does not answer", extra={"url": url, "reason": str(exc)})
                return None
        if metadata.contract_sha256 != self.package.contract.sha256:
            return None
        played = await self._play(url, self.inference, windows)
        return played if played.seconds else None

    async def _play(self, url: str, inference: InferenceSettings, windows: Sequence[Mapping[str, Tensor]]) -> Round:
        async with self.connect(url, self.package.contract, inference) as client:
            return await play(client, self.package.name, windows, keep=self._keep)

    async def _watch(self, duration: timedelta, *, expected: str | None) -> int:
        """Look again and again for `duration`; the number of looks. `expected`: the package that must answer.

        Raises:
            StepFailed: `BAD_ROUNDS` looks in a row broke a limit.
        """
        quick = self.inference.model_copy(update=QUICK)
        until = self.clock.monotonic() + duration.total_seconds()
        looks = bad = 0
        while True:
            found = await self._look(quick, expected)
            looks += 1
            bad = bad + 1 if found else 0
            if bad >= BAD_ROUNDS:
                raise StepFailed(f"while watched: {'; '.join(found)}")
            if self.clock.monotonic() >= until and not found:
                return looks
            await self.clock.sleep(self.settings.poll.total_seconds())
            await self._keep()

    async def _look(self, quick: InferenceSettings, expected: str | None) -> list[str]:
        service = await self._object(self.service)
        problem = not_ready_reason(service)
        url = address_of(service)
        if problem is not None or url is None:
            return [problem or "the status has no address"]
        if expected is not None:
            async with self.connect(url, None, quick) as client:
                problem = await identity_problem(client, self.package)
            if problem is not None:
                return [problem]
        live, _ = await self._live_window()
        played = await self._play(url, quick, [*self.windows[-BAKE_WINDOWS:], *live])
        return breaches(played, self.state.baseline, self.settings)

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
            problem = not_ready_reason(found) or await self._identity(str(address_of(found)), sha256)
            if problem is None:
                return str(address_of(found))
            if self.clock.monotonic() >= deadline:
                seconds = self.settings.ready_timeout.total_seconds()
                raise StepFailed(f"{service.name} did not serve within {seconds:g} s: {failure or problem}")
            await self.clock.sleep(self.settings.poll.total_seconds())
            await self._keep()

    async def _identity(self, url: str, sha256: str | None) -> str | None:
        quick = self.inference.model_copy(update=QUICK)
        async with self.connect(url, None, quick) as client:
            if sha256 == self.package.sha256:
                return await identity_problem(client, self.package)
            if not await client.ready(self.package.name):
                return f"/v2/models/{self.package.name}/ready does not say ready"
            try:
                served = (await client.metadata(self.package.name)).package_sha256
            except ClusterhealError as exc:
                return str(exc)
        if sha256 is None:  # what was served before is not known, but it was not the candidate
            return "the candidate is still served" if served == self.package.sha256 else None
        return None if served == sha256 else f"package {str(served)[:12]} is served, expected {sha256[:12]}"

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

    async def _golden(self, url: str) -> str:
        async with self.connect(url, self.package.contract, self.inference) as client:
            worst = await check_golden(client, self.package, self.settings.golden_tolerance)
        return f"golden requests within {worst:.2g}"

    async def _object(self, service: Service) -> Manifest:
        found = await service.read()
        if found is None:
            raise StepFailed(f"InferenceService {service.namespace}/{service.name} is gone")
        return found

    async def _keep(self) -> None:
        self.state = await self.service.renew(self.state)

    def _beside(self, name: str) -> Service:
        """Reads another InferenceService; nothing is written through it."""
        return Service(
            self.cluster,
            namespace=self.service.namespace,
            name=name,
            holder=self.state.holder,
            lease=self.settings.lease,
            clock=self.clock,
        )

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


__all__ = ["Rollout"]
