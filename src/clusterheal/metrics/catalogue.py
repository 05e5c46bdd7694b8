"""Query catalogue: which features are collected, for which entities, by which PromQL. Data, not code.

The packaged catalogues are YAML files beside this module; users point to a file of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from clusterheal.contracts import EntityKind, FeatureContract, FeatureSpec, default_window
from clusterheal.errors import InvalidInput

PACKAGED = ("default", "detailed")
UNITS = frozenset(["ratio", "cores", "bytes", "bytes/s", "seconds", "count", "1/s", "celsius", "watts", "value"])
"""Units a feature may have; `value` is a number that has none."""

_KEYS = frozenset(["name", "kind", "unit", "low", "high", "scale", "counters", "why", "promql"])
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_NAME_RULE = "lower case letters, digits and _"
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True, kw_only=True)
class CatalogueFeature:
    """A feature and what people need to know of it.

    `counters` are the raw counters beneath a rate; their resets are reported with the data.
    """

    spec: FeatureSpec
    why: str
    counters: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Entity kinds and features in the order in which models see them."""

    entity_kinds: tuple[EntityKind, ...]
    features: tuple[CatalogueFeature, ...]
    source: str

    def kind(self, name: str) -> EntityKind:
        """The entity kind called `name`.

        Raises:
            InvalidInput: there is none.
        """
        for kind in self.entity_kinds:
            if kind.name == name:
                return kind
        raise InvalidInput(f"{self.source}: no entity kind {name!r}; there are {[k.name for k in self.entity_kinds]}")

    def only(self, names: Sequence[str]) -> Catalogue:
        """The features called `names`, in the catalogue's order, and the kinds that they use."""
        unknown = set(names) - {f.name for f in self.features}
        if unknown:
            raise InvalidInput(f"{self.source}: no features {sorted(unknown)}")
        features = tuple(f for f in self.features if f.name in set(names))
        used = {f.spec.entity_kind for f in features}
        return replace(self, features=features, entity_kinds=tuple(k for k in self.entity_kinds if k.name in used))

    def contract(self, step: timedelta) -> FeatureContract:
        """The contract of a dataset with every feature of this catalogue.

        Raises:
            InvalidInput: the catalogue has no feature.
        """
        if not self.features:
            raise InvalidInput(f"{self.source}: a contract needs at least one feature")
        return FeatureContract(
            entity_kinds=self.entity_kinds,
            features=tuple(f.spec for f in self.features),
            step=step,
            window=default_window(step),
        )


def load_catalogue(path: Path | str | None = None) -> Catalogue:
    """Read a catalogue file, a packaged catalogue by name, or with `None` the packaged default.

    Raises:
        InvalidInput: no such file, or an entry that is incomplete or wrong, by file and feature.
    """
    data, source = _read(path)
    return _build(data, source)


def recorded_catalogue(metrics: Sequence[str]) -> Catalogue:
    """Features for replayed recordings: series `recorded_metric{instance="...",metric="m00"}`, one entity an instance.

    Units and plausible ranges of recordings are unknown.
    """
    if not metrics:
        raise InvalidInput("a recorded catalogue needs at least one metric name")
    features = [
        CatalogueFeature(
            spec=FeatureSpec(
                name=metric,
                promql=f'max by (instance) (recorded_metric{{metric="{metric}"}})',
                unit="value",
                entity_kind="instance",
            ),
            why="recorded telemetry; its publisher does not name it",
        )
        for metric in metrics
    ]
    kinds = (EntityKind(name="instance", labels=("instance",)),)
    return Catalogue(entity_kinds=kinds, features=tuple(features), source="recorded telemetry")


def packaged_text(name: str) -> str:
    """The text of a packaged YAML file."""
    return (resources.files("clusterheal.metrics") / "catalogues" / f"{name}.yaml").read_text(encoding="utf-8")


