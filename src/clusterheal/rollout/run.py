"""Bring a registered version into service, or leave in service what was."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clusterheal.clock import Clock
from clusterheal.contracts import FeatureContract, ModelInputs, ModelPackage
from clusterheal.contracts.requests import Tensor, golden_tensors
from clusterheal.errors import ClusterhealError, InvalidInput
from clusterheal.inference.client import InferenceClient
from clusterheal.kube.inference_service import placement_of
from clusterheal.kube.ports import Cluster, Manifest
from clusterheal.registry.versions import ROLLBACK_HOLDER, ROLLBACK_REASON, ModelVersion, Property, State
from clusterheal.rollout.asking import Asking, Live
from clusterheal.rollout.probe import Connect
from clusterheal.rollout.result import OnStep, RolloutOutcome, RolloutResult
from clusterheal.rollout.service import Service
from clusterheal.rollout.state import (
    REGISTRY_LABELS,
    VERSION_LABEL,
    Placement,
    RolloutBusy,
    RolloutState,
    Step,
)
from clusterheal.rollout.steps import Rollout
from clusterheal.settings import InferenceSettings, Settings

log = logging.getLogger(__name__)

MOST_REASON = 1000  # characters kept in the registry
SAMPLE_REPEATS = 20  # of the sample request, where no windows are given: enough for a latency


class RolloutRegistry(Protocol):
    """What a rollout needs of `clusterheal.registry.Registry`; synchronous, called in a thread."""

    def current(self, name: str) -> ModelVersion | None: ...

    def set_state(
        self, name: str, version: str, state: State, *, properties: Mapping[str, Property] | None = None
    ) -> ModelVersion: ...

    def fetch(self, version: ModelVersion, into: Path) -> ModelPackage: ...


def connect_client(url: str, contract: FeatureContract | None, settings: InferenceSettings) -> InferenceClient:
    """The default `Connect`: V2 REST with binary tensors."""
    return InferenceClient(url, contract, settings=settings.model_copy(update={"transport": "binary"}))


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What is to be served."""

    version: ModelVersion
    package: ModelPackage
    incumbent: ModelVersion | None

    @property
    def target(self) -> Placement:
        labels = {
            VERSION_LABEL: self.version.version,
            f"{REGISTRY_LABELS}/name": self.version.name,
            f"{REGISTRY_LABELS}/registered-model-id": self.version.registered_model_id,
            f"{REGISTRY_LABELS}/model-version-id": self.version.version_id,
        }
        return Placement(uri=self.version.uri, labels=labels)


async def roll_out(
    cluster: Cluster,
    registry: RolloutRegistry,
    version: ModelVersion,
    settings: Settings,
    clock: Clock,
    *,
    windows: Sequence[ModelInputs] | None = None,
    live: Live | None = None,
    connect: Connect = connect_client,
    on_step: OnStep | None = None,
    holder: str | None = None,
    stop_after: Step | None = None,
) -> RolloutResult:
    """Roll `version` out to the InferenceService of its name in `settings.kubernetes.namespace`.

    Where something is in service, the candidate is first scored beside it on `windows` (default: the package's
    sample request) and on the window that `live` gives at that moment; while it is watched, too. A failure at any
    point goes back to what was served; the result says so, and the registry keeps the reason with the version. A
    rollout that was killed is taken over by the next call once its lease is over: the same version goes on where it
    stood, another one first undoes it. Every registry call runs in a thread. `stop_after` ends the call after that
    step with the outcome `paused`; the next call with the same `holder` goes on from there.

    Raises:
        InvalidInput: the version was rejected or archived.
        PackageInvalid, ContractMismatch: the registered package is not what it was.
        RolloutBusy: another rollout of this InferenceService is under way.
        PermanentError, RetryableError: the API server or the registry did not let the rollout begin, or end; then
            the state stays on the InferenceService for the next call.
    """
    if version.state in (State.REJECTED, State.ARCHIVED):
        raise InvalidInput(f"{version.name} {version.version} is {version.state.value}; roll out another version")
    with tempfile.TemporaryDirectory() as scratch:
        package = await asyncio.to_thread(registry.fetch, version, Path(scratch))
        incumbent = await asyncio.to_thread(registry.current, version.name)
        wanted = _Wanted(version=version, package=package, incumbent=incumbent)
        service = Service(
            cluster,
            namespace=settings.kubernetes.namespace,
            name=version.name,
            holder=holder or f"rollout-{uuid.uuid4().hex[:12]}",
            lease=settings.rollout.lease,
            clock=clock,
        )
        asking = Asking(
            package=package,
            settings=settings.rollout,
            inference=settings.inference,
            clock=clock,
            connect=connect,
            windows=_tensors(windows, package),
            live=live,
        )
        rollout = await _begin(cluster, service, wanted, asking, on_step or (lambda _: None))
        return await _drive(rollout, registry, version, stop_after=stop_after)


