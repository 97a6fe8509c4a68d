"""The lift (view transform, "Fast-Ray") in torch: one differentiable row gather per instant.

A table entry is ``(camera * Hf + v) * Wf + u`` or, where no camera sees the voxel, ``cameras * Hf * Wf``: the sentinel row of
zeros behind the features. Tables are data, built by ``bevstack.bev.tables``; voxels are flat in (x, y, z) order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def lift_rows(features: Tensor, table: Tensor) -> Tensor:
    """Gathers one instant.

    Args:
        features: (B, cameras, C, Hf, Wf).
        table: (B, V) integer entries in [0, cameras * Hf * Wf].

    Returns:
        (B, V, C): the owning camera's feature of each voxel, zeros where there is none.
    """
    batch, cameras, channels, height, width = features.shape
    cells = cameras * height * width
    rows = features.permute(0, 1, 3, 4, 2).reshape(batch, cells, channels)
    rows = torch.cat([rows, rows.new_zeros(batch, 1, channels)], dim=1).reshape(batch * (cells + 1), channels)
    offset = torch.arange(batch, device=table.device, dtype=torch.int64)[:, None] * (cells + 1)
    index = (table.to(torch.int64) + offset).reshape(-1)
    return rows.index_select(0, index).reshape(batch, -1, channels)


def fold_height(volumes: Sequence[Tensor], n: tuple[int, int, int]) -> Tensor:
    """Lifted instants, each (B, X*Y*Z, C), to (B, Z*T*C, X, Y): height outermost, then time, then feature (brief 1.4).

    The result is stored channels-last, as the gather leaves it; convolutions take that layout without a copy.
    """
    x, y, z = n
    stacked = torch.stack(list(volumes), dim=2)  # (B, V, T, C)
    batch, _, times, channels = stacked.shape
    return stacked.reshape(batch, x, y, z * times * channels).permute(0, 3, 1, 2)
