"""Fits a forecaster on a saved panel, in a process of its own: started by tests that kill it or start two of it.

Usage: training_worker.py FOLDER OUT [kill_at_step]; FOLDER holds `values.npy` and `config.json`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
from clusterheal_models.compute import join
from clusterheal_models.forecaster import ForecasterConfig, MemberConfig, fit
from clusterheal_models.progress import Progress

from clusterheal.contracts import FeatureContract, FeaturePanel, TimeSplit


def main(folder: Path, out: Path, kill_at: int | None) -> None:
    about = json.loads((folder / "config.json").read_text())
    members = tuple(MemberConfig(**m) for m in about["config"].pop("members"))
    checkpoint = about["config"].pop("checkpoint")
    config = ForecasterConfig(members=members, checkpoint=checkpoint and Path(checkpoint), **about["config"])
    values = np.load(folder / "values.npy")
    contract = FeatureContract.from_dict(about["contract"])
    panel = FeaturePanel(
        values=values,
        timestamps=about["start_ns"] + np.arange(values.shape[1], dtype=np.int64) * contract.step_ns,
        entities=tuple(about["entities"]),
        contract=contract,
    )

    def progress(report: Progress) -> None:
        print(f"{report.phase} {report.done}", flush=True)
        if kill_at is not None and report.done >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with join("cpu") as world:
        fitted = fit(panel, TimeSplit.by_fraction(panel.timestamps), config, world=world, progress=progress)
        if world.first:
            fitted.export(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
