"""Tensor operations of the detector's graph, in operators that every ONNX exporter knows."""

from __future__ import annotations

import torch
from torch import Tensor

SOFT = 3.0
TINY = 1e-6


def squash(z: Tensor) -> Tensor:
    """`SOFT * asinh(z / SOFT)`: linear for ordinary robust z-scores, never saturating for wild ones."""
    size = (z / SOFT).abs()
    return SOFT * torch.sign(z) * torch.log(size + torch.sqrt(size * size + 1.0))


def unsquash(y: Tensor) -> Tensor:
    """Inverse of `squash`."""
    e = torch.exp((y / SOFT).clamp(-80.0, 80.0))
    return 0.5 * SOFT * (e - 1.0 / e)


def masked(x: Tensor) -> tuple[Tensor, Tensor]:
    """Finite values with 0 for the others, and 1 where finite."""
    mask = (~torch.isnan(x) & (x.abs() < 3e38)).to(x.dtype)
    return torch.where(mask > 0, x, torch.zeros_like(x)), mask


def middle(days: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over days `(B, L, F)` without the highest and lowest where three or more are seen; and 1 where any is."""
    n = seen.sum(1)
    total = (days * seen).sum(1)
    high = (days * seen - 1e6 * (1 - seen)).amax(1)
    low = (days * seen + 1e6 * (1 - seen)).amin(1)
    trimmed = (total - high - low) / (n - 2.0).clamp(min=1.0)
    return torch.where(n > 2.5, trimmed, total / n.clamp(min=1.0)), (n > 0).to(days.dtype)


def metric_error(difference: Tensor, like: Tensor) -> Tensor:
    return torch.sqrt(difference.reshape(like.shape).square().mean(1) + 1e-12)
