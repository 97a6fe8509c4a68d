"""Anchor deltas as torch tensors: how boxes are written into, and read from, the head's regression channels.

Boxes here are rows of the model's own convention (brief fast-bev, section 0): x, y, z of the *bottom* centre, w (along x at
yaw 0), l (along y), h, clockwise yaw, vx, vy, in the virtual LiDAR frame; metres, radians, metres per second.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DIRECTION_OFFSET = 0.7854  # the published value, not pi / 4


def limit_period(angle: Tensor, offset: float, period: float) -> Tensor:
    """Angles shifted by whole periods into [-offset, 1 - offset) * period."""
    return angle - torch.floor(angle / period + offset) * period


def encode(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Deltas (..., 9) that turn ``anchors`` (..., 9) into ``boxes`` (..., 9); see ``decode`` for their meaning."""
    diagonal = torch.sqrt(anchors[..., 3] ** 2 + anchors[..., 4] ** 2)
    centre_a = anchors[..., 2] + anchors[..., 5] / 2
    centre_b = boxes[..., 2] + boxes[..., 5] / 2
    return torch.cat(
        [
            (boxes[..., 0:2] - anchors[..., 0:2]) / diagonal[..., None],
            ((centre_b - centre_a) / anchors[..., 5])[..., None],
            torch.log(boxes[..., 3:6] / anchors[..., 3:6]),
            boxes[..., 6:] - anchors[..., 6:],
        ],
        dim=-1,
    )


def decode(anchors: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (..., 9) from deltas dx, dy (in anchor diagonals), dz (in heights, of centres), log sizes, yaw and velocity
    differences."""
    diagonal = torch.sqrt(anchors[..., 3] ** 2 + anchors[..., 4] ** 2)
    size = torch.exp(deltas[..., 3:6]) * anchors[..., 3:6]
    centre = deltas[..., 2] * anchors[..., 5] + anchors[..., 2] + anchors[..., 5] / 2
    return torch.cat(
        [
            deltas[..., 0:2] * diagonal[..., None] + anchors[..., 0:2],
            (centre - size[..., 2] / 2)[..., None],
            size,
            deltas[..., 6:] + anchors[..., 6:],
        ],
        dim=-1,
    )


def direction_bin(yaw: Tensor) -> Tensor:
    """Which half turn (0 or 1) a yaw lies in, counted from ``DIRECTION_OFFSET``; int64, same shape."""
    turned = limit_period(yaw - DIRECTION_OFFSET, 0.0, 2 * math.pi)
    return torch.clamp(torch.floor(turned / math.pi), 0, 1).long()


def nearest_bev(boxes: Tensor) -> Tensor:
    """(..., 4) x0, y0, x1, y1: each box turned to the nearer axis in bird's-eye view."""
    turned = torch.abs(limit_period(boxes[..., 6], 0.5, math.pi)) > math.pi / 4
    half_x = torch.where(turned, boxes[..., 4], boxes[..., 3]) / 2
    half_y = torch.where(turned, boxes[..., 3], boxes[..., 4]) / 2
    x, y = boxes[..., 0], boxes[..., 1]
    return torch.stack([x - half_x, y - half_y, x + half_x, y + half_y], dim=-1)


def nearest_bev_iou(first: Tensor, second: Tensor) -> Tensor:
    """(N, M) overlap (intersection over union) of ``nearest_bev`` rectangles of ``first`` (N, 9) and ``second`` (M, 9)."""
    a, b = nearest_bev(first)[:, None], nearest_bev(second)[None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    return intersection / (area_a + area_b - intersection).clamp(min=1e-6)
