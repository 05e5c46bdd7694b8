"""What a model was trained on: feature order, PromQL, units, ranges and the shape of its window."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

from clusterheal.errors import ContractMismatch, InvalidInput

SCHEMA_VERSION = 1

Scale = Literal["linear", "log"]


@dataclass(frozen=True, kw_only=True)
class EntityKind:
    """A kind of thing that is scored as one, e.g. `node` identified by the label `node`.

    `labels` are the Prometheus labels that identify an entity, in order. An entity's key is
    `<kind>/<label value>/...`, for example `workload/shop/cart` or `node/worker-0`. A `/` or `%` inside
    a label value is percent-encoded, so that keys can be split again.
    """

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """One feature: a PromQL expression that yields one series per entity of `entity_kind`.

    `low` and `high` bound plausible values in `unit`; `None` means unbounded on that side.
    `scale` is `log` where the plausible range spans orders of magnitude.
    """

    name: str
    promql: str
    unit: str
    entity_kind: str
    low: float | None = None
    high: float | None = None
    scale: Scale = "linear"


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """The history that one request to a model carries. Counts are steps of the contract's `step`.

    `recent_steps` consecutive steps end at the origin (the newest sample). For each entry of
    `season_lags`, `seasonal_steps` steps are taken around the same clock time that many seasons
    earlier: they start `seasonal_before` steps before the first forecast step.
    `season_steps` is one season (a day: 1440 at 60 s).
    """

    recent_steps: int
    season_steps: int
    season_lags: tuple[int, ...]
    seasonal_before: int
    seasonal_steps: int
    horizon_steps: int

    @property
    def history_steps(self) -> int:
        """How many steps up to and including the origin a caller has to have at hand."""
        furthest = max(self.season_lags, default=0) * self.season_steps + self.seasonal_before
        return max(self.recent_steps, furthest)


def default_window(
    step: timedelta, *, season: timedelta = timedelta(days=1), horizon_steps: int = 60, recent_steps: int = 120
) -> WindowSpec:
    """The window that both models use: two hours at 60 s, and the same time on earlier days.

    Counts are in steps, so a coarser step sees a longer time: operational series at 5 minutes or 1 hour change
    slower, too. Lags are yesterday, the day before and the same weekday, as far as the recent steps do not hold
    them anyway. A seasonal block begins half an hour (at 60 s) before the origin's clock time, so that it can be
    compared with what was seen today: that lowered the forecast error by 2 % against a block that begins at it.
    """
    season_steps = max(1, round(season / step))
    before = min(30, season_steps)
    return WindowSpec(
        recent_steps=recent_steps,
        season_steps=season_steps,
        season_lags=tuple(lag for lag in (1, 2, 7) if lag * season_steps > recent_steps),
        seasonal_before=before,
        seasonal_steps=before + horizon_steps,
        horizon_steps=horizon_steps,
    )


@dataclass(frozen=True, kw_only=True)
class FeatureContract:
    """Everything the two sides of a prediction must agree on; `sha256` covers all of it.

    It travels: dataset -> model package -> registry properties -> server metadata -> engine.
    """

    entity_kinds: tuple[EntityKind, ...]
    features: tuple[FeatureSpec, ...]
    step: timedelta
    window: WindowSpec

    def __post_init__(self) -> None:
        if self.step.total_seconds() <= 0:
            raise InvalidInput(f"contract step must be positive, got {self.step}")
        names = [f.name for f in self.features]
        if len(set(names)) != len(names):
            raise InvalidInput(f"feature names must be unique, got duplicates in {names}")
        kinds = {k.name for k in self.entity_kinds}
        for feature in self.features:
            if feature.entity_kind not in kinds:
                raise InvalidInput(
                    f"feature {feature.name!r} names entity kind {feature.entity_kind!r}; "
                    f"expected one of {sorted(kinds)}"
                )

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.features)

    @property
    def step_ns(self) -> int:
        """The step in nanoseconds."""
        return round(self.step.total_seconds() * 1_000_000_000)

    @property
    def sha256(self) -> str:
        """Hex digest over the canonical JSON of every field."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "entity_kinds": [asdict(k) for k in self.entity_kinds],
            "features": [asdict(f) for f in self.features],
            "step_seconds": self.step.total_seconds(),
            "window": asdict(self.window),
        }

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space, so that equal contracts give equal text."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FeatureContract:
        """Inverse of `to_dict`.

        Raises:
            InvalidInput: an unknown schema version, or a field that is missing or of the wrong form.
        """
        if data.get("schema_version") != SCHEMA_VERSION:
            raise InvalidInput(
                f"contract schema_version: expected {SCHEMA_VERSION}, got {data.get('schema_version')!r}; "
                "build the package again with this version of clusterheal"
            )
        try:
            window = dict(data["window"])
            window["season_lags"] = tuple(window["season_lags"])
            return cls(
                entity_kinds=tuple(EntityKind(name=k["name"], labels=tuple(k["labels"])) for k in data["entity_kinds"]),
                features=tuple(FeatureSpec(**f) for f in data["features"]),
                step=timedelta(seconds=data["step_seconds"]),
                window=WindowSpec(**window),
            )
        except (KeyError, TypeError) as exc:
            raise InvalidInput(f"contract is malformed: {exc}") from exc

    @classmethod
    def from_json(cls, text: str) -> FeatureContract:
        try:
            data = json.loads(text)
        except json.JSONDecodeError as exc:
            raise InvalidInput(f"contract is not JSON: {exc}") from exc
        if not isinstance(data, dict):
            raise InvalidInput(f"contract must be a JSON object, got {type(data).__name__}")
        return cls.from_dict(data)

    def require_same(self, other_sha256: str, *, where: str) -> None:
        """Refuse to go on when the other side was built for another contract.

        Raises:
            ContractMismatch: naming both hashes and `where` the other one was found.
        """
        if other_sha256 != self.sha256:
            raise ContractMismatch(
                f"feature contract mismatch at {where}: expected {self.sha256[:12]}, got {other_sha256[:12]}; "
                "train and roll out a model for this contract, or point to the dataset the model was trained on"
            )
