"""Camera image to network input and boxes back: the only place where images are resized and padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError

from .config import MULTIPLE, GiraffeDetConfig


@dataclass(frozen=True)
class Letterbox:
    """How one image lies on the canvas: resized to ``size`` (w, h), top left corner at (0, 0), padded right and below.

    ``scale``: (x, y) canvas pixels per image pixel.
    """

    source: tuple[int, int]
    size: tuple[int, int]
    canvas: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        return self.size[0] / self.source[0], self.size[1] / self.source[1]

    def to_image(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes (N, 4) on the canvas -> pixels of the original image, clamped to it."""
        sx, sy = self.scale
        width, height = self.source
        out = xyxy / np.array([sx, sy, sx, sy], np.float32)
        return np.clip(out, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)

    def to_canvas(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes (N, 4) in pixels of the original image -> on the canvas."""
        sx, sy = self.scale
        return (np.asarray(xyxy, np.float32) * np.array([sx, sy, sx, sy], np.float32)).astype(np.float32)


def check_canvas(canvas: tuple[int, int]) -> None:
    """Raises:
    BevstackError: (height, width) are not positive multiples of 128.
    """
    if any(v <= 0 or v % MULTIPLE for v in canvas):
        height, width = canvas
        up = [max(MULTIPLE, -(-v // MULTIPLE) * MULTIPLE) for v in canvas]
        raise BevstackError(
            f"detector input of {width}x{height} pixels: both sides must be multiples of {MULTIPLE}; use {up[1]}x{up[0]}"
        )


def parse_canvas(text: str) -> tuple[int, int]:
    """ "640x384" as (height, width).

    Raises:
        BevstackError: anything that is not WIDTHxHEIGHT in multiples of 128.
    """
    width, _, height = text.lower().partition("x")
    if not width.isdigit() or not height.isdigit():
        raise BevstackError(f"size {text!r}: write WIDTHxHEIGHT, as in 640x384")
    canvas = (int(height), int(width))
    check_canvas(canvas)
    return canvas


def letterbox(width: int, height: int, canvas: tuple[int, int], fit: tuple[int, int] | None = None) -> Letterbox:
    """Keeps the aspect ratio; the image becomes as large as the canvas (height, width) and ``fit`` (longer, shorter) allow.

    Raises:
        BevstackError: an image without pixels, or a canvas that is no multiple of 128.
    """
    check_canvas(canvas)
    if width < 1 or height < 1:
        raise BevstackError(f"image of {width}x{height} pixels: a detector needs at least one")
    scale = min(canvas[1] / width, canvas[0] / height)
    if fit is not None:
        scale = min(scale, fit[0] / max(width, height), fit[1] / min(width, height))
    size = (max(1, min(canvas[1], round(width * scale))), max(1, min(canvas[0], round(height * scale))))
    return Letterbox((width, height), size, canvas)


def as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) from (H, W, 3), (H, W, 1) or grey (H, W).

    Raises:
        BevstackError: another shape or type.
    """
    if image.dtype != np.uint8:
        raise BevstackError(f"image of type {image.dtype}: a detector takes uint8 RGB")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise BevstackError(f"image of shape {image.shape}: a detector takes (H, W, 3) RGB or (H, W) grey")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def place(image: NDArray[np.uint8], box: Letterbox, out: NDArray[np.uint8], fill: Sequence[float]) -> None:
    """Writes ``image`` (any resolution of the letterbox's source) into ``out`` (canvas, 3).

    Args:
        fill: RGB of the padding: the mean, which is 0 after normalisation (to the nearest grey level).
    """
    width, height = box.size
    if image.shape[1] != width or image.shape[0] != height:
        shrinks = width < image.shape[1]
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
    out[:height, :width] = image
    colour = np.round(np.asarray(fill)).astype(np.uint8)
    out[height:] = colour
    out[:height, width:] = colour


def boxes_of(image: NDArray[np.uint8], config: GiraffeDetConfig, canvas: tuple[int, int]) -> Letterbox:
    """The letterbox of one image of a rung."""
    return letterbox(image.shape[1], image.shape[0], canvas, config.fit)
