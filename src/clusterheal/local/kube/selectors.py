"""Label and field selectors, as text in queries and as objects in manifests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from clusterheal.kube.ports import Manifest
from clusterheal.local.kube.failures import bad_request

Predicate = Callable[[Mapping[str, str]], bool]
_SET_TERM = re.compile(r"^\s*(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s+\((?P<values>[^)]*)\)\s*$")
_EQUAL_TERM = re.compile(r"^\s*(?P<key>[^\s!=,()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)\s*$")
_EXISTS_TERM = re.compile(r"^\s*(?P<no>!?)\s*(?P<key>[^\s!=,()]+)\s*$")


def _terms(text: str) -> list[str]:
    """Split at commas outside parentheses."""
    return [part for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def _label_term(term: str) -> Predicate:
    if found := _SET_TERM.match(term):
        key, values = found["key"], {v.strip() for v in found["values"].split(",")}
        if found["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL_TERM.match(term):
        key, value = found["key"], found["value"]
        if found["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS_TERM.match(term):
        key, wanted = found["key"], not found["no"]
        return lambda labels: (key in labels) is wanted
    raise bad_request(f'unable to parse requirement: found "{term.strip()}", expected: a label selector term')


def label_predicate(text: str | None) -> Predicate | None:
    """What `labelSelector=` means, or `None` for everything.

    Raises:
        ApiError: 400, the text is not a selector.
    """
    terms = [_label_term(term) for term in _terms(text or "")]
    return (lambda labels: all(term(labels) for term in terms)) if terms else None


def matches_object(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector object (matchLabels, matchExpressions) selects; empty selects all, `None` nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_expression(expression, labels) for expression in selector.get("matchExpressions") or ())


def _expression(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator = expression["key"], expression["operator"]
    values = expression.get("values") or ()
    if operator == "In":
        return labels.get(key) in values
    if operator == "NotIn":
        return labels.get(key) not in values
    return (key in labels) is (operator == "Exists")


_COMMON_FIELDS = frozenset({"metadata.name", "metadata.namespace"})
_EVENT_FIELDS = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_FIELDS: dict[str, frozenset[str]] = {
    "Pod": frozenset(
        {
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        }
    ),
    "Node": frozenset({"spec.unschedulable"}),
    "Namespace": frozenset({"status.phase"}),
    "Secret": frozenset({"type"}),
    "Event": frozenset({*(f"involvedObject.{f}" for f in _EVENT_FIELDS), "reason", "reportingComponent", "type"}),
    "Job": frozenset({"status.successful"}),
}


def field_predicate(
    kind: str, text: str | None, selectable: frozenset[str] = frozenset(), *, custom: bool = False
) -> Callable[[Manifest], bool] | None:
    """What `fieldSelector=` means for a kind; `selectable` are a custom resource's own selectable fields.

    Raises:
        ApiError: 400, a field that the server has no index for.
    """
    tests: list[tuple[str, bool, str]] = []
    for term in _terms(text or ""):
        found = _EQUAL_TERM.match(term)
        if not found:
            raise bad_request(f'invalid selector: "{term}"; can\'t understand "{term}"')
        if found["key"] not in _COMMON_FIELDS | _FIELDS.get(kind, frozenset()) | selectable:
            if custom or kind in _FIELDS:
                raise bad_request(f"field label not supported: {found['key']}")
            known = ", ".join(f'"{field}"' for field in sorted(_COMMON_FIELDS))
            raise bad_request(f'"{found["key"]}" is not a known field selector: only {known}')
        tests.append((found["key"], found["op"] != "!=", found["value"]))
    return (lambda obj: all((_field(obj, path) == value) is want for path, want, value in tests)) if tests else None


def _field(obj: Manifest, path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None:
        return "false" if path in ("spec.unschedulable", "spec.hostNetwork") else ""
    return str(value).lower() if isinstance(value, bool) else str(value)
