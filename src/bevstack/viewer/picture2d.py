"""A picture of one moment's camera images with their 2D boxes, where nothing is known of the third dimension."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from bevstack.frames.types import Frame
from bevstack.geometry import Boxes2D, Boxes3D

from .errors import ViewerError
from .picture import Image, camera_tile

_GAP, _HEAD = 8, 40
_PAGE, _TEXT = (13, 17, 23), (230, 237, 243)


def compose2d(frames: Mapping[str, Frame], flat: Mapping[str, Boxes2D], *, title: str = "", width: int = 1280) -> Image:
    """The picture.

    Args:
        frames: by camera name; images or encoded bytes (those are decoded here).
        flat: boxes by camera, in pixels of its image.
        title: text at the top left.
        width: pixels.

    Returns:
        (H, width, 3) uint8 RGB, up to three cameras side by side.

    Raises:
        ViewerError: no frames.
        SourceError: a frame cannot be decoded.
    """
    if not frames:
        raise ViewerError("a picture needs at least one camera's image: the source gave none")
    columns = min(3, len(frames))
    tile_w = (width - _GAP * (columns + 1)) // columns
    tile_h = round(tile_w * max(f.camera.height / f.camera.width for f in frames.values()))
    rows = -(-len(frames) // columns)
    canvas = np.full((_HEAD + rows * (tile_h + _GAP), width, 3), _PAGE, np.uint8)
    for n, (name, frame) in enumerate(frames.items()):
        x, y = _GAP + n % columns * (tile_w + _GAP), _HEAD + n // columns * (tile_h + _GAP)
        canvas[y : y + tile_h, x : x + tile_w] = camera_tile(frame, Boxes3D.empty(), tile_w, tile_h, flat.get(name), named=True)
    cv2.putText(canvas, title, (_GAP + 4, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _TEXT, 1, cv2.LINE_AA)
    return canvas
