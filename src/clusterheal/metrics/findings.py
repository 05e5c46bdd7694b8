"""What was noticed about the data on its way in. Findings are reported, never dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One observation.

    `code` is a stable word for machines, `subject` what it is about (a feature, an entity, the server),
    `detail` a sentence for people. An `error` stops the pipeline.
    """

    code: str
    severity: Severity
    subject: str
    detail: str
