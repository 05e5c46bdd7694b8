"""The naive forecasts that each member may lean on, cut out of its normalised window.

A linear map shared by all features cannot be the newest sample for one and yesterday's course for another, and a
training of a few hundred steps does not find either exactly. So the paths are given, and the network weighs them.

Shapes: `...` leading axes, R recent steps, L season lags, S seasonal steps, H horizon steps, K paths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clusterheal.contracts import WindowSpec

NEWEST = 8


def path_count(window: WindowSpec) -> int:
    """K of `naive_paths`."""
    return 2 + 2 * len(window.season_lags) + 2 * (_seasons_in_recent(window) > 0)


def naive_paths(z: Tensor, present: Tensor, last: Tensor, window: WindowSpec) -> Tensor:
    """`(..., K, H)` from normalised samples `z` `(..., R + L * S)`, 0 where not `present`, and the newest one `last`.

    The newest sample and the level of the newest ones, held; for each season lag the same time in that season, as it
    was and moved to the newest level; where whole seasons lie in the recent steps, the last of them and their mean.
    A path without its samples is the newest level.
    """
    recent, there = z[..., : window.recent_steps], present[..., : window.recent_steps]
    level, known = masked_mean(recent[..., -NEWEST:], there[..., -NEWEST:])
    level = torch.where(known, level, last).unsqueeze(-1)
    flat = level.expand(*level.shape[:-1], window.horizon_steps)
    paths = [last.unsqueeze(-1).expand_as(flat), flat]
    for lag in range(len(window.season_lags)):
        start = window.recent_steps + lag * window.seasonal_steps
        block = slice(start, start + window.seasonal_steps)
        paths += _of_block(z[..., block], present[..., block], level, flat, window)
    if _seasons_in_recent(window):
        paths += _of_recent(recent, there, flat, window)
    return torch.stack(paths, dim=-2)


def masked_mean(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the last axis of what is present, and whether anything is."""
    count = present.sum(-1)
    return (x * present).sum(-1) / count.clamp(min=1), count > 0


def _of_block(block: Tensor, there: Tensor, level: Tensor, flat: Tensor, window: WindowSpec) -> list[Tensor]:
    """Same time in the season of a block `(..., S)`, and that moved by how much the level differs now."""
    ahead = torch.arange(window.seasonal_before, window.seasonal_before + window.horizon_steps, device=block.device)
    ahead = ahead.clamp(max=window.seasonal_steps - 1)
    then = slice(max(window.seasonal_before - NEWEST, 0), max(window.seasonal_before, 1))
    level_then, known = masked_mean(block[..., then], there[..., then])
    same = torch.where(there[..., ahead], block[..., ahead], flat)
    moved = block[..., ahead] + (level - level_then.unsqueeze(-1))
    return [same, torch.where(there[..., ahead] & known.unsqueeze(-1), moved, flat)]


def _of_recent(recent: Tensor, there: Tensor, flat: Tensor, window: WindowSpec) -> list[Tensor]:
    """The last season within the recent steps `(..., R)`, and the mean of all whole ones there."""
    count, season = _seasons_in_recent(window), window.season_steps
    at = torch.arange(window.horizon_steps, device=recent.device) % season
    whole = (recent[..., -count * season :], there[..., -count * season :])
    seasons, known = (x.reshape(*x.shape[:-1], count, season).transpose(-1, -2)[..., at, :] for x in whole)
    mean, any_known = masked_mean(seasons, known)
    newest = torch.where(known[..., -1], seasons[..., -1], flat)
    return [newest, torch.where(any_known, mean, flat)]


def _seasons_in_recent(window: WindowSpec) -> int:
    return window.recent_steps // window.season_steps
