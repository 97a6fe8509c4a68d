"""2D boxes drawn on their image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.frames.types import Frame
from bevstack.geometry import Boxes2D
from bevstack.geometry.palette import colour_of_class


def draw_boxes2d(frame: Frame, boxes: Boxes2D, width: int = 800) -> NDArray[np.uint8]:
    """The frame's image, ``width`` pixels wide, with its boxes, class names and scores.

    Args:
        frame: with a decoded image, of whatever size.
        boxes: in pixels of the original image (``frame.camera``'s size).
        width: of the result, pixels; the height keeps the original's proportions.

    Returns:
        (H, width, 3) uint8 RGB.

    Raises:
        ValueError: if the frame has no decoded image.
    """
    if frame.image is None:
        raise ValueError(f"frame of {frame.camera.name} has no decoded image to draw on")
    height = max(1, round(width * frame.camera.height / frame.camera.width))
    image = np.array(cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    scale = np.array([width / frame.camera.width, height / frame.camera.height] * 2)
    for xyxy, score, name in zip(boxes.xyxy, boxes.score, boxes.names()):
        x0, y0, x1, y1 = (int(v) for v in np.round(xyxy * scale))
        colour = colour_of_class(name)
        cv2.rectangle(image, (x0, y0), (x1, y1), (0, 0, 0), 3)
        cv2.rectangle(image, (x0, y0), (x1, y1), colour, 1 if y1 - y0 < 24 else 2)
        cv2.putText(image, f"{name} {score:.2f}", (x0, max(10, y0 - 4)), cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)
    return image
