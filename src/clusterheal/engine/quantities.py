"""Kubernetes quantities and durations as plain numbers."""

from __future__ import annotations

import re
from datetime import timedelta

from clusterheal.errors import InvalidInput

_SUFFIX = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_QUANTITY = re.compile(r"^([0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)$")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|d)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def quantity(text: str | float) -> float:
    """A quantity such as `512Mi` or `250m` in its base unit (bytes, cores).

    Raises:
        InvalidInput: not a quantity.
    """
    match = _QUANTITY.match(str(text).strip())
    if match is None or match[2] not in _SUFFIX:
        raise InvalidInput(f"expected a Kubernetes quantity such as 512Mi or 250m, got {text!r}")
    return float(match[1]) * _SUFFIX[match[2]]


def duration(text: str) -> timedelta:
    """A duration such as `90s` or `1h30m`.

    Raises:
        InvalidInput: not a duration.
    """
    if not re.fullmatch(rf"(?:{_PART.pattern})+", text):
        raise InvalidInput(f"expected a duration such as 90s or 1h30m, got {text!r}")
    return timedelta(seconds=sum(float(n) * _SECONDS[unit] for n, unit in _PART.findall(text)))


def allowed_count(value: int | str | None, total: int, *, default: int) -> int:
    """`maxUnavailable` as a count: an integer, or a percentage of `total` rounded down, but at least 1 for a pool."""
    if value is None:
        return default
    if isinstance(value, str) and value.endswith("%"):
        return max(1, int(total * float(value[:-1]) / 100))
    return int(value)


def binary(value: float, step: float = 2.0**24) -> str:
    """Bytes as a quantity in Mi, rounded up to `step` (16Mi)."""
    return f"{int(-(-value // step) * step / 2**20)}Mi"


def millicores(value: float) -> str:
    """Cores as a quantity in m, rounded up to 50m."""
    return f"{int(-(-value * 1000 // 50) * 50)}m"
