"""Structural schemas of custom resources: prune, default, validate, with the server's field paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.failures import (
    Cause,
    duplicate,
    invalid_type,
    invalid_value,
    not_supported,
    required,
    show,
)

Schema = Mapping[str, Any]
_IDENTITY = frozenset({"apiVersion", "kind", "metadata"})
_LOGIC = frozenset({"allOf", "anyOf", "oneOf", "not"})


def admit(schema: Schema, obj: Manifest, old: Manifest | None) -> list[Cause]:
    """Prune and default `obj` in place; the findings that remain. `old` is not validated again."""
    prune(schema, obj, root=True)
    drop_nulls(schema, obj)
    fill_defaults(schema, obj)
    del old
    body = {k: v for k, v in obj.items() if k not in _IDENTITY}
    bare = {**schema, "required": [r for r in schema.get("required") or () if r not in _IDENTITY]}
    bare["properties"] = {k: v for k, v in (schema.get("properties") or {}).items() if k not in _IDENTITY}
    causes: list[Cause] = []
    _validate(bare, body, "", causes)
    return causes


def prune(schema: Schema, value: Any, *, root: bool = False) -> None:
    """Drop what the schema does not name, unless it preserves unknown fields."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        extra = schema.get("additionalProperties")
        if schema.get("x-kubernetes-embedded-resource"):
            root = True
        for key in list(value):
            if root and key in _IDENTITY:
                continue
            if key in properties:
                prune(properties[key], value[key])
            elif isinstance(extra, Mapping):
                prune(extra, value[key])
            elif extra is not True and not schema.get("x-kubernetes-preserve-unknown-fields"):
                del value[key]
    elif isinstance(value, list):
        for item in value:
            prune(schema.get("items") or {}, item)


def drop_nulls(schema: Schema, value: Any) -> None:
    """A null where null is not allowed and nothing is the default counts as absent."""
    if isinstance(value, dict):
        properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
        for key in list(value):
            below = properties.get(key, extra if isinstance(extra, Mapping) else None)
            if below is None:
                continue
            if value[key] is None and not below.get("nullable") and "default" not in below:
                del value[key]
            else:
                drop_nulls(below, value[key])
    elif isinstance(value, list):
        for item in value:
            drop_nulls(schema.get("items") or {}, item)


def fill_defaults(schema: Schema, value: Any) -> None:
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        for key, below in properties.items():
            # A null where null is not allowed counts as absent, so that the default applies.
            if value.get(key, 0) is None and "default" in below and not below.get("nullable"):
                del value[key]
            if key not in value and "default" in below:
                value[key] = orjson.loads(orjson.dumps(below["default"]))
            if key in value:
                fill_defaults(below, value[key])
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping):
            for key in value.keys() - properties.keys():
                fill_defaults(extra, value[key])
    elif isinstance(value, list):
        for item in value:
            fill_defaults(schema.get("items") or {}, item)


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def _type_name(value: Any) -> str:
    for name, types in _TYPES.items():
        if isinstance(value, bool):
            return "boolean"
        if isinstance(value, types):
            return name
    return "null"


def _has_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _validate(schema: Schema, value: Any, path: str, causes: list[Cause]) -> None:
    if value is None:
        if not schema.get("nullable") and schema.get("type"):
            causes.append(
                invalid_type(path, "null", f'{path or "body"} in body must be of type {schema["type"]}: "null"')
            )
        return
    wanted = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        if not (isinstance(value, str) or _has_type(value, "integer")):
            causes.append(
                invalid_type(
                    path, _type_name(value), f'{path} in body must be of type integer,string: "{_type_name(value)}"'
                )
            )
            return
    elif wanted and not _has_type(value, wanted):
        found = _type_name(value)
        causes.append(invalid_type(path, found, f'{path} in body must be of type {wanted}: "{found}"'))
        return
    if "enum" in schema and value not in schema["enum"]:
        causes.append(not_supported(path, value, schema["enum"]))
    if isinstance(value, dict):
        _validate_object(schema, value, path, causes)
    elif isinstance(value, list):
        _validate_list(schema, value, path, causes)
    elif isinstance(value, str):
        _validate_text(schema, value, path, causes)
    elif not isinstance(value, bool):
        _validate_number(schema, value, path, causes)
    _validate_logic(schema, value, path, causes)


