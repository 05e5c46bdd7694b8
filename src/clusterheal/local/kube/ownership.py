"""`metadata.managedFields`: who owns which field, and server-side apply with its conflicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from clusterheal.kube.ports import ApiError, Manifest
from clusterheal.local.kube.failures import bad_request
from clusterheal.local.kube.fieldsets import (
    Comparison,
    FieldSet,
    Path,
    associative,
    compare,
    dotted,
    element_of,
    fields_of,
    from_fields_v1,
    to_fields_v1,
    tracked,
)
from clusterheal.local.kube.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class Manager:
    """Who writes: the identity under which fields are owned."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""

    @property
    def identity(self) -> tuple[str, str, str, str]:
        version = "" if self.operation == "Apply" else self.api_version
        return (self.name, self.operation, version, self.subresource)

    @property
    def text(self) -> str:
        shown = f'"{self.name}"'
        if self.subresource:
            shown += f' with subresource "{self.subresource}"'
        return f"{shown} using {self.api_version}" if self.operation == "Update" else shown


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of managedFields; `time` is RFC 3339."""

    manager: Manager
    fields: FieldSet
    time: str


def entries_of(obj: Manifest) -> list[Entry]:
    """Read managedFields.

    Raises:
        ApiError: 422-like 400, entries that are not in the documented form.
    """
    found = []
    for raw in obj.get("metadata", {}).get("managedFields") or ():
        if raw.get("operation") not in ("Apply", "Update"):
            raise bad_request(
                f'metadata.managedFields.operation: must be "Apply" or "Update", got {raw.get("operation")!r}'
            )
        manager = Manager(
            name=raw.get("manager", ""),
            operation=raw["operation"],
            api_version=raw.get("apiVersion", ""),
            subresource=raw.get("subresource", ""),
        )
        fields = frozenset(from_fields_v1(raw.get("fieldsV1") or {}))
        found.append(Entry(manager=manager, fields=fields, time=raw.get("time", "")))
    return found


def write_entries(obj: Manifest, entries: list[Entry]) -> None:
    ordered = sorted(
        (e for e in entries if e.fields),
        key=lambda e: (e.manager.operation != "Apply", e.time, e.manager.name, e.manager.subresource),
    )
    lines = []
    for entry in ordered:
        manager = entry.manager
        line: Manifest = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.api_version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields_v1(entry.fields),
        }
        if manager.subresource:
            line["subresource"] = manager.subresource
        lines.append(line)
    if lines:
        obj["metadata"]["managedFields"] = lines
    else:
        obj["metadata"].pop("managedFields", None)


def track_update(old: Manifest, new: Manifest, shape: Shape, manager: Manager, now: str, keep: list[Entry]) -> None:
    """After a create, update or patch: what it set belongs to `manager`, what it removed to nobody.

    `keep` are the entries before the write; they are written into `new`.
    """
    change = compare(old, new, shape)
    if change.empty:
        write_entries(new, keep)
        return
    mine = next((e for e in keep if e.manager.identity == manager.identity), None)
    owned = ((mine.fields if mine else frozenset()) | change.added | change.modified) - change.removed
    lost = change.added | change.modified | change.removed
    others = [_without(e, frozenset(lost)) for e in keep if e.manager.identity != manager.identity]
    if mine is not None and owned == mine.fields:
        now = mine.time
    write_entries(new, [*others, Entry(manager=manager, fields=tracked(owned), time=now)])


def _without(entry: Entry, gone: FieldSet) -> Entry:
    return replace(entry, fields=entry.fields - gone)


def apply(live: Manifest, config: Manifest, shape: Shape, manager: Manager, *, force: bool, now: str) -> Manifest:
    """Merge an applied configuration into the live object (`{}`-like for a new one).

    Raises:
        ApiError: 409 naming the managers whose fields the configuration would change.
    """
    entries = entries_of(live)
    bare = _without_managed(live)
    claimed = tracked(fields_of(config, shape))
    mine = next((e for e in entries if e.manager.identity == manager.identity), None)
    others = [e for e in entries if e is not mine]
    merged: Manifest = merge(bare, config, shape)
    if mine is not None:
        held = frozenset().union(*(e.fields for e in others)) if others else frozenset()
        dropped = mine.fields - claimed - held
        merged = prune(merged, dropped, claimed | held, shape)
    change = compare(bare, merged, shape)
    if not force:
        _refuse_conflicts(change, others)
    lost = frozenset(change.added | change.modified | change.removed)
    others = [_without(e, lost) for e in others]
    if mine is not None and mine.fields == claimed:
        now = mine.time
    write_entries(merged, [*others, Entry(manager=manager, fields=claimed, time=now)])
    return merged


def _without_managed(obj: Manifest) -> Manifest:
    metadata = {k: v for k, v in obj.get("metadata", {}).items() if k != "managedFields"}
    return {**obj, "metadata": metadata}


def _refuse_conflicts(change: Comparison, others: list[Entry]) -> None:
    touched = change.added | change.modified
    conflicts: list[tuple[Manager, Path]] = [
        (entry.manager, path) for entry in others for path in sorted(entry.fields & touched)
    ]
    if not conflicts:
        return
    if len(conflicts) == 1:
        manager, path = conflicts[0]
        message = f"Apply failed with 1 conflict: conflict with {manager.text}: {dotted(path)}"
    else:
        lines = []
        for text in sorted({m.text for m, _ in conflicts}):
            lines.append(f"conflicts with {text}:")
            lines += [f"- {dotted(p)}" for m, p in conflicts if m.text == text]
        message = f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {m.text}", "field": dotted(p)}
        for m, p in conflicts
    ]
    raise ApiError(409, "Conflict", message, {"causes": causes})


def merge(live: Any, config: Any, shape: Shape) -> Any:
    """The configuration laid over the live value: maps and keyed lists merge, the rest is replaced."""
    if isinstance(live, dict) and isinstance(config, dict) and not shape.atomic:
        out = dict(live)
        for name, value in config.items():
            out[name] = merge(live[name], value, shape.child(name)) if name in live else value
        return out
    if associative(live, shape) and associative(config, shape):
        wanted = {element_of(item, shape): item for item in config}
        present = {element_of(item, shape): item for item in live}
        merged = [merge(item, wanted[key], shape.item()) if key in wanted else item for key, item in present.items()]
        return merged + [item for key, item in wanted.items() if key not in present]
    return config


def prune(value: Any, dropped: FieldSet, kept: FieldSet, shape: Shape, at: Path = ()) -> Any:
    """Remove what the manager no longer claims and nobody else owns.

    An inner node goes when it was itself dropped and nothing below it is kept.
    """
    if isinstance(value, dict) and not shape.atomic:
        out = {}
        for name, child in value.items():
            here = (*at, f"f:{name}")
            if _goes(here, dropped, kept):
                continue
            pruned = prune(child, dropped, kept, shape.child(name), here)
            if child and pruned in ({}, []) and here not in kept and _only_held_dropped(here, dropped):
                continue
            out[name] = pruned
        return out
    if associative(value, shape):
        items = []
        for item in value:
            here = (*at, element_of(item, shape))
            if not _goes(here, dropped, kept):
                items.append(prune(item, dropped, kept, shape.item(), here))
        return items
    return value


def _goes(path: Path, dropped: FieldSet, kept: FieldSet) -> bool:
    return path in dropped and not any(k[: len(path)] == path for k in kept)


def _only_held_dropped(path: Path, dropped: FieldSet) -> bool:
    return any(d[: len(path)] == path for d in dropped)
