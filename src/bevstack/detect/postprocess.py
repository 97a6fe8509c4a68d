"""Scores and boxes of all cells to the boxes of one image (brief section 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bevstack.geometry import Boxes2D

from .config import STRIDES, GiraffeDetConfig, PostConfig
from .letterbox import Letterbox
from .nms import class_nms

Floats = NDArray[np.float32]


def level_cells(canvas: tuple[int, int]) -> list[int]:
    """Cells of P3..P7 on a canvas (height, width)."""
    return [(canvas[0] // s) * (canvas[1] // s) for s in STRIDES]


def _candidates(scores: Floats, cells: list[int], post: PostConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(cell, class) of all scores above the threshold, in the best ``candidates`` cells of each level."""
    best = scores.max(1)
    kept = []
    start = 0
    for count in cells:
        level = np.flatnonzero(best[start : start + count] > post.score_threshold) + start
        if len(level) > post.candidates:
            level = level[np.argpartition(-best[level], post.candidates - 1)[: post.candidates]]
        kept.append(np.sort(level))
        start += count
    cell = np.concatenate(kept)
    row, label = np.nonzero(scores[cell] > post.score_threshold)
    return cell[row], label


def boxes_of_image(scores: Floats, boxes: Floats, box: Letterbox, config: GiraffeDetConfig, post: PostConfig) -> Boxes2D:
    """Scores (A, K) and boxes (A, 4) in canvas pixels -> boxes in pixels of the original image, best first."""
    cell, label = _candidates(scores, level_cells(box.canvas), post)
    score = scores[cell, label]
    xyxy = box.to_image(boxes[cell])
    # A box in the padding has no area left: it says nothing about the image.
    solid = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    xyxy, score, label = xyxy[solid], score[solid], label[solid]
    group = np.asarray(config.rivals, np.int64)[label]
    kept = class_nms(xyxy, score, label, post.iou, post.limit, group, post.rival_iou, post.inside)
    return Boxes2D(xyxy[kept], score[kept], label[kept], config.classes)
