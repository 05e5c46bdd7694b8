"""An engine on a simulated clock against the emulator: `sim(coroutine_function)` runs a test in virtual time."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from platform_kit import Platform

from clusterheal.local.simulation.virtual_time import VirtualLoop


@pytest.fixture
def sim() -> Callable[[Callable[[Platform], Awaitable[None]]], None]:
    def run(test: Callable[[Platform], Awaitable[None]]) -> None:
        loop = VirtualLoop()
        try:

            async def whole() -> None:
                platform = Platform(loop)
                try:
                    await test(platform)
                finally:
                    await platform.stop()

            loop.run_until_complete(whole())
        finally:
            loop.close()

    return run
