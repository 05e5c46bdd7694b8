"""Run seeds in a few processes, and tell what broke."""

from __future__ import annotations

import gc
import hashlib
import logging
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from clusterheal.local.simulation.invariants import Broken
from clusterheal.local.simulation.scenario import Scenario
from clusterheal.local.simulation.virtual_time import VirtualLoop

COLLECT_EVERY = 8  # seeds; what one leaves in cycles is a few MiB


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one seed did. `digest` covers every incident's end: the same seed gives the same one."""

    seed: int
    broken: str | None
    incidents: int
    actions: int
    outcomes: tuple[str, ...]
    lives: int
    writes: int
    virtual_seconds: float
    wall_seconds: float

    @property
    def digest(self) -> str:
        text = f"{self.broken}|{self.incidents}|{self.actions}|{self.outcomes}|{self.writes}|{self.virtual_seconds:.6f}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_seed(seed: int) -> Result:
    """One whole simulated storm."""
    loop = VirtualLoop()
    started = time.perf_counter()
    try:
        scenario = Scenario(loop, seed)
        broken: str | None = None
        try:
            loop.run_until_complete(scenario.run())
        except Broken as exc:
            broken = str(exc)
        except Exception:  # noqa: BLE001 - a seed that crashes is a finding, not the end of the other seeds
            broken = traceback.format_exc(limit=-6)
        records = sorted(scenario.checker.records.values(), key=lambda r: r.name)
        return Result(
            seed=seed,
            broken=broken,
            incidents=len(records),
            actions=scenario.checker.actions,
            outcomes=tuple(f"{r.name}={r.state.value}" for r in records),
            lives=sum(r._lives for r in scenario.replicas),
            writes=scenario.checker.checked,
            virtual_seconds=loop.time(),
            wall_seconds=time.perf_counter() - started,
        )
    finally:
        loop.close()
        if not gc.isenabled() and seed % COLLECT_EVERY == 0:
            gc.collect()


def run_seeds(seeds: Iterable[int], *, jobs: int) -> Iterator[Result]:
    """Results in the order of the seeds, from `jobs` processes."""
    with ProcessPoolExecutor(max_workers=jobs, initializer=_prepare) as pool:
        yield from pool.map(run_seed, seeds, chunksize=4)


def _prepare() -> None:
    """No log, and collections between seeds only: nearly all that a seed makes dies young or lives to its end."""
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.freeze()
    gc.disable()


__all__ = ["Result", "run_seed", "run_seeds"]
