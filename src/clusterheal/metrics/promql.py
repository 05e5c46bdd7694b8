"""Just enough PromQL to name the metrics that an expression reads. Whether it parses is promtool's business."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clusterheal.errors import InvalidInput

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)
    |(?P<range>\[[^\]]*\])
    |(?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?:[a-zA-Z]\w*)?)
    |(?P<name>[a-zA-Z_:][\w:]*)
    |(?P<sign>[-+*/%^(){},=!~<>@])
    """,
    re.VERBOSE | re.DOTALL,
)
_GROUPING = frozenset(["by", "without", "on", "ignoring", "group_left", "group_right"])
_KEYWORDS = frozenset(["and", "or", "unless", "bool", "offset", "inf", "nan", "start", "end", "atan2"]) | _GROUPING
_PAIRS = {")": "(", "}": "{"}


def metric_names(promql: str) -> frozenset[str]:
    """The metrics that an expression selects by name.

    Raises:
        InvalidInput: characters that PromQL does not have, or brackets that do not match.
    """
    names = set()
    tokens = list(_tokens(promql))
    depth: list[tuple[str, str]] = []
    for i, (kind, text) in enumerate(tokens):
        before = tokens[i - 1][1] if i else ""
        after = tokens[i + 1][1] if i + 1 < len(tokens) else ""
        if text in ("(", "{") and kind == "sign":
            depth.append((text, before))
        elif text in _PAIRS and kind == "sign":
            if not depth or depth.pop()[0] != _PAIRS[text]:
                raise InvalidInput(f"PromQL {promql!r}: {text!r} closes nothing")
        elif kind == "name" and text.lower() not in _KEYWORDS and after != "(" and not _in_labels(depth):
            # `sum by (x) (...)`: the operator's name stands before its grouping
            if after not in ("by", "without"):
                names.add(text)
        elif (
            kind == "string"
            and depth
            and depth[-1][0] == "{"
            and [t for _, t in tokens[i - 2 : i]] == ["__name__", "="]
        ):
            names.add(text[1:-1])
    if depth:
        raise InvalidInput(f"PromQL {promql!r}: {depth[-1][0]!r} is never closed")
    return frozenset(names)


def _in_labels(depth: list[tuple[str, str]]) -> bool:
    """Inside a matcher list or a grouping clause, where names are labels."""
    return bool(depth) and (depth[-1][0] == "{" or depth[-1][1].lower() in _GROUPING)


def _tokens(promql: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(promql):
        match = _TOKEN.match(promql, at)
        if match is None:
            raise InvalidInput(f"PromQL {promql!r}: unexpected {promql[at]!r} at {at}")
        at = match.end()
        if match.lastgroup not in ("space", "range"):
            yield str(match.lastgroup), match.group()
