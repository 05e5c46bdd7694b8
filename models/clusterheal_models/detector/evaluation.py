"""The detector half of `clusterheal_models.evaluation`: injected faults on held-out time, the ONNX graph and peers.

There are no labels at this point, so the figure is how many injected faults are missed when one threshold for all
entities lets one per cent of the untouched windows pass. Every method has its own threshold:
being loud gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import FeaturePanel, ModelInputs, ModelPackage, TimeSplit, model_inputs
from clusterheal.errors import DataQualityError
from clusterheal_models.detector.faults import inject
from clusterheal_models.detector.peers import PEERS, NaivePeers
from clusterheal_models.evaluation import assemble, check, held_out_window
from clusterheal_models.export import run_onnx, session

ORIGINS = 40
LEAST_WINDOWS = 150
"""Untouched windows that the threshold is taken from: of fewer, a single odd one would be it."""
CLEAN_SHARE = 0.01
MAGNITUDES = (1.5, 3.0, 6.0)
MOST_ENTITIES = 256
LOUDEST = 0.05
SEED = 11

Float64 = npt.NDArray[np.float64]


def evaluate_detector(package: ModelPackage, panel: FeaturePanel, split: TimeSplit) -> dict[str, Any]:
    """Score evenly spaced origins of the held-out time, each untouched and with faults. See `evaluation.evaluate`.

    The primary figure is `missed`: the share of injected faults of 1.5, 3 and 6 robust scales that are not told
    apart from untouched windows, when one per cent of the latter may pass.
    """
    known = panel.between(None, split.calibration_end_ns)
    first = len(known.timestamps)
    if len(panel.timestamps) - first < ORIGINS // 2:
        raise DataQualityError(
            f"the held-out time has {len(panel.timestamps) - first} steps, expected at least {ORIGINS // 2}; "
            "collect a longer history or move the split"
        )
    rng = np.random.default_rng(SEED)
    some = np.sort(rng.permutation(len(panel.entities))[:MOST_ENTITIES])
    count = max(ORIGINS, -(-LEAST_WINDOWS // len(some)))
    origins = np.unique(np.linspace(first, len(panel.timestamps) - 1, count).round().astype(int))
    peers = NaivePeers.fit(known)
    rows = _Scorer(package, panel, some, peers, rng)
    for origin in origins:
        rows.add(int(origin))
    missed = {name: rows.missed(name) for name in ("model", *PEERS)}
    kinds = np.array([key.split("/")[0] for key in panel.entities])[some]
    alarm_share = float(np.mean(rows.alarms))
    per_day = alarm_share * 86_400e9 / panel.contract.step_ns
    return assemble(
        package,
        window=held_out_window(panel, split, origins=len(origins)),
        primary="missed",
        score=float(missed["model"].mean()),
        peers={name: float(missed[name].mean()) for name in PEERS},
        blocks={name: m.mean((1, 2)).tolist() for name, m in missed.items()},
        by_kind={
            str(kind): {name: float(m[:, kinds == kind].mean()) for name, m in missed.items()}
            for kind in sorted(set(kinds))
        },
        blocks_by_kind={
            str(kind): {name: m[:, kinds == kind].mean((1, 2)).tolist() for name, m in missed.items()}
            for kind in sorted(set(kinds))
        },
        figures={
            "missed_by_magnitude": {
                f"{size:g}": {name: float(m[..., i].mean()) for name, m in missed.items()}
                for i, size in enumerate(MAGNITUDES)
            },
            "alarm_steps_per_entity_day": per_day,
            "entities": len(some),
            "found_by_alarm_at_6_scales": float(np.mean(rows.fault_alarms)),
            "confident_at_6_scales": float(np.mean(rows.fault_confidence)),
        },
        checks=[
            check("finite", rows.nonfinite == 0, f"{rows.nonfinite} answers are not finite; expected none"),
            check("adds_up", rows.gap < 1e-3, f"contributions differ from the score by up to {rows.gap:.1e}"),
            check(
                "quiet",
                alarm_share <= LOUDEST,
                f"{alarm_share:.2%} of untouched held-out windows alarm; expected at most {LOUDEST:.0%}",
            ),
        ],
    )


class _Scorer:
    """Collects statistics of untouched and faulty windows, `(n_origins, n_entities[, n_magnitudes])` per method."""

    def __init__(
        self,
        package: ModelPackage,
        panel: FeaturePanel,
        some: npt.NDArray[np.int64],
        peers: NaivePeers,
        rng: np.random.Generator,
    ) -> None:
        self._panel, self._some, self._rng = panel, some, rng
        self._session = session(package.model_path)
        listed = {key: i for i, key in enumerate(package.calibration.get("entities", []))}
        self._index = np.array([listed.get(panel.entities[i], -1) for i in some], np.int64)
        self._peers = NaivePeers(**{name: getattr(peers, name)[some] for name in vars(peers)})
        self._clean: dict[str, list[Float64]] = {name: [] for name in ("model", *PEERS)}
        self._faulty: dict[str, list[Float64]] = {name: [] for name in ("model", *PEERS)}
        self.alarms: list[float] = []
        self.fault_alarms: list[float] = []
        self.fault_confidence: list[float] = []
        self.nonfinite = 0
        self.gap = 0.0

    def add(self, origin: int) -> None:
        inputs = model_inputs(self._panel, origin=origin)
        recent, seasonal = inputs.recent[self._some], inputs.seasonal[self._some]
        answer = self._run(inputs, recent, seasonal)
        self.alarms.append(float(answer["alarm"].mean()))
        for name, values in {"model": answer["score"], **self._peers.score(recent, seasonal)}.items():
            self._clean[name].append(np.asarray(values, np.float64))
        faulty: dict[str, list[Float64]] = {name: [] for name in self._faulty}
        for size in MAGNITUDES:
            changed = np.stack(
                [inject(r, s, size, self._rng)[0] for r, s in zip(recent, self._peers.spread, strict=True)]
            )
            answer = self._run(inputs, changed, seasonal)
            for name, values in {"model": answer["score"], **self._peers.score(changed, seasonal)}.items():
                faulty[name].append(np.asarray(values, np.float64))
        self.fault_alarms.append(float(answer["alarm"].mean()))
        self.fault_confidence.append(float((answer["confidence"] >= 0.8).mean()))
        for name, parts in faulty.items():
            self._faulty[name].append(np.stack(parts, -1))

    def _run(self, inputs: ModelInputs, recent: Any, seasonal: Any) -> Mapping[str, Any]:
        answer = run_onnx(
            self._session,
            {
                "recent": recent,
                "seasonal": seasonal,
                "timestamp": inputs.timestamp[self._some],
                "entity_index": self._index,
            },
        )
        score, parts = answer["score"], answer["contribution"].sum(1)
        self.nonfinite += int((~np.isfinite(score)).sum() + (~np.isfinite(answer["contribution"])).sum())
        self.gap = max(self.gap, float(np.abs(score - parts).max()))
        return answer

    def missed(self, name: str) -> Float64:
        """1 where a fault scores no more than the threshold, else 0."""
        clean = np.stack(self._clean[name])
        return (np.stack(self._faulty[name]) <= np.quantile(clean, 1 - CLEAN_SHARE)).astype(np.float64)


__all__ = ["evaluate_detector"]
