"""What a collect still has to fetch: the wanted steps less those that parts cover, cut by day and by size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from clusterheal.metrics.parts import DAY_MS, Extent

SAMPLES_PER_CHUNK = 4_000_000
"""Samples in one part: 16 MB as float32, and what bounds the memory of a collect."""


def missing_extents(
    have: Sequence[Extent], *, start_ms: int, end_ms: int, step_ms: int, series: Mapping[str, int]
) -> list[Extent]:
    """Parts to fetch for `start_ms <= t < end_ms`, oldest first.

    `series` tells for each entity kind how many series its features have together; a part holds at most
    `SAMPLES_PER_CHUNK` samples and never crosses midnight UTC.
    """
    todo = []
    for kind, count in series.items():
        most = max(1, SAMPLES_PER_CHUNK // max(1, count))
        for first, last in _uncovered([e for e in have if e.kind == kind], start_ms, end_ms):
            todo += [Extent(kind=kind, start_ms=a, end_ms=b) for a, b in _cut(first, last, step_ms, most)]
    return sorted(todo)


def _uncovered(have: Sequence[Extent], start_ms: int, end_ms: int) -> list[tuple[int, int]]:
    gaps, at = [], start_ms
    for extent in sorted(have):
        if extent.start_ms >= end_ms:
            break
        if extent.start_ms > at:
            gaps.append((at, extent.start_ms))
        at = max(at, extent.end_ms)
    if at < end_ms:
        gaps.append((at, end_ms))
    return gaps


def _cut(start_ms: int, end_ms: int, step_ms: int, most: int) -> list[tuple[int, int]]:
    """Split at midnights and into at most `most` steps; every bound stays on the step grid."""
    pieces, at = [], start_ms
    while at < end_ms:
        midnight = (at // DAY_MS + 1) * DAY_MS
        day_end = at + -(-(midnight - at) // step_ms) * step_ms
        until = min(end_ms, day_end)
        steps = (until - at) // step_ms
        parts = -(-steps // most)
        bounds = [at + steps * i // parts * step_ms for i in range(parts + 1)]
        pieces += list(itertools.pairwise(bounds))
        at = until
    return pieces
