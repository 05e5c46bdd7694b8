"""Sets of field paths: what a manager owns (`fieldsV1`), and what a write added, changed or removed.

A path is a tuple of elements in fieldsV1 notation: `f:spec`, `k:{"name":"app"}`, `v:"finalizer"`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.shapes import Shape

Path = tuple[str, ...]
FieldSet = frozenset[Path]
_UNTRACKED = frozenset(
    {
        ("f:apiVersion",),
        ("f:kind",),
        ("f:metadata",),
        *(
            ("f:metadata", f"f:{name}")
            for name in (
                "name",
                "namespace",
                "creationTimestamp",
                "selfLink",
                "uid",
                "generation",
                "managedFields",
                "resourceVersion",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
            )
        ),
    }
)


def element_of(item: Any, shape: Shape) -> str:
    """The path element of a list item of a keyed list or set."""
    if shape.keys:
        keyed = {key: item.get(key, shape.default_of_key(key)) for key in shape.keys}
        return (
            "k:" + orjson.dumps({k: v for k, v in keyed.items() if v is not None}, option=orjson.OPT_SORT_KEYS).decode()
        )
    return "v:" + orjson.dumps(item).decode()


def associative(value: Any, shape: Shape) -> bool:
    """Whether a list merges item by item."""
    if shape.keys is None or not isinstance(value, list):
        return False
    return all(isinstance(item, dict) for item in value) if shape.keys else True


def fields_of(value: Any, shape: Shape, at: Path = ()) -> Iterator[Path]:
    """The paths that an applied configuration claims: leaves, and the items of keyed lists."""
    if isinstance(value, dict) and value and not shape.atomic:
        for name, child in value.items():
            yield from fields_of(child, shape.child(name), (*at, f"f:{name}"))
    elif value and associative(value, shape):
        for item in value:
            here = (*at, element_of(item, shape))
            yield here
            if isinstance(item, dict):
                yield from fields_of(item, shape.item(), here)
    elif at:
        yield at


def tracked(paths: Iterator[Path] | FieldSet) -> FieldSet:
    """Without what no manager can own: identity, versions, timestamps."""
    return frozenset(p for p in paths if p not in _UNTRACKED)


@dataclass
class Comparison:
    """What turns one object into another."""

    added: set[Path] = field(default_factory=set)
    modified: set[Path] = field(default_factory=set)
    removed: set[Path] = field(default_factory=set)

    @property
    def empty(self) -> bool:
        return not (self.added or self.modified or self.removed)


def compare(old: Any, new: Any, shape: Shape) -> Comparison:
    found = Comparison()
    _compare(old, new, shape, (), found)
    for paths in (found.added, found.modified, found.removed):
        paths -= _UNTRACKED
    return found


def _compare(old: Any, new: Any, shape: Shape, at: Path, found: Comparison) -> None:
    if old == new and type(old) is type(new):
        return
    if isinstance(old, dict) and isinstance(new, dict) and not shape.atomic and (old or new):
        for name in old.keys() | new.keys():
            _sides(old, new, name, shape.child(name), (*at, f"f:{name}"), found)
    elif associative(old, shape) and associative(new, shape) and (old or new):
        left = {element_of(item, shape): item for item in old}
        right = {element_of(item, shape): item for item in new}
        for element in left.keys() | right.keys():
            _sides(left, right, element, shape.item(), (*at, element), found)
    else:
        found.modified.add(at)


def _sides(old: Mapping[str, Any], new: Mapping[str, Any], key: str, shape: Shape, at: Path, found: Comparison) -> None:
    if key not in old:
        found.added.update(_whole(new[key], shape, at))
    elif key not in new:
        found.removed.update(_whole(old[key], shape, at))
    else:
        _compare(old[key], new[key], shape, at, found)


def _whole(value: Any, shape: Shape, at: Path) -> Iterator[Path]:
    """Every path of a subtree that came or went, its inner nodes too."""
    yield at
    if isinstance(value, dict) and not shape.atomic:
        for name, child in value.items():
            yield from _whole(child, shape.child(name), (*at, f"f:{name}"))
    elif associative(value, shape):
        for item in value:
            yield from _whole(item, shape.item(), (*at, element_of(item, shape)))


@lru_cache(maxsize=2048)
def to_fields_v1(paths: FieldSet) -> Manifest:
    """The tree of these paths. It is shared by all who ask for the same, as whoever writes often does."""
    root: Manifest = {}
    prefixes = {p[:n] for p in paths for n in range(1, len(p))}
    for path in sorted(paths):
        node = root
        for element in path:
            node = node.setdefault(element, {})
        if path in prefixes:
            node["."] = {}
    return root


def from_fields_v1(tree: Mapping[str, Any], at: Path = ()) -> Iterator[Path]:
    for element, below in tree.items():
        if element == ".":
            yield at
        elif below:
            yield from from_fields_v1(below, (*at, element))
        else:
            yield (*at, element)


def dotted(path: Path) -> str:
    """As in conflict messages: `.spec.template.spec.containers[name="app"].image`."""
    out = []
    for element in path:
        mark, text = element[:2], element[2:]
        if mark == "f:":
            out.append(f".{text}")
        elif mark == "k:":
            keys = orjson.loads(text)
            out.append("[" + ",".join(f"{k}={orjson.dumps(v).decode()}" for k, v in sorted(keys.items())) + "]")
        else:
            out.append(f"[={text}]")
    return "".join(out)
