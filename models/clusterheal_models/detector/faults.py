"""Faults injected into recorded windows: what evaluation and confidence are measured on, there being no labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clusterheal.contracts import Float32

Float64 = npt.NDArray[np.float64]
MOST_METRICS = 3
LONGEST = 12


def inject(
    recent: Float32, scale: Float64, magnitude: float, rng: np.random.Generator
) -> tuple[Float32, npt.NDArray[np.int64]]:
    """A copy of one window `(recent_steps, n_features)` with a fault in its newest steps, and the metrics it is in.

    One to three metrics that have samples shift, ramp, jitter or spike together over the newest 2 to 12 steps, by
    `magnitude` times `scale` `(n_features,)`, which is in the metrics' units.
    """
    out = recent.copy()
    alive = np.flatnonzero(np.isfinite(recent[-LONGEST:]).any(0) & (scale > 0))
    if not len(alive):
        return out, alive
    metrics = np.sort(rng.choice(alive, min(len(alive), int(rng.integers(1, MOST_METRICS + 1))), replace=False))
    length = int(rng.integers(2, min(LONGEST, len(recent)) + 1))
    shape = _shape(str(rng.choice(["shift", "ramp", "jitter", "spike"])), length, rng)
    sign = rng.choice([-1.0, 1.0], len(metrics))
    change = shape[:, None] * sign * scale[metrics] * magnitude
    out[-length:, metrics] = (out[-length:, metrics] + change).astype(np.float32)
    return out, metrics


def _shape(kind: str, length: int, rng: np.random.Generator) -> Float64:
    if kind == "shift":
        return np.ones(length)
    if kind == "ramp":
        return np.linspace(1.0 / length, 1.0, length)
    if kind == "jitter":
        return np.asarray(rng.choice([-1.0, 1.0], length))
    spike = np.zeros(length)
    spike[-min(2, length) :] = 1.0
    return spike
