"""Checks objects as an API server does: closed structural schemas, and the rules (CEL) of custom resources."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cel
import jsonschema
import yaml

from clusterheal.kube.documents import KubernetesLoader
from tests.manifests.rendering import Manifest


def schema_of(folder: Path, o: Manifest) -> Any | None:
    """The schema of the object's kind among the CustomResourceDefinitions of the folder; None where it is not there."""
    return crds(folder, o["apiVersion"].partition("/")[0]).get((o["apiVersion"], o["kind"]))


@cache
def crds(folder: Path, group: str) -> dict[tuple[str, str], Any]:
    """Schemas by (apiVersion, kind) of the group's CustomResourceDefinitions, in files `<group>_<plural>.yaml`."""
    found = {}
    for file in sorted(folder.glob(f"{group}_*.yaml")):
        definition = yaml.load(file.read_text(), Loader=KubernetesLoader)
        spec = definition["spec"]
        for version in spec["versions"]:
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[key] = version["schema"]["openAPIV3Schema"]
    return found


def problems(schema: Any, o: Manifest) -> list[str]:
    """Where the object does not fit the schema or breaks one of its rules."""
    own = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    whole = {**schema, "properties": own | schema["properties"]}  # some leave these to the API server
    validator = jsonschema.Draft202012Validator(_closed(whole))
    return _messages(validator, o) + [f"{path}: {rule}" for path, rule in _broken_rules(schema, o, "")]


def _broken_rules(schema: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Rules over transitions (`oldSelf`) are about updates and are left out."""
    for entry in schema.get("x-kubernetes-validations", []):
        if "oldSelf" not in entry["rule"] and cel.evaluate(entry["rule"], {"self": value}) is not True:
            yield path, entry.get("message") or entry["rule"]
    if isinstance(value, dict):
        for name, inner in value.items():
            below = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
            if isinstance(below, dict):
                yield from _broken_rules(below, inner, f"{path}/{name}")
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, inner in enumerate(value):
            yield from _broken_rules(schema["items"], inner, f"{path}/{index}")


def _closed(schema: Any) -> Any:
    """The structural schema as JSON Schema that refuses fields the API server would drop."""
    if isinstance(schema, list):
        return [_closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    out = {k: ({n: _closed(p) for n, p in v.items()} if k == "properties" else _closed(v)) for k, v in schema.items()}
    if "(?i)" in str(out.get("pattern", "")):  # Go takes the flag anywhere, Python only in front
        out["pattern"] = "(?i)" + out["pattern"].replace("(?i)", "")
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and not open_ended:
        out["additionalProperties"] = False
    if schema.get("nullable"):
        return {"anyOf": [out, {"type": "null"}]}
    return out


def _messages(validator: Any, o: Manifest) -> list[str]:
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in validator.iter_errors(o)]


class OpenShiftDefinitions:
    """OpenShift's OpenAPI definitions, closed; kinds are named `<group>/<version>/<Kind>`."""

    def __init__(self, document: bytes) -> None:
        self._definitions: dict[str, Any] = json.loads(document)["definitions"]
        self._validators: dict[str, Any] = {}

    def problems(self, o: Manifest) -> list[str] | None:
        """Where the object does not fit; None where its kind is not defined."""
        name = f"{o['apiVersion']}/{o['kind']}"
        if name not in self._definitions:
            return None
        if name not in self._validators:
            reached: dict[str, Any] = {}
            self._reach(name, reached)
            root = {"$ref": f"#/definitions/{name.replace('/', '~1')}", "definitions": reached}
            self._validators[name] = jsonschema.Draft202012Validator(root)
        return _messages(self._validators[name], o)

    def _reach(self, name: str, reached: dict[str, Any]) -> None:
        """Collect the definition and those it refers to, by their names here."""
        if name not in reached:
            reached[name] = {}
            reached[name] = self._rewritten(_closed(self._definitions[name]), reached)

    def _rewritten(self, schema: Any, reached: dict[str, Any]) -> Any:
        if isinstance(schema, list):
            return [self._rewritten(s, reached) for s in schema]
        if not isinstance(schema, dict):
            return schema
        if isinstance(schema.get("$ref"), str):
            name = schema["$ref"].rpartition("/")[2].replace("~1", "/")
            if name not in self._definitions:
                return {}  # the archive names some that it does not hold, such as ObjectMeta
            self._reach(name, reached)
            return {"$ref": f"#/definitions/{name.replace('/', '~1')}"}
        return {k: self._rewritten(v, reached) for k, v in schema.items()}
