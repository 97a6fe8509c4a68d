"""Class-wise suppression with the published settings: rotated boxes, or circles for barriers (brief fast-bev 1.6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bevstack.geometry.overlap import circle_nms, rotated_nms

from .config import PostConfig


def suppress_class(rows: NDArray[np.float32], scores: NDArray[np.float32], label: int, config: PostConfig) -> NDArray[np.int64]:
    """Indices of the rows (N, 9) of one class that survive, best score first.

    "scale" enlarges or shrinks w and l for the overlap test only; boxes that come out keep their size.
    """
    if config.nms == "scale" and config.kinds[label] == "circle":
        return circle_nms(rows[:, :2], scores, config.radius_thresholds[label], config.circle_cap)
    scale = config.rescale[label] if config.nms == "scale" else 1.0
    threshold = config.iou_thresholds[label] if config.nms == "scale" else config.normal_iou_threshold
    flat = rows[:, [0, 1, 3, 4, 6]].astype(np.float64)
    flat[:, 2:4] *= scale
    flat[:, 4] *= -1.0  # the row's yaw is clockwise
    return rotated_nms(flat, scores, threshold)