def parse_yaml(text: str, source: str) -> Mapping[str, Any]:
    """A YAML mapping.

    Raises:
        InvalidInput: not YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise InvalidInput(f"{source}: not YAML: {exc}") from exc
    if not isinstance(data, dict):
        raise InvalidInput(f"{source}: expected a mapping at the top, got {type(data).__name__}")
    return data


def _read(path: Path | str | None) -> tuple[Mapping[str, Any], str]:
    name = str(path) if path is not None else "default"
    if name in PACKAGED:
        return parse_yaml(packaged_text(name), f"catalogue {name}"), f"catalogue {name}"
    file = Path(name)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(
            f"catalogue {name}: cannot be read ({exc}); give a YAML file or one of {list(PACKAGED)}"
        ) from exc
    return parse_yaml(text, str(file)), str(file)


def _build(data: Mapping[str, Any], source: str) -> Catalogue:
    if data.get("version") != 1:
        raise InvalidInput(f"{source}: expected `version: 1`, got {data.get('version')!r}")
    unknown = set(data) - {"version", "extends", "definitions", "entity_kinds", "features"}
    if unknown:
        raise InvalidInput(f"{source}: unknown keys {sorted(unknown)}")
    kinds: dict[str, EntityKind] = {}
    features: dict[str, CatalogueFeature] = {}
    if "extends" in data:
        if data["extends"] not in PACKAGED:
            raise InvalidInput(f"{source}: extends {data['extends']!r}; expected one of {list(PACKAGED)}")
        base = load_catalogue(data["extends"])
        kinds.update({k.name: k for k in base.entity_kinds})
        features.update({f.name: f for f in base.features})
    for name, body in _section(data, "entity_kinds", dict, source).items():
        if not isinstance(name, str) or not _NAME.match(name):  # it becomes part of file names
            raise InvalidInput(f"{source}: an entity kind's name is {_NAME_RULE}, got {name!r}")
        labels = body.get("labels") if isinstance(body, dict) else None
        if not isinstance(labels, list) or not labels or not all(isinstance(x, str) for x in labels):
            raise InvalidInput(f"{source}: entity kind {name!r} needs `labels`, a list of label names; got {body!r}")
        kinds[name] = EntityKind(name=name, labels=tuple(labels))
    definitions = _section(data, "definitions", dict, source)
    own: set[str] = set()
    for entry in _section(data, "features", list, source):
        feature = _feature(entry, definitions, kinds, source)
        if feature.name in own:
            raise InvalidInput(f"{source}: feature {feature.name!r} is there twice")
        own.add(feature.name)
        features[feature.name] = feature
    if not features:
        raise InvalidInput(f"{source}: no features")
    used = {f.spec.entity_kind for f in features.values()}
    return Catalogue(
        entity_kinds=tuple(k for k in kinds.values() if k.name in used),
        features=tuple(features.values()),
        source=source,
    )


def _section(data: Mapping[str, Any], key: str, form: type, source: str) -> Any:
    """What stands under `key`, empty when nothing does."""
    value = data.get(key)
    if value is not None and not isinstance(value, form):
        expected = "a mapping" if form is dict else "a list"
        raise InvalidInput(f"{source}: `{key}` is {expected}, got {value!r}")
    return value or form()


def _feature(
    entry: Any, definitions: Mapping[str, Any], kinds: Mapping[str, EntityKind], source: str
) -> CatalogueFeature:
    if not isinstance(entry, dict):
        raise InvalidInput(f"{source}: a feature is a mapping, got {entry!r}")
    name = entry.get("name")
    where = f"{source}: feature {name!r}"
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidInput(f"{where}: a name is {_NAME_RULE}, got {name!r}")
    if unknown := set(entry) - _KEYS:
        raise InvalidInput(f"{where}: unknown keys {sorted(unknown)}; expected some of {sorted(_KEYS)}")
    missing = [k for k in ("kind", "unit", "low", "high", "why", "promql") if k not in entry]
    if missing:
        raise InvalidInput(f"{where}: {missing} missing; low and high may be null, but have to be said")
    if wrong := [k for k in ("kind", "unit", "why") if not isinstance(entry[k], str) or not entry[k].strip()]:
        raise InvalidInput(f"{where}: {wrong[0]} is a non-empty text, got {entry[wrong[0]]!r}")
    if entry["kind"] not in kinds:
        raise InvalidInput(f"{where}: unknown entity kind {entry['kind']!r}; there are {sorted(kinds)}")
    if entry["unit"] not in UNITS:
        raise InvalidInput(f"{where}: unknown unit {entry['unit']!r}; expected one of {sorted(UNITS)}")
    scale = entry.get("scale", "linear")
    if scale not in ("linear", "log"):
        raise InvalidInput(f"{where}: scale is linear or log, got {scale!r}")
    low, high = (_bound(entry[k], where, k) for k in ("low", "high"))
    if low is not None and high is not None and low >= high:
        raise InvalidInput(f"{where}: low {low} is not below high {high}")
    counters = entry.get("counters", [])
    if not isinstance(counters, list) or not all(isinstance(c, str) for c in counters):
        raise InvalidInput(f"{where}: counters is a list of metric names, got {counters!r}")
    spec = FeatureSpec(
        name=name,
        promql=_expand(entry["promql"], definitions, where),
        unit=entry["unit"],
        entity_kind=entry["kind"],
        low=low,
        high=high,
        scale=scale,
    )
    return CatalogueFeature(spec=spec, why=entry["why"].strip(), counters=tuple(counters))


def _bound(value: Any, where: str, key: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput(f"{where}: {key} is a finite number or null, got {value!r}")
    return float(value)


def _expand(promql: Any, definitions: Mapping[str, Any], where: str) -> str:
    if not isinstance(promql, str) or not promql.strip():
        raise InvalidInput(f"{where}: promql is a non-empty text, got {promql!r}")

    def put(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in definitions:
            raise InvalidInput(f"{where}: no definition {name!r}; there are {sorted(definitions)}")
        return str(definitions[name]).strip()

    return _PLACEHOLDER.sub(put, promql).strip()
