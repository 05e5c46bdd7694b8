"""What can be set about the detector. One configuration serves every kind of metric."""

from __future__ import annotations

from dataclasses import dataclass

from clusterheal.errors import InvalidInput

PIECES = ("level", "change", "residual", "seasonal", "reconstruction")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Counts are steps of the contract's step.

    `false_alarms_per_day`: stated bound per entity and day; the alarm's threshold follows from it.
    `event_prior`: share of windows that lie in real trouble, the prior behind `confidence`.
    `smoothing_steps`: how many newest steps count as "now".
    `lags`: samples that the forecast of the newest step looks back on.
    `window_values`: samples x metrics in a reconstruction window; the window's length follows.
    `components`: rank of the reconstruction.
    `pooled`: how many of the strongest metrics make an entity's score.
    `max_windows`: upper bound of windows that any fitting pass looks at; longer histories are strided.
    """

    seed: int = 7
    false_alarms_per_day: float = 1.0
    event_prior: float = 0.01
    smoothing_steps: int = 3
    lags: int = 24
    window_values: int = 640
    components: int = 16
    pooled: int = 5
    max_windows: int = 40_000
    batch: int = 1024

    def __post_init__(self) -> None:
        if self.false_alarms_per_day <= 0:
            raise InvalidInput(f"false_alarms_per_day must be positive, got {self.false_alarms_per_day}")
        if not 0 < self.event_prior < 1:
            raise InvalidInput(f"event_prior must be in (0, 1), got {self.event_prior}")
        for name in ("smoothing_steps", "lags", "window_values", "components", "pooled", "max_windows", "batch"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {getattr(self, name)}")

    def window_steps(self, n_features: int, recent_steps: int) -> int:
        """Length of the reconstruction window: longer for few metrics, 8 to 64 steps."""
        return min(max(self.window_values // max(n_features, 1), 8), 64, recent_steps)
