"""Merge patch (RFC 7396), JSON patch (RFC 6902) and strategic merge patch."""

from __future__ import annotations

from typing import Any

from clusterheal.local.kube.failures import bad_request, unprocessable
from clusterheal.local.kube.shapes import Shape

_MISSING = object()


def merge_patch(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def _pointer(text: str) -> list[str]:
    if text == "":
        return []
    if not text.startswith("/"):
        raise bad_request(f'json patch path must start with "/", got "{text}"')
    return [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]


def _index(text: str, length: int) -> int:
    if not (text.isdigit() or (text.startswith("-") and text[1:].isdigit())) or not -length <= int(text) < length:
        raise unprocessable(f"index {text!r} is outside an array of {length}")
    return int(text)


def _look(doc: Any, parts: list[str]) -> Any:
    for part in parts:
        if isinstance(doc, list):
            doc = doc[_index(part, len(doc))]
        elif isinstance(doc, dict) and part in doc:
            doc = doc[part]
        else:
            return _MISSING
    return doc


def _parent(doc: Any, path: str, verb: str) -> tuple[Any, str]:
    parts = _pointer(path)
    if not parts:
        raise bad_request(f"json patch {verb} of the whole document is not supported")
    parent = _look(doc, parts[:-1])
    if not isinstance(parent, dict | list):
        raise unprocessable(f"{verb} operation does not apply: doc is missing path: {path}: missing value")
    return parent, parts[-1]


def _add(doc: Any, path: str, value: Any) -> None:
    parent, key = _parent(doc, path, "add")
    if isinstance(parent, dict):
        parent[key] = value
    elif key == "-" or key == str(len(parent)):
        parent.append(value)
    else:
        parent.insert(_index(key, len(parent)), value)


def _remove(doc: Any, path: str, verb: str) -> Any:
    parent, key = _parent(doc, path, verb)
    if isinstance(parent, dict):
        if key not in parent:
            raise unprocessable(f"{verb} operation does not apply: doc is missing key: {path}: missing value")
        return parent.pop(key)
    return parent.pop(_index(key, len(parent)))


def json_patch(target: Any, operations: Any) -> Any:
    """Apply to a copy that the caller owns.

    Raises:
        ApiError: 400 for operations that are none, 422 where one does not apply or a test fails.
    """
    if not isinstance(operations, list) or not all(isinstance(o, dict) and "op" in o for o in operations):
        raise bad_request("error decoding patch: expected an array of operations with op and path")
    for operation in operations:
        _operate(target, operation)
    return target


def _operate(doc: Any, operation: dict[str, Any]) -> None:
    verb, path = operation["op"], operation.get("path", "")
    if verb in ("add", "replace", "test") and "value" not in operation and verb != "test":
        raise bad_request(f"json patch {verb} needs a value at path {path}")
    if verb == "test":
        found = _look(doc, _pointer(path))
        wanted = operation.get("value")
        if (None if found is _MISSING else found) != wanted:
            raise unprocessable(f"testing value {path} failed: test failed")
    elif verb == "add":
        _add(doc, path, operation["value"])
    elif verb == "remove":
        _remove(doc, path, "remove")
    elif verb == "replace":
        _replace(doc, path, operation["value"])
    elif verb in ("move", "copy"):
        source = operation.get("from", "")
        value = _look(doc, _pointer(source))
        if value is _MISSING:
            raise unprocessable(f"{verb} operation does not apply: doc is missing from path: {source}: missing value")
        if verb == "move":
            _remove(doc, source, "move")
        _add(doc, path, _copied(value))
    else:
        raise bad_request(f"unexpected json patch kind: {verb}")


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def _replace(doc: Any, path: str, value: Any) -> None:
    parent, key = _parent(doc, path, "replace")
    if isinstance(parent, dict):
        if key not in parent:
            raise unprocessable(f"replace operation does not apply: doc is missing key: {path}: missing value")
        parent[key] = value
    else:
        parent[_index(key, len(parent))] = value


_ORDER, _PRIMITIVES, _RETAIN, _DIRECTIVE = "$setElementOrder/", "$deleteFromPrimitiveList/", "$retainKeys", "$patch"


def strategic_patch(target: Any, patch: Any, shape: Shape) -> Any:
    """Strategic merge patch with `$patch`, `$retainKeys`, `$deleteFromPrimitiveList` and `$setElementOrder`."""
    if not isinstance(patch, dict):
        return patch
    if patch.get(_DIRECTIVE) == "replace":
        return {k: v for k, v in patch.items() if k != _DIRECTIVE}
    if patch.get(_DIRECTIVE) == "delete":
        return {}
    out = dict(target) if isinstance(target, dict) else {}
    if _RETAIN in patch:
        out = {k: v for k, v in out.items() if k in patch[_RETAIN]}
    for key, value in patch.items():
        if key in (_DIRECTIVE, _RETAIN) or key.startswith(_ORDER):
            continue
        if key.startswith(_PRIMITIVES):
            name = key.removeprefix(_PRIMITIVES)
            out[name] = [item for item in out.get(name) or [] if item not in value]
        elif value is None:
            out.pop(key, None)
        elif isinstance(value, list):
            out[key] = _strategic_list(out.get(key), value, shape.child(key))
        else:
            out[key] = strategic_patch(out.get(key), value, shape.child(key))
    for key, order in patch.items():
        name = key.removeprefix(_ORDER)
        if key.startswith(_ORDER) and isinstance(out.get(name), list):
            out[name] = _ordered(out[name], order, shape.child(name))
    return out


def _strategic_list(live: Any, patch: list[Any], shape: Shape) -> list[Any]:
    keys = shape.strategic_keys
    if keys is None:
        return patch
    current = list(live) if isinstance(live, list) else []
    if keys == ():
        return current + [item for item in patch if item not in current]
    if any(item == {_DIRECTIVE: "replace"} for item in patch):
        return [item for item in patch if item != {_DIRECTIVE: "replace"}]
    key = keys[0]
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        at = next((n for n, old in enumerate(current) if old.get(key) == item[key]), None)
        directive = item.get(_DIRECTIVE)
        if directive == "delete":
            current = [old for old in current if old.get(key) != item[key]]
        elif at is None:
            current.append(strategic_patch({}, item, shape.item()))
        else:
            current[at] = strategic_patch(current[at], item, shape.item())
    return current


def _ordered(items: list[Any], order: list[Any], shape: Shape) -> list[Any]:
    """Items named in `order` in that order; others keep their place at the end."""
    keys = shape.strategic_keys
    if keys:
        ranks = {entry.get(keys[0]): n for n, entry in enumerate(order)}
        return sorted(items, key=lambda item: ranks.get(item.get(keys[0]), len(order)))
    positions = {str(entry): n for n, entry in enumerate(order)}
    return sorted(items, key=lambda item: positions.get(str(item), len(order)))
