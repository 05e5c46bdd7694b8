"""Which packages of others our modules import, wherever in the module: most are imported where they are used."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "models", "components", "pipelines")


def our_modules() -> dict[str, Path]:
    found = {}
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT / folder).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = file
    return found


def needed(entries: Iterable[str], without: frozenset[str]) -> set[str]:
    """Modules of others that the entries and what of ours they import need; `without` is not followed."""
    ours = our_modules()
    packages = {name.partition(".")[0] for name in ours}
    todo, seen, others = list(entries), set(without), set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for imported in _imports(ours[name], ours):
            if imported in ours:
                todo.append(imported)
            elif (top := imported.partition(".")[0]) not in packages and top not in sys.stdlib_module_names:
                others.add(imported)
    return others


def _imports(file: Path, ours: Mapping[str, Path]) -> Iterator[str]:
    """Names after `import` and `from`; a name imported from a package may be a module, and is given as one, too."""
    tree = ast.parse(file.read_text())
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in only_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (name for alias in node.names if (name := f"{node.module}.{alias.name}") in ours)