async def _begin(cluster: Cluster, service: Service, wanted: _Wanted, asking: Asking, on_step: OnStep) -> Rollout:
    """Take the lease; what another version's dead rollout left behind is undone first."""

    def assemble(state: RolloutState) -> Rollout:
        return Rollout(cluster=cluster, service=service, asking=asking, state=state, on_step=on_step)

    begin = _beginning(wanted, asking)
    state, left = await service.acquire(begin)
    if left and state.target.version != wanted.version.version:
        log.warning(
            "undoing a rollout that was cut off",
            extra={"model": wanted.version.name, "version": state.target.version, "step": state.step.value},
        )
        leftover = assemble(state)
        problem = await leftover.roll_back("its rollout was cut off, and another version is rolled out now")
        if problem is not None:
            log.warning("the version before did not come back", extra={"reason": problem})
        state, _ = await service.acquire(begin)
        rollout = assemble(state)
        rollout.records.extend(leftover.records)
        return rollout
    return assemble(state)


def _beginning(wanted: _Wanted, asking: Asking) -> Callable[[Manifest | None], RolloutState]:
    def begin(found: Manifest | None) -> RolloutState:
        now = asking.clock.now()
        previous = placement_of(found) if found is not None else None
        direct = previous is None or previous.uri == wanted.target.uri or asking.settings.strategy == "direct"
        known = previous is not None and wanted.incumbent is not None and wanted.incumbent.uri == previous.uri
        return RolloutState(
            holder="",
            expires=now,
            target=wanted.target,
            package_sha256=wanted.package.sha256,
            step=Step.PROMOTE if direct else Step.SHADOW,
            step_since=now,
            previous=previous,
            previous_sha256=wanted.incumbent.package_sha256 if known and wanted.incumbent is not None else None,
            created=found is None,
        )

    return begin


async def _drive(
    rollout: Rollout, registry: RolloutRegistry, version: ModelVersion, *, stop_after: Step | None
) -> RolloutResult:
    """Step after step until the version is in service, or the one before is again."""
    handlers = {
        Step.SHADOW: rollout.shadow,
        Step.CANARY: rollout.canary,
        Step.PROMOTE: rollout.promote,
        Step.BAKE: rollout.bake,
    }
    try:
        while (step := rollout.state.step) in handlers:
            if stop_after is not None and step.comes_after(stop_after):
                rollout.state = await rollout.service.hand_over(rollout.state, rollout.settings.handover)
                return _paused(rollout, version)
            log.info("rollout step", extra={"model": version.name, "version": version.version, "step": step.value})
            if step is Step.SHADOW and version.state is State.CANDIDATE:
                await asyncio.to_thread(registry.set_state, version.name, version.version, State.SHADOW)
            await handlers[step]()
    except RolloutBusy:
        raise  # somebody else has it now: nothing may be written any more
    except ClusterhealError as exc:
        return await _back(rollout, registry, version, str(exc))
    if rollout.state.step is Step.ROLL_BACK:
        return await _back(rollout, registry, version, rollout.state.reason or "its rollout was cut off")
    await asyncio.to_thread(registry.set_state, version.name, version.version, State.SERVING)
    await rollout.finish()
    log.info("rolled out", extra={"model": version.name, "version": version.version})
    return _result(rollout, version, RolloutOutcome.PROMOTED, serving=version.version)


def _paused(rollout: Rollout, version: ModelVersion) -> RolloutResult:
    state = rollout.state
    placed = state.target if state.step is Step.BAKE else state.previous
    serving = None if placed is None else placed.version or placed.uri
    return _result(rollout, version, RolloutOutcome.PAUSED, serving=serving)


async def _back(rollout: Rollout, registry: RolloutRegistry, version: ModelVersion, reason: str) -> RolloutResult:
    log.warning("rolling back", extra={"model": version.name, "version": version.version, "reason": reason})
    previous = rollout.state.previous
    problem = await rollout.roll_back(reason)
    serving = None if previous is None or problem is not None else previous.version or previous.uri
    gone_back = serving is not None and previous is not None and previous.uri != rollout.state.target.uri
    outcome = RolloutOutcome.ROLLED_BACK if gone_back else RolloutOutcome.FAILED
    unrecorded = await _record(registry, version, rollout.state.holder, reason)
    said = "; ".join(filter(None, (reason, problem, unrecorded)))
    return _result(rollout, version, outcome, serving=serving, reason=said)


async def _record(registry: RolloutRegistry, version: ModelVersion, holder: str, reason: str) -> str | None:
    """Keep with the version who took it back and why; what went wrong with that, which undoes nothing."""
    state = State.CANDIDATE if version.state is State.SHADOW else version.state
    noted = {ROLLBACK_HOLDER: holder, ROLLBACK_REASON: reason[:MOST_REASON]}
    try:
        await asyncio.to_thread(registry.set_state, version.name, version.version, state, properties=noted)
    except ClusterhealError as exc:
        log.warning("the registry does not know of the rollback", extra={"model": version.name, "reason": str(exc)})
        return f"the registry could not be told: {exc}"
    return None


def _result(
    rollout: Rollout,
    version: ModelVersion,
    outcome: RolloutOutcome,
    *,
    serving: str | None,
    reason: str | None = None,
) -> RolloutResult:
    return RolloutResult(
        outcome=outcome,
        name=version.name,
        version=version.version,
        serving=serving,
        url=rollout.url,
        steps=tuple(rollout.records),
        reason=reason,
    )


def _tensors(windows: Sequence[ModelInputs] | None, package: ModelPackage) -> list[Mapping[str, Tensor]]:
    if windows:
        return [window.tensors() for window in windows]
    inputs, _ = golden_tensors(package.sample_request)
    return [inputs] * SAMPLE_REPEATS
