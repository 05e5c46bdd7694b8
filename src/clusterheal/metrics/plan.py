"""What a collect still has to fetch: the wanted steps less those that parts cover, cut by day and by size."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from clusterheal.metrics.parts import DAY_MS, Extent
from clusterheal.metrics.shards import WHOLE, Shard

Interval = tuple[int, int]
"""Milliseconds since the epoch, half open."""

CELLS_PER_PART = 4_000_000
"""Cells in one part, with a sample or without: 16 MB as float32, and what bounds the memory of a collect."""


def missing_extents(
    have: Sequence[Extent],
    *,
    start_ms: int,
    end_ms: int,
    step_ms: int,
    cells: Mapping[str, int],
    shard: Shard = WHOLE,
) -> list[Extent]:
    """Parts to fetch for `start_ms <= t < end_ms`, oldest first.

    `cells` tells for each entity kind how many cells a step has in the shard, entities times features; a part holds at
    most `CELLS_PER_PART` of them and never crosses midnight UTC.
    """
    todo = []
    for kind, count in cells.items():
        most = max(1, CELLS_PER_PART // max(1, count))
        covered = coverage([e for e in have if e.kind == kind], shard)
        for first, last in _gaps(covered, start_ms, end_ms):
            pieces = _cut(first, last, step_ms, most)
            todo += [Extent(kind=kind, start_ms=a, end_ms=b, shard=shard) for a, b in pieces]
    return sorted(todo)


def coverage(have: Sequence[Extent], shard: Shard = WHOLE) -> list[Interval]:
    """When every entity of the shard is covered, by its own parts, by whole parts, or by all shards of a split."""
    by_shard: dict[Shard, list[Interval]] = {}
    for extent in have:
        by_shard.setdefault(extent.shard, []).append((extent.start_ms, extent.end_ms))
    covered = by_shard.get(WHOLE, []) + by_shard.get(shard, [])
    for count in {s.count for s in by_shard if s.count > 1}:
        common = merged(by_shard.get(Shard(index=0, count=count), []))
        for index in range(1, count):
            common = _common(common, merged(by_shard.get(Shard(index=index, count=count), [])))
        covered += common
    return merged(covered)


def merged(intervals: Sequence[Interval]) -> list[Interval]:
    """The same times as intervals that neither touch nor overlap, oldest first."""
    out: list[Interval] = []
    for start, end in sorted(intervals):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _common(a: Sequence[Interval], b: Sequence[Interval]) -> list[Interval]:
    both = ((max(s, t), min(e, f)) for s, e in a for t, f in b)
    return sorted((s, e) for s, e in both if s < e)


def _gaps(covered: Sequence[Interval], start_ms: int, end_ms: int) -> list[Interval]:
    gaps, at = [], start_ms
    for first, last in covered:
        if first >= end_ms:
            break
        if first > at:
            gaps.append((at, first))
        at = max(at, last)
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
