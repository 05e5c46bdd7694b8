"""What a value must look like that the Kubeflow Pipelines API (v2beta1) sends or takes."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

Shapes = dict[str, Any]

NOT_FOUND, EXISTS, INVALID = 5, 6, 3  # gRPC's codes
RECORDED = Path(__file__).with_name("kfp_server_api_2_14.json")
PLAIN = {"str": str, "bool": bool, "int": int, "float": float, "object": object}


class Refused(Exception):
    """What the server says no to: gRPC's code and the message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@functools.cache
def recorded_shapes() -> Shapes:
    """Fields and types of release 2.14.3's models; a list holds an enum's values."""
    shapes: Shapes = json.loads(RECORDED.read_text())
    return shapes


@functools.cache
def installed_shapes() -> Shapes:
    """The same of the installed client, for the models that are recorded."""
    import kfp_server_api as api

    shapes: Shapes = {}
    for name in recorded_shapes():
        model = getattr(api, name, None)
        if model is None:
            continue
        values = getattr(model, "allowable_values", None)
        shapes[name] = values or {model.attribute_map[key]: kind for key, kind in model.openapi_types.items()}
    return shapes


def check(kind: str, value: Any, shapes: Shapes, where: str = "") -> None:
    """Refuse a value that the type `kind` of the API cannot hold, at any depth."""
    at = where or kind
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            raise Refused(INVALID, f"{at}: expected a list, got {value!r}")
        for index, entry in enumerate(value):
            check(inner.group(1), entry, shapes, f"{at}[{index}]")
    elif inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(value, dict):
            raise Refused(INVALID, f"{at}: expected an object, got {value!r}")
        for key, entry in value.items():
            check(inner.group(1), entry, shapes, f"{at}.{key}")
    elif kind == "datetime":
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", str(value)):
            raise Refused(INVALID, f"{at}: expected a time such as 2026-01-01T00:00:00Z, got {value!r}")
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (kind == "int" and isinstance(value, bool)):
            raise Refused(INVALID, f"{at}: expected {kind}, got {value!r}")
    else:
        _check_model(kind, value, shapes, at)


def _check_model(kind: str, value: Any, shapes: Shapes, at: str) -> None:
    shape = shapes.get(kind)
    if shape is None:
        return  # a model that the other release names differently, and that nothing here sets
    if isinstance(shape, list):
        if value not in shape:
            raise Refused(INVALID, f"{at}: {value!r} is none of {shape}")
        return
    if not isinstance(value, dict):
        raise Refused(INVALID, f"{at}: expected an object, got {value!r}")
    for key, entry in value.items():
        if key not in shape:
            raise Refused(INVALID, f"{at}: {kind} has no field {key!r}")
        check(shape[key], entry, shapes, f"{at}.{key}")


def check_both(kind: str, value: Any) -> None:
    """Against the installed client's models and those of the oldest supported release."""
    check(kind, value, installed_shapes())
    check(kind, value, recorded_shapes())
