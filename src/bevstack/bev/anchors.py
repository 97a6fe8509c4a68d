"""Anchor rows (brief fast-bev 1.6): x, y, bottom z, w, l, h, clockwise yaw, vx, vy in the virtual LiDAR frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .config import FastBEVConfig


def anchor_rows(config: FastBEVConfig, index: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N, 9) anchors of flat numbers ((y * X + x) * sizes + size) * rotations + rotation; metres, radians."""
    a = config.anchors
    rows_y, rows_x = config.bev_hw
    cell, kind = np.divmod(np.asarray(index, np.int64), a.per_cell)
    size, rotation = np.divmod(kind, len(a.rotations))
    y, x = np.divmod(cell, rows_x)
    out = np.zeros((len(cell), a.code_size), np.float32)
    out[:, 0] = -a.range_xy + (x + 0.5) * (2 * a.range_xy / rows_x)
    out[:, 1] = -a.range_xy + (y + 0.5) * (2 * a.range_xy / rows_y)
    out[:, 2] = a.z
    out[:, 3:6] = np.asarray(a.sizes, np.float32)[size]
    out[:, 6] = np.asarray(a.rotations, np.float32)[rotation]
    return out


def all_anchors(config: FastBEVConfig) -> NDArray[np.float32]:
    """(``config.anchor_count``, 9), in flat order."""
    return anchor_rows(config, np.arange(config.anchor_count))
