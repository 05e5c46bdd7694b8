"""What can be set about the detector. One configuration serves every kind of metric."""

from __future__ import annotations

from dataclasses import dataclass

from clusterheal.errors import InvalidInput

PIECES = ("level", "seasonal", "residual", "reconstruction", "codebook_short", "codebook_long")
"""Complementary views of a window: where the newest value lies, how it differs from the same time on earlier days, the
forecast error of the newest steps, the error of rebuilding the window from a few components, and its distance to the
nearest of the windows seen in training, short and long."""

SCALES = ("own", "common")
"""What a deviation is measured by: what is usual for the metric itself, or for all of the entity's metrics together."""

STATE_WEIGHTS = ((1.0, 1.0, 1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
EVENT_WEIGHTS = ((1.0, 0.0, 1.0, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 1.0, 0.0, 0.0))
"""`(scales, pieces)`: what is added up to say how odd the entity's state is (all pieces by their own scale), and
whether something happens right now (what changes at once, by both). Weights that were tuned gave no more on recorded
telemetry of five kinds, see docs/models/anomaly-benchmark.md."""

SHARE_WEIGHTS = (1.0, 2.0, 10.0, 2.0, 1.0, 1.5)
"""`(pieces,)`: how a metric's evidence by its own scale makes its share of the score: what began to move says most."""

EVENT_BONUS = 1.5
"""What the score gains for each multiple of what is rare for the entity by which an event exceeds `EVENT_FLOOR`."""

EVENT_FLOOR = 1.4


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Counts are steps of the contract's step.

    `device`: where the large sums and all windows of fitting are computed; `auto` takes CUDA when there is one.
    `false_alarms_per_day`: stated bound per entity and day; the alarm's threshold follows from it.
    `real_alarms_per_day`: how many real ones an entity may have on the mean before they count as false: nobody tells
    which an alarm was. The alarms that begin per entity and day stay within the sum of both in the long run.
    `burst`, `bar_step`: how many alarms may begin in a row beyond that, and by which share of the threshold each
    further one raises it.
    `event_prior`: share of windows that lie in real trouble, the prior behind `confidence`;
    5 % is about the median share of the recorded data sets (2 to 11 %).
    `fresh_steps`: how many newest steps count as "now"; a metric without a sample in them contributes nothing.
    `lags`: samples that the forecast of the newest step looks back on.
    `window_steps`: length of the window that is rebuilt from `components` components.
    `short_steps`, `long_steps`, `prototypes`: lengths of the codebooks' windows, and how many each holds.
    `pooled`, `pooled_common`: how many of the strongest metrics make an entity's score, by their own scale and by the
    common one.
    `max_windows`: upper bound of windows that any fitting pass looks at; longer histories are strided.
    `baseline_steps`, `event_steps`, `rare_steps`: how many steps the baseline of the state, that of the event, and the
    level of what is rare among events take for about one scale of their quantity.
    `hold_seasons`: half-life of what is held of a state, as a share of the season, kept within `hold_steps`.
    `echo`, `echo_hold`: share of the state that is held longer, and how many times longer.
    """

    seed: int = 7
    device: str = "auto"
    false_alarms_per_day: float = 1.0
    real_alarms_per_day: float = 1.0
    burst: float = 2.0
    bar_step: float = 0.3
    event_prior: float = 0.05
    fresh_steps: int = 3
    lags: int = 24
    window_steps: int = 16
    components: int = 16
    short_steps: int = 10
    long_steps: int = 30
    prototypes: int = 100
    pooled: int = 5
    pooled_common: int = 3
    max_windows: int = 24_000
    batch: int = 1024
    baseline_steps: float = 1000.0
    event_steps: float = 250.0
    rare_steps: float = 100.0
    hold_seasons: float = 1.0 / 12.0
    hold_steps: tuple[float, float] = (2.0, 20.0)
    echo: float = 0.12
    echo_hold: float = 15.0

    def __post_init__(self) -> None:
        if self.false_alarms_per_day <= 0:
            raise InvalidInput(f"false_alarms_per_day must be positive, got {self.false_alarms_per_day}")
        if min(self.real_alarms_per_day, self.burst, self.bar_step) < 0:
            raise InvalidInput("real_alarms_per_day, burst and bar_step must not be negative")
        if not 0 < self.event_prior < 1:
            raise InvalidInput(f"event_prior must be in (0, 1), got {self.event_prior}")
        if min(self.baseline_steps, self.event_steps, self.rare_steps, *self.hold_steps, self.echo_hold) < 1:
            raise InvalidInput("steps of adaptation and of holding must be at least 1")
        for name, value in vars(self).items():
            if isinstance(value, int) and name != "seed" and value < 1:
                raise InvalidInput(f"{name} must be at least 1, got {value}")

    def half_life(self, season_steps: int) -> float:
        """Of what is held of a state, in steps."""
        low, high = self.hold_steps
        return min(max(self.hold_seasons * season_steps, low), high)

    @property
    def reach(self) -> int:
        """How far back into the recent steps the pieces look."""
        return max(self.lags + self.fresh_steps, self.window_steps, self.short_steps, self.long_steps)
