"""What the releasing components do."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clusterheal.clock import SystemClock
from clusterheal.errors import InvalidInput, PermanentError
from clusterheal.registry import ModelVersion, Registry, State
from clusterheal.settings import Settings, load_settings

if TYPE_CHECKING:
    from clusterheal.rollout import RolloutResult

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
    if version != NEWEST:
        return registry.get(name, version)
    candidates = [v for v in registry.versions(name) if v.state in (State.CANDIDATE, State.SHADOW)]
    if not candidates:
        raise InvalidInput(f"the registry has no candidate of {name!r}; train one, or name a version")
    return candidates[-1]


def shadow_version(name: str, version: str, run_id: str, report: Path) -> str:
    """Score the version in shadow and stop there; `paused` means that `promote_version` may go on."""
    from clusterheal.rollout import RolloutOutcome

    settings = load_settings()
    registry = Registry(settings.registry)
    wanted = registry.set_state(name, version, State.SHADOW)
    result = _roll(registry, wanted, settings, run_id, shadow_only=True)
    if result.outcome is not RolloutOutcome.PAUSED:
        registry.set_state(name, version, State.CANDIDATE)
    return _report(result, RolloutOutcome.PAUSED, report)


def promote_version(name: str, version: str, run_id: str, report: Path) -> str:
    """Roll out to the end, from where `shadow_version` of the same run stopped, or from the beginning.

    Raises:
        PermanentError: it was rolled back; the message says why, and what is in service.
    """
    from clusterheal.rollout import RolloutOutcome

    settings = load_settings()
    registry = Registry(settings.registry)
    result = _roll(registry, registry.get(name, version), settings, run_id)
    return _report(result, RolloutOutcome.PROMOTED, report)


def roll_back_version(name: str, run_id: str, report: Path) -> str:
    """Serve the previous version again; returns it.

    Raises:
        InvalidInput: there is none.
    """
    from clusterheal.rollout import RolloutOutcome

    settings = load_settings()
    registry = Registry(settings.registry)
    previous = registry.previous(name)
    if previous is None:
        raise InvalidInput(f"{name} has no previous version to go back to")
    direct = settings.model_copy(update={"rollout": settings.rollout.model_copy(update={"strategy": "direct"})})
    _report(_roll(registry, previous, direct, run_id), RolloutOutcome.PROMOTED, report)
    return previous.version


def _roll(
    registry: Registry, version: ModelVersion, settings: Settings, run_id: str, *, shadow_only: bool = False
) -> RolloutResult:
    from clusterheal.kube.http import HttpCluster
    from clusterheal.rollout import roll_out

    async def work() -> RolloutResult:
        async with HttpCluster.from_settings(settings.kubernetes) as cluster:
            return await roll_out(
                cluster,
                registry,
                version,
                settings,
                SystemClock(),
                holder=f"run-{run_id}",
                shadow_only=shadow_only,
            )

    return asyncio.run(work())


def _report(result: RolloutResult, expected: object, report: Path) -> str:
    report.write_text(f"# {result.name} {result.version}\n\n{result}\n")
    if result.outcome is not expected:
        raise PermanentError(f"{result.name} {result.version} {result.outcome.value}: {result.reason}")
    return str(result.outcome.value)
