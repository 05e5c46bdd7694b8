"""Ask the models of a rollout: which package they are, their golden requests, and the same windows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from clusterheal.clock import Clock
from clusterheal.contracts import FeatureContract, ModelInputs, ModelPackage
from clusterheal.contracts.requests import Tensor
from clusterheal.errors import ClusterhealError
from clusterheal.rollout.judge import breaches, disagreement
from clusterheal.rollout.probe import Connect, Round, agreement, check_golden, identity_problem, play
from clusterheal.rollout.state import Baseline, StepFailed
from clusterheal.settings import InferenceSettings, RolloutSettings

log = logging.getLogger(__name__)

BAKE_WINDOWS = 8  # replayed ones per look, so that a look takes seconds
LIVE_SECONDS = 20.0  # for the newest window; then it is looked without it
QUICK = {"attempts": 1, "timeout": timedelta(seconds=5)}  # while watching: a breach must show within a minute

Live = Callable[[FeatureContract], Awaitable[ModelInputs]]
"""Gives the newest window of every entity for a contract."""

Windows = Sequence[Mapping[str, Tensor]]
Keep = Callable[[], Awaitable[None]]
"""Called between two requests, to renew a lease."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What candidate and incumbent are asked. `package` is the candidate; `windows` are replayed each time."""

    package: ModelPackage
    settings: RolloutSettings
    inference: InferenceSettings
    clock: Clock
    connect: Connect
    windows: Windows
    live: Live | None = None

    async def identity(self, url: str, sha256: str | None) -> str | None:
        """Why the package with that hash is not what answers; None when it is. Without a hash: anything but ours."""
        async with self.connect(url, None, self._quick) as client:
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

    async def golden(self, url: str) -> str:
        """The package's golden requests, in words.

        Raises:
            StepFailed: another answer than the package's own.
        """
        async with self.connect(url, self.package.contract, self.inference) as client:
            worst = await check_golden(client, self.package, self.settings.golden_tolerance)
        return f"golden requests within {worst:.2g}"

    async def compare(self, incumbent_url: str | None, candidate_url: str, keep: Keep) -> tuple[Baseline, str]:
        """The incumbent's figures, and the comparison in words.

        Raises:
            StepFailed: the candidate is worse than allowed.
        """
        live, said = await self._live_window()
        windows = [*self.windows, *live]
        theirs = None if incumbent_url is None else await self._others(incumbent_url, windows, self.inference, keep)
        mine = await self._play(candidate_url, windows, self.inference, keep)
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

    async def look(
        self, url: str, baseline: Baseline, previous_url: str | None, keep: Keep
    ) -> tuple[list[str], float | None]:
        """One look at a model in service: what it breaks, and its agreement with the version before, where that runs.

        The version before is asked only when nothing else is wrong: a breach must show soon.
        """
        live, _ = await self._live_window()
        windows = [*self.windows[-BAKE_WINDOWS:], *live]
        mine = await self._play(url, windows, self._quick, keep)
        found = breaches(mine, baseline, self.settings)
        if found or previous_url is None:
            return found, None
        theirs = await self._others(previous_url, windows, self._quick, keep)
        share = None if theirs is None else agreement(self.package.name, mine, theirs)
        return disagreement(share, self.settings), share

    @property
    def _quick(self) -> InferenceSettings:
        return self.inference.model_copy(update=QUICK)

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

    async def _others(self, url: str, windows: Windows, inference: InferenceSettings, keep: Keep) -> Round | None:
        """How another version does; None when it cannot answer the candidate's windows."""
        async with self.connect(url, None, inference) as client:
            try:
                metadata = await client.metadata(self.package.name)
            except ClusterhealError as exc:
                log.warning("the other version does not answer", extra={"url": url, "reason": str(exc)})
                return None
        if metadata.contract_sha256 != self.package.contract.sha256:
            return None
        played = await self._play(url, windows, inference, keep)
        return played if played.seconds else None

    async def _play(self, url: str, windows: Windows, inference: InferenceSettings, keep: Keep) -> Round:
        async with self.connect(url, self.package.contract, inference) as client:
            return await play(client, self.package.name, windows, clock=self.clock, keep=keep)
