"""The lift (view transform, "Fast-Ray") in torch: one differentiable row gather per instant.

A table entry is ``(camera * Hf + v) * Wf + u`` or, where no camera sees the voxel, ``cameras * Hf * Wf``: the sentinel row of
zeros behind the features. Tables are data, built by ``bevstack.bev.tables``; voxels are flat in (x, y, z) order.

Where several scales are lifted, their rows stand one after the other (finest first), and so do their voxels in the table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .config import FastBEVConfig


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


def level_rows(levels: Sequence[Tensor], instants: int) -> Tensor:
    """Feature maps of every scale, each (instants * N, C, Hf, Wf), as rows (instants, cells, C)."""
    channels = levels[0].shape[1]
    return torch.cat([maps.permute(0, 2, 3, 1).reshape(instants, -1, channels) for maps in levels], dim=1)


def lift_levels(levels: Sequence[Tensor], tables: Tensor) -> Tensor:
    """Maps of every scale, each (B * T * N, C, Hf, Wf) with cameras fastest, and tables (B, T, V) -> (B, V, T, C)."""
    batch, times, voxels = tables.shape
    rows = level_rows(levels, batch * times)
    cells, channels = rows.shape[1] + 1, rows.shape[2]
    rows = torch.cat([rows, rows.new_zeros(batch * times, 1, channels)], dim=1).reshape(-1, channels)
    offset = torch.arange(batch * times, device=tables.device, dtype=torch.int64)[:, None] * cells
    index = (tables.reshape(batch * times, voxels).to(torch.int64) + offset).reshape(-1)
    return rows.index_select(0, index).reshape(batch, times, voxels, channels).transpose(1, 2)


def fold_levels(volume: Tensor, config: FastBEVConfig) -> Tensor:
    """(B, V, T, C) of every scale -> (B, sum of Z*T*C, X, Y): coarse ones enlarged bilinearly (align_corners False)."""
    size = config.grid.n[:2]
    folded, first = [], 0
    for level in config.levels:
        x, y, _ = level.grid.n
        part = volume[:, first : first + level.grid.voxels].reshape(len(volume), x, y, -1).permute(0, 3, 1, 2)
        folded.append(part if (x, y) == size else interpolate(part, size=size, mode="bilinear", align_corners=False))
        first += level.grid.voxels
    return torch.cat(folded, dim=1)
