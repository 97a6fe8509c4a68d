"""Boxes drawn on the image that the network saw."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.frames.types import Frame
from bevstack.geometry import Boxes3D
from bevstack.geometry.overlay import box_outlines
from bevstack.geometry.palette import class_name, class_rgb


def draw_boxes(frame: Frame, boxes: Boxes3D, width: int = 800) -> NDArray[np.uint8]:
    """The frame's image, ``width`` pixels wide, with the outlines of the boxes (ego frame) that its camera sees.

    Args:
        frame: with a decoded image; its camera is that of the image, whatever size it was decoded to.
        boxes: in the ego frame.
        width: of the result, pixels; the height keeps the camera's proportions.

    Returns:
        (H, width, 3) uint8 RGB.

    Raises:
        ValueError: if the frame has no decoded image.
    """
    if frame.image is None:
        raise ValueError(f"frame of {frame.camera.name} has no decoded image to draw on")
    height = max(1, round(width * frame.camera.height / frame.camera.width))
    image = np.asarray(cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    scale = np.array([width, height]) * 16  # four fractional bits for smooth lines
    for outline in box_outlines(frame.camera, boxes):
        n = outline.index
        colour = class_rgb(int(boxes.label[n]))
        for line in outline.lines:
            cv2.polylines(image, [np.round(line * scale).astype(np.int32)], False, colour, 1, cv2.LINE_AA, 4)
        for line in outline.front:
            cv2.polylines(image, [np.round(line * scale).astype(np.int32)], False, colour, 2, cv2.LINE_AA, 4)
        top = np.concatenate(outline.lines)
        x, y = np.clip(top.min(axis=0), 0.0, 0.97) * (width, height)
        text = f"{class_name(int(boxes.label[n]))} {boxes.score[n]:.2f}"
        cv2.putText(image, text, (int(x), max(10, int(y) - 3)), cv2.FONT_HERSHEY_SIMPLEX, 0.35, colour, 1, cv2.LINE_AA)
    return image
