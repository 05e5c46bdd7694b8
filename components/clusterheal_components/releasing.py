"""What the releasing components do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from clusterheal.clock import SystemClock
from clusterheal.settings import load_settings


def roll_out_version(name: str, version: str, report: Path) -> str:
    """Bring a registered version into service; returns how it ended, and writes it down in words.

    Raises:
        InvalidInput: no such version, or a rejected one.
        PermanentError, RetryableError: the rollout failed; what was in service still is.
    """
    from clusterheal.kube.http import HttpCluster

    from clusterheal.registry import Registry
    from clusterheal.rollout import roll_out

    settings = load_settings()
    registry = Registry(settings.registry)
    wanted = registry.get(name, version)

    async def work() -> str:
        async with HttpCluster.from_settings(settings.kubernetes) as cluster:
            result = await roll_out(cluster, registry, wanted, settings, SystemClock())
        report.write_text(f"# {name} {version}\n\n{result}\n")
        return str(result.outcome)

    return asyncio.run(work())
