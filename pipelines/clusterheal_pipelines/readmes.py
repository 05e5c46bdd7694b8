"""README.md of every component, written from its signature so that the two cannot differ."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any


def component_readmes() -> dict[str, str]:
    """Component name -> the text of its README."""
    import clusterheal_components

    names = sorted(m.name for m in pkgutil.iter_modules(clusterheal_components.__path__) if m.ispkg)
    return {name: _readme(name) for name in names}


def _readme(name: str) -> str:
    module = importlib.import_module(f"clusterheal_components.{name}.component")
    component = getattr(module, name)
    spec = component.component_spec
    about = _sections(inspect.getdoc(component.python_func) or "")
    lines = [f"# {name}", "", about[""], "", "| input | type | default | meaning |", "|---|---|---|---|"]
    for key, entry in (spec.inputs or {}).items():
        default = f"`{entry.default}`" if entry.optional else "required"
        if _type(entry.type) == "TaskFinalStatus":
            default = "given by KFP"
        lines.append(f"| `{key}` | {_type(entry.type)} | {default} | {about.get(key, '')} |")
    lines += ["", "| output | type | meaning |", "|---|---|---|"]
    for key, entry in (spec.outputs or {}).items():
        lines.append(
            f"| `{key}` | {_type(entry.type)} | {about.get(f'result {key}') or about.get(key) or about['Returns']} |"
        )
    lines += ["", "Written from the component's signature by `clusterheal pipeline compile`.", ""]
    return "\n".join(lines)


def _type(text: str) -> str:
    return str(text).removeprefix("system.").split("@")[0]


def _sections(documentation: str) -> Mapping[str, str]:
    """The summary under an empty name, every argument and named result under its own, a sole result under Returns."""
    import docstring_parser

    parsed = docstring_parser.parse(documentation)
    about: dict[str, Any] = {"": parsed.short_description or ""}
    for parameter in parsed.params:
        about[parameter.arg_name] = " ".join((parameter.description or "").split())
    results = documentation.partition("Returns:")[2].strip()
    about["Returns"] = " ".join(results.split())
    for line in results.splitlines():
        key, colon, text = line.strip().partition(": ")
        if colon and key.isidentifier():
            about["result " + key] = text
    return about
