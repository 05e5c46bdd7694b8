"""`python -m clusterheal.local.simulation --seeds 1000`"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections import Counter
from pathlib import Path

from clusterheal.local.simulation.run import run_seed, run_seeds


def main() -> int:
    """Exit code 0 when every invariant held on every seed."""
    parser = argparse.ArgumentParser(description="Simulate the engine in a storm of seeded faults.")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="replay this one, with the engine's log")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.seed is not None:
        logging.basicConfig(level="INFO", format="%(name)s %(message)s")
        result = run_seed(options.seed)
        print(result)
        return 1 if result.broken else 0
    started, broken, total, states = time.perf_counter(), [], Counter[str](), Counter[str]()
    for result in run_seeds(range(options.first, options.first + options.seeds), jobs=options.jobs):
        total.update(seeds=1, incidents=result.incidents, actions=result.actions, lives=result.lives)
        states.update(o.rsplit("=", 1)[1] for o in result.outcomes)
        if result.broken:
            broken.append(result)
            print(f"seed {result.seed}: {result.broken}", flush=True)
    seconds = time.perf_counter() - started
    print(f"{total['seeds']} seeds, {len(broken)} with a broken invariant, {seconds:.1f} s")
    print(f"{total['incidents']} incidents, {total['actions']} actions, {total['lives']} lives of replicas")
    print("ends: " + ", ".join(f"{state} {count}" for state, count in states.most_common()))
    if options.json:
        figures = {
            "seeds": total["seeds"],
            "broken": [r.seed for r in broken],
            "seconds": seconds,
            "ends": dict(states),
        }
        options.json.write_text(json.dumps({**figures, **{k: total[k] for k in ("incidents", "actions", "lives")}}))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
