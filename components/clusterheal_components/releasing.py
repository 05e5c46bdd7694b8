"""What the releasing components do."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clusterheal.clock import SystemClock
from clusterheal.errors import ClusterhealError, InvalidInput, PermanentError
from clusterheal.registry import ModelVersion, Registry, State
from clusterheal.registry.versions import RETURN_HOLDER, ROLLBACK_HOLDER, ROLLBACK_REASON
from clusterheal.settings import Settings, load_settings

if TYPE_CHECKING:
    from clusterheal.contracts import ModelInputs
    from clusterheal.rollout import RolloutResult, Step

log = logging.getLogger(__name__)

NEWEST = "newest"


def stage_version(name: str, version: str) -> str:
    """Choose the version and prove its package: hashes, graph, and its own sample request answered.

    Raises:
        InvalidInput: no such version, no candidate, or one that was refused.
        PackageInvalid: the package cannot be served.
    """
    from clusterheal_models.serving.runtime import load_runtime

    registry = Registry(load_settings().registry)
    wanted = _choose(registry, name, version)
    if wanted.state in (State.REJECTED, State.ARCHIVED):
        raise InvalidInput(f"{name} {wanted.version} is {wanted.state.value}; release another version")
    with tempfile.TemporaryDirectory() as aside:
        load_runtime(registry.fetch(wanted, Path(aside)))
    return wanted.version


def _choose(registry: Registry, name: str, version: str) -> ModelVersion:
    """The version by name; `newest` is the newest candidate that no rollout has taken back."""
    if version != NEWEST:
        return registry.get(name, version)
    candidates = [v for v in registry.versions(name) if v.state in (State.CANDIDATE, State.SHADOW)]
    if not candidates:
        raise InvalidInput(f"the registry has no candidate of {name!r}; train one, or name a version")
    fresh = [v for v in candidates if ROLLBACK_REASON not in v.properties]
    if not fresh:
        last = candidates[-1]
        raise InvalidInput(
            f"every candidate of {name!r} was taken back, {last.version} because: {last.properties[ROLLBACK_REASON]}; "
            "train another, or name a version to try it again"
        )
    return fresh[-1]


def shadow_version(name: str, version: str, run_id: str, report: Path) -> str:
    """Score the version in shadow and stop there; `paused` means that `promote_version` may go on.

    Raises:
        PermanentError: it is worse than allowed, and nothing has changed; the message says why.
    """
    from clusterheal.rollout import RolloutOutcome, Step

    return _go(name, version, run_id, report, RolloutOutcome.PAUSED, stop_after=Step.SHADOW)


def promote_version(name: str, version: str, run_id: str, report: Path) -> str:
    """Move the traffic, from where `shadow_version` of the same run stopped; `paused`: `watch_version` may go on.

    Raises:
        PermanentError: it was rolled back; the message says why, and what is in service.
    """
    from clusterheal.rollout import RolloutOutcome, Step

    return _go(name, version, run_id, report, RolloutOutcome.PAUSED, stop_after=Step.PROMOTE)


def watch_version(name: str, version: str, run_id: str, report: Path) -> str:
    """Roll out to the end: from where an earlier step of the same run stopped, or from the beginning.

    Raises:
        PermanentError: it was rolled back; the message says why, and what is in service.
    """
    from clusterheal.rollout import RolloutOutcome

    return _go(name, version, run_id, report, RolloutOutcome.PROMOTED)


def roll_back_version(name: str, run_id: str, report: Path) -> str:
    """Serve the previous version again; returns it.

    Raises:
        InvalidInput: there is none.
    """
    from clusterheal.rollout import RolloutOutcome

    settings = load_settings()
    registry = Registry(settings.registry)
    previous = _to_return_to(registry, name, run_id)
    direct = settings.model_copy(update={"rollout": settings.rollout.model_copy(update={"strategy": "direct"})})
    _report(_roll(registry, previous, direct, run_id), RolloutOutcome.PROMOTED, report)
    return previous.version


def _to_return_to(registry: Registry, name: str, run_id: str) -> ModelVersion:
    """The version before the one in service, chosen once for a run.

    Raises:
        InvalidInput: there is none.
    """
    holder = _holder(run_id)
    chosen = [v for v in registry.versions(name) if v.properties.get(RETURN_HOLDER) == holder]
    if chosen:
        return chosen[0]
    previous = registry.previous(name)
    if previous is None:
        raise InvalidInput(f"{name} has no previous version to go back to")
    return registry.set_state(name, previous.version, previous.state, properties={RETURN_HOLDER: holder})


def _go(name: str, version: str, run_id: str, report: Path, expected: object, *, stop_after: Step | None = None) -> str:
    settings = load_settings()
    registry = Registry(settings.registry)
    wanted = registry.get(name, version)
    _refuse_repeat(wanted.properties, run_id, f"{name} {version}")
    return _report(_roll(registry, wanted, settings, run_id, stop_after=stop_after), expected, report)


def _refuse_repeat(properties: Mapping[str, object], run_id: str, what: str) -> None:
    """A step that is repeated goes on; one that took the version back must not try it again.

    Raises:
        PermanentError: this run has taken the version back.
    """
    if properties.get(ROLLBACK_HOLDER) == _holder(run_id):
        raise PermanentError(f"{what} was taken back by this run already: {properties[ROLLBACK_REASON]}")


def _holder(run_id: str) -> str:
    return f"run-{run_id}"


def _roll(
    registry: Registry, version: ModelVersion, settings: Settings, run_id: str, *, stop_after: Step | None = None
) -> RolloutResult:
    from clusterheal.kube.http import HttpCluster
    from clusterheal.rollout import roll_out
    from clusterheal.rollout.windows import live_windows

    clock = SystemClock()
    windows = _replayed(settings, version)

    async def work() -> RolloutResult:
        async with (
            HttpCluster.from_settings(settings.kubernetes) as cluster,
            live_windows(settings, clock) as live,
        ):
            return await roll_out(
                cluster,
                registry,
                version,
                settings,
                clock,
                windows=windows,
                live=live,
                holder=_holder(run_id),
                stop_after=stop_after,
            )

    return asyncio.run(work())


def _replayed(settings: Settings, version: ModelVersion) -> list[ModelInputs] | None:
    """Windows of the stored dataset's last day; None, and a line in the log, where it has none for this contract."""
    from clusterheal.metrics.dataset import Dataset
    from clusterheal.rollout.windows import REPLAYED, replay_windows

    try:
        stored = Dataset.open(settings.dataset.path, settings.dataset)
        stored.contract.require_same(version.contract_sha256, where=f"{version.name} {version.version}")
        return replay_windows(settings.dataset.path, REPLAYED, settings)
    except ClusterhealError as exc:
        log.warning("nothing is replayed, only the package's sample request is asked", extra={"reason": str(exc)})
        return None


def _report(result: RolloutResult, expected: object, report: Path) -> str:
    report.write_text(f"# {result.name} {result.version}\n\n{result}\n")
    if result.outcome is not expected:
        raise PermanentError(f"{result.name} {result.version} {result.outcome.value}: {result.reason}")
    return str(result.outcome.value)
