"""Which verbs on which resources the code asks the API server for, read from its source.

Every call on a `Cluster` is found by its method and its first argument. A resource that is named by a constant is read
off; one that is computed has to be listed below, or the test fails: nobody adds a call without the right to make it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from clusterheal.engine.cache import BEFORE_ACTING, WANTED
from clusterheal.engine.views import KINDS
from clusterheal.kube import resources
from clusterheal.kube.ports import Resource
from tests.manifests.rendering import ROOT

Right = tuple[str, str, str]
"""API group, resource (with its subresource), verb."""

METHODS = {"get", "list", "watch", "create", "update", "patch", "delete"}
CONSTANTS = {name: value for name, value in vars(resources).items() if isinstance(value, Resource)}
ACTED_ON = tuple(
    KINDS[kind]
    for kind in (
        "Deployment",
        "StatefulSet",
        "DaemonSet",
        "Node",
        "PersistentVolumeClaim",
        "Application",
        "InferenceService",
    )
)
"""What an action may have as its target: guards and actions refuse the other kinds."""

FOLLOWED = {w.resource for w in WANTED}
FOUND = tuple(resource for resource in KINDS.values() if resource in FOLLOWED)
"""What a target can be at all: only what the engine follows is found."""

COMPUTED: dict[tuple[str, str], tuple[Resource, ...]] = {
    ("engine/cache.py", "resource"): tuple(FOLLOWED | set(BEFORE_ACTING)),
    ("engine/actions/apply.py", "resource"): FOUND,
    ("engine/actions/apply.py", "KINDS[intent.target.kind]"): ACTED_ON,
    ("engine/actions/hand_over.py", "KINDS[target.kind]"): ACTED_ON,
}


def _calls(file: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            receiver = ast.unparse(node.func.value)
            if receiver == "cluster" or receiver.endswith(("._cluster", ".cluster")):
                yield node


def _subresource(call: ast.Call) -> str:
    for keyword in call.keywords:
        if keyword.arg == "subresource":
            assert isinstance(keyword.value, ast.Constant), ast.unparse(call)
            return f"/{keyword.value.value}" if keyword.value.value else ""
    return ""


def rights_asked_for(*folders: str) -> set[Right]:
    """Rights that the code below `src/clusterheal/<folder>` needs.

    Raises:
        AssertionError: a call whose resource cannot be told.
    """
    found: set[Right] = set()
    for folder in folders:
        root = ROOT / "src" / "clusterheal"
        for file in sorted((root / folder).rglob("*.py")):
            name = str(file.relative_to(root))
            for call in _calls(file):
                found |= _rights(name, call)
    return found


def _rights(file: str, call: ast.Call) -> set[Right]:
    assert isinstance(call.func, ast.Attribute)
    method = call.func.attr
    if method == "evict":
        return {("", "pods/eviction", "create")}
    if method == "pod_log":
        return {("", "pods/log", "get")}
    if method not in METHODS:
        return set()
    first = ast.unparse(call.args[0])
    targets = (CONSTANTS[first],) if first in CONSTANTS else COMPUTED.get((file, first))
    assert targets, f"{file}:{call.lineno}: cannot tell the resource of {ast.unparse(call)[:80]}; list it in COMPUTED"
    return {(r.group, f"{r.plural}{_subresource(call)}", method) for r in targets}
