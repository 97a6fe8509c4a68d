"""Regions of interest of a camera's stream: where boxes are, an error of the codec counts more."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.geometry import Boxes2D

_KEPT = 8


class Regions:
    """The newest boxes of each camera; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boxes: dict[str, deque[tuple[int, Boxes2D]]] = {}

    def take(self, camera: str, stamp: int, boxes: Boxes2D) -> None:
        """Boxes of a camera's image of ``stamp`` (nanoseconds), in its pixels."""
        with self._lock:
            known = self._boxes.setdefault(camera, deque(maxlen=_KEPT))
            if known and stamp < known[-1][0]:
                known.clear()  # time went back: a bag began again
            known.append((stamp, boxes))

    def of(self, camera: str, stamp: int, max_age: float) -> Boxes2D | None:
        """The boxes nearest to an image of ``stamp``, not more than ``max_age`` seconds off; None where there are none.

        Boxes are found later than the image comes, so these are as a rule those of an image before.
        """
        with self._lock:
            known = list(self._boxes.get(camera, ()))
        if not known:
            return None
        at, boxes = min(known, key=lambda entry: abs(entry[0] - stamp))
        return boxes if abs(at - stamp) <= max_age * 1e9 else None


def region_weights(
    boxes: Boxes2D, shape: tuple[int, int], inside: float, outside: float, margin: float = 0.0, min_score: float = 0.0
) -> NDArray[np.float32] | None:
    """Distortion weights of an image for ``ImageCodec.encode(roi=...)``.

    Args:
        boxes: in pixels of the image.
        shape: (height, width) of the image.
        inside: weight within a box.
        outside: weight elsewhere.
        margin: how far a box reaches beyond its sides, as a share of its width and height: objects move between two images.
        min_score: boxes below it are left out.

    Returns:
        (height, width) float32; None if no box is left, or if the weights are 1 everywhere.
    """
    height, width = shape
    kept = boxes[boxes.score >= min_score] if len(boxes) else boxes
    weights = np.full(shape, outside, np.float32)
    found = False
    for left, top, right, bottom in np.asarray(kept.xyxy, np.float64).tolist():
        dx, dy = margin * (right - left), margin * (bottom - top)
        rows = slice(_pixel(top - dy, height, np.floor), _pixel(bottom + dy, height, np.ceil))
        columns = slice(_pixel(left - dx, width, np.floor), _pixel(right + dx, width, np.ceil))
        if rows.stop > rows.start and columns.stop > columns.start:
            weights[rows, columns] = inside
            found = True
    return weights if found and not (inside == outside == 1.0) else None


def _pixel(value: float, size: int, rounding: Any) -> int:
    return int(np.clip(rounding(value), 0, size))