def _validate_object(schema: Schema, value: Manifest, path: str, causes: list[Cause]) -> None:
    properties = schema.get("properties") or {}
    causes += [required(_join(path, name)) for name in schema.get("required") or () if name not in value]
    extra = schema.get("additionalProperties")
    for key, item in value.items():
        if key in properties:
            _validate(properties[key], item, _join(path, key), causes)
        elif isinstance(extra, Mapping):
            _validate(extra, item, _join(path, key), causes)
    least, most = schema.get("minProperties", 0), schema.get("maxProperties")
    if len(value) < least:
        causes.append(invalid_value(path, len(value), f"{path} in body should have at least {least} properties"))
    if most is not None and len(value) > most:
        causes.append(invalid_value(path, len(value), f"{path} in body should have at most {most} properties"))


def _validate_list(schema: Schema, value: list[Any], path: str, causes: list[Cause]) -> None:
    if "minItems" in schema and len(value) < schema["minItems"]:
        causes.append(
            invalid_value(path, len(value), f"{path} in body should have at least {schema['minItems']} items")
        )
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        text = f"Too many: {len(value)}: must have at most {schema['maxItems']} items"
        causes.append(Cause(reason="FieldValueTooMany", message=text, field=path))
    for n, item in enumerate(value):
        _validate(schema.get("items") or {}, item, f"{path}[{n}]", causes)
    kind = schema.get("x-kubernetes-list-type")
    if kind not in ("set", "map"):
        return
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    seen: list[Any] = []
    for n, item in enumerate(value):
        identity = {k: item.get(k) for k in keys} if kind == "map" and isinstance(item, dict) else item
        if identity in seen:
            shown = orjson.dumps(identity).decode() if isinstance(identity, dict) else identity
            causes.append(duplicate(f"{path}[{n}]", shown))
        seen.append(identity)


def _validate_text(schema: Schema, value: str, path: str, causes: list[Cause]) -> None:
    if "minLength" in schema and len(value) < schema["minLength"]:
        causes.append(invalid_value(path, value, f"{path} in body should be at least {schema['minLength']} chars long"))
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        message = f"Too long: may not be more than {schema['maxLength']} bytes"
        causes.append(Cause(reason="FieldValueTooLong", message=message, field=path))
    if "pattern" in schema and not re.search(schema["pattern"], value):
        causes.append(invalid_value(path, value, f"{path} in body should match '{schema['pattern']}'"))
    if schema.get("format") == "date-time" and not _is_time(value):
        causes.append(invalid_type(path, value, f"{path} in body must be of type date-time: {show(value)}"))


def _is_time(text: str) -> bool:
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", text))


def _validate_number(schema: Schema, value: float, path: str, causes: list[Cause]) -> None:
    if "minimum" in schema:
        strict = bool(schema.get("exclusiveMinimum"))
        if value < schema["minimum"] or (strict and value == schema["minimum"]):
            text = "greater than" if strict else "greater than or equal to"
            causes.append(invalid_value(path, value, f"{path} in body should be {text} {schema['minimum']}"))
    if "maximum" in schema:
        strict = bool(schema.get("exclusiveMaximum"))
        if value > schema["maximum"] or (strict and value == schema["maximum"]):
            text = "less than" if strict else "less than or equal to"
            causes.append(invalid_value(path, value, f"{path} in body should be {text} {schema['maximum']}"))
    if "multipleOf" in schema and value % schema["multipleOf"]:
        causes.append(invalid_value(path, value, f"{path} in body should be a multiple of {schema['multipleOf']}"))


def _fits(schema: Schema, value: Any) -> bool:
    found: list[Cause] = []
    _validate(schema, value, "", found)
    return not found


def _validate_logic(schema: Schema, value: Any, path: str, causes: list[Cause]) -> None:
    if schema.keys().isdisjoint(_LOGIC):
        return
    for part in schema.get("allOf") or ():
        _validate(part, value, path, causes)
    shown = show(value) if not isinstance(value, dict | list) else orjson.dumps(value).decode()
    if "anyOf" in schema and not any(_fits(part, value) for part in schema["anyOf"]):
        causes.append(
            Cause(
                reason="FieldValueInvalid",
                message=f"Invalid value: {shown}: {path} in body must validate at least one schema (anyOf)",
                field=path,
            )
        )
    if "oneOf" in schema and sum(_fits(part, value) for part in schema["oneOf"]) != 1:
        causes.append(
            Cause(
                reason="FieldValueInvalid",
                message=f"Invalid value: {shown}: {path} in body must validate one and only one schema (oneOf)",
                field=path,
            )
        )
    if "not" in schema and _fits(schema["not"], value):
        causes.append(
            Cause(
                reason="FieldValueInvalid",
                message=f"Invalid value: {shown}: {path} in body must not validate the schema (not)",
                field=path,
            )
        )
