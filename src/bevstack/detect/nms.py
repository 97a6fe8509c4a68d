"""Greedy suppression of overlapping boxes: per class, and among classes that name the same thing. Compiled with numba."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@numba.njit(cache=True, nogil=True)
def _suppress(
    xyxy: Floats,
    label: NDArray[np.int64],
    threshold: float,
    limit: int,
    group: NDArray[np.int64],
    rival: float,
    inside: float,
) -> NDArray[np.int64]:  # pragma: no cover
    """Boxes in falling score -> indices kept, at most ``limit``. Boxes suppress others of their label above ``threshold``, and
    those of other labels of their ``group`` (0 or more) above ``rival``; in a group also those that lie in them by more than
    ``inside``."""
    n = len(xyxy)
    gone = np.zeros(n, np.bool_)
    kept = np.empty(min(n, limit), np.int64)
    count = 0
    for i in range(n):
        if gone[i]:
            continue
        kept[count] = i
        count += 1
        if count == limit:
            break
        x0, y0, x1, y1 = xyxy[i, 0], xyxy[i, 1], xyxy[i, 2], xyxy[i, 3]
        area = max(x1 - x0, 0.0) * max(y1 - y0, 0.0)
        for j in range(i + 1, n):
            if gone[j] or (label[j] != label[i] and (group[j] != group[i] or group[j] < 0)):
                continue
            w = min(x1, xyxy[j, 2]) - max(x0, xyxy[j, 0])
            h = min(y1, xyxy[j, 3]) - max(y0, xyxy[j, 1])
            if w <= 0.0 or h <= 0.0:
                continue
            other = max(xyxy[j, 2] - xyxy[j, 0], 0.0) * max(xyxy[j, 3] - xyxy[j, 1], 0.0)
            limit_iou = threshold if label[j] == label[i] else rival
            part = group[j] >= 0 and w * h > inside * other
            if part or w * h > limit_iou * (area + other - w * h):
                gone[j] = True
    return kept[:count]


def class_nms(
    xyxy: Floats,
    score: Floats,
    label: NDArray[np.int64],
    iou: float,
    limit: int,
    group: NDArray[np.int64] | None = None,
    rival_iou: float = 1.0,
    inside: float = 1.0,
) -> NDArray[np.int64]:
    """Indices of the boxes kept, best first; equal scores keep their order.

    Args:
        xyxy: (N, 4). ``iou``: boxes of one class that overlap by more than this are the same object.
        limit: at most so many are kept.
        group: (N,) boxes of one group, 0 or more, and different classes are the same object where they overlap by more than
            ``rival_iou``; None: classes leave each other alone.
        inside: boxes of one group, same class or not, are the same object where more than this share of the lesser one's area
            lies in the better one.
    """
    if len(xyxy) == 0 or limit < 1:
        return np.zeros(0, np.int64)
    order = np.argsort(-score, kind="stable")
    groups = np.full(len(label), -1, np.int64) if group is None else np.ascontiguousarray(group[order], np.int64)
    kept = _suppress(
        np.ascontiguousarray(xyxy[order], np.float32),
        np.ascontiguousarray(label[order], np.int64),
        float(iou),
        int(limit),
        groups,
        float(rival_iou),
        float(inside),
    )
    return order[kept]
