"""One picture of one instant: the cameras with their boxes, and the bird's-eye view beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.frames.decode import decode
from bevstack.frames.types import Frame
from bevstack.geometry import Boxes2D, Boxes3D
from bevstack.geometry.overlay import box_outlines
from bevstack.geometry.palette import class_name, class_rgb, colour_of_class

from .errors import ViewerError
from .layout import rig_rows

Image = NDArray[np.uint8]
RGB = tuple[int, int, int]

_PAGE: RGB = (11, 15, 20)
_PANEL: RGB = (13, 19, 26)
_GRID: RGB = (27, 37, 49)
_RING: RGB = (46, 61, 78)
_TEXT: RGB = (228, 235, 243)
_SOFT: RGB = (126, 144, 164)
_GAP = 8
_HEAD = 44
_BITS = 4  # fractional bits of drawn coordinates
# Metres around the vehicle that the bird's-eye view shows.
_RANGE = 54.0
_OVER = 2  # drawn at twice the size, then shrunk: smooth lines


def compose(
    frames: Mapping[str, Frame],
    boxes: Boxes3D,
    *,
    truth: Boxes3D | None = None,
    title: str = "",
    width: int = 1920,
    flat: Mapping[str, Boxes2D] | None = None,
) -> Image:
    """The picture.

    Args:
        frames: by camera name; images or encoded bytes (those are decoded here).
        boxes: in the ego frame.
        truth: drawn as thin white outlines in the bird's-eye view.
        title: text at the top left.
        width: pixels.
        flat: 2D boxes by camera, in pixels of its image: corner marks.

    Returns:
        (H, width, 3) uint8 RGB.

    Raises:
        ViewerError: no frames.
        SourceError: a frame cannot be decoded.
    """
    if not frames:
        raise ViewerError("a picture needs at least one camera's image: the source gave none")
    by_camera = {frame.camera.name: frame for frame in frames.values()}
    rows = rig_rows(frame.camera for frame in frames.values())
    if len(rows) == 1 and len(rows[0]) > 3:
        rows = [rows[0][i : i + 3] for i in range(0, len(rows[0]), 3)]
    columns = max(len(row) for row in rows)
    aspect = max(camera.height / camera.width for row in rows for camera in row)
    # The bird's-eye view is a square as high as all rows together; solve for the tile's width.
    gaps = _GAP * (columns + 2)
    tile_w = int((width - gaps - _GAP * (len(rows) - 1)) / (columns + len(rows) * aspect))
    tile_h = int(tile_w * aspect)
    side = len(rows) * tile_h + (len(rows) - 1) * _GAP
    canvas = np.full((_HEAD + side + _GAP, width, 3), _PAGE, np.uint8)
    for r, row in enumerate(rows):
        for c, camera in enumerate(row):
            x, y = _GAP + c * (tile_w + _GAP), _HEAD + r * (tile_h + _GAP)
            tile = camera_tile(by_camera[camera.name], boxes, tile_w, tile_h, (flat or {}).get(camera.name))
            canvas[y : y + tile_h, x : x + tile_w] = tile
    left = _GAP + columns * (tile_w + _GAP)
    canvas[_HEAD : _HEAD + side, left : width - _GAP] = birds_eye(boxes, width - _GAP - left, side, truth=truth)
    _text(canvas, title, (_GAP + 4, 29), 0.62, _TEXT, 1)
    _legend(canvas, boxes, truth, width - _GAP - 4, 29)
    return canvas


def write_picture(path: Path, image: Image) -> None:
    """Writes a PNG or JPEG file (by the path's ending), its folder too.

    Raises:
        ViewerError: unknown ending or the file cannot be written.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ViewerError(f"picture {path}: the name must end in .png or .jpg")
    options = [] if path.suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 88]
    done, encoded = cv2.imencode(path.suffix.lower(), np.ascontiguousarray(image[..., ::-1]), options)
    if not done:
        raise ViewerError(f"picture {path} cannot be encoded")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(encoded))
    except OSError as error:
        raise ViewerError(f"picture {path} cannot be written: {error.strerror or error}") from None


def camera_tile(
    frame: Frame, boxes: Boxes3D, width: int, height: int, flat: Boxes2D | None = None, *, named: bool = False
) -> Image:
    """One camera's image, fitted into ``width`` x ``height`` pixels, with outlines of the boxes that it sees.

    Args:
        flat: 2D boxes, drawn as corner marks, or, with ``named``, as rectangles with class and score.
    """
    image = frame.image if frame.image is not None else decode(frame.encoded, None) if frame.encoded is not None else None
    tile = np.full((height, width, 3), _PANEL, np.uint8)
    camera = frame.camera
    scale = min(width / camera.width, height / camera.height)
    w, h = min(width, round(camera.width * scale)), min(height, round(camera.height * scale))
    x, y = (width - w) // 2, (height - h) // 2
    large = (w * _OVER, h * _OVER)
    if image is None:
        canvas = np.full((large[1], large[0], 3), _PANEL, np.uint8)
        _text(canvas, "no image", (large[0] // 2 - 60, large[1] // 2), 0.9, _SOFT, 2)
    else:
        shrinks = image.shape[1] > large[0]
        canvas = np.asarray(cv2.resize(image, large, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), np.uint8)
    for outline in box_outlines(camera, boxes):
        colour = class_rgb(int(boxes.label[outline.index]))
        for lines, paint, thick in ((outline.lines, (0, 0, 0), 5), (outline.lines, colour, 2), (outline.front, colour, 4)):
            _lines(canvas, [line * large for line in lines], paint, thick)
    if flat is not None:
        _flat(canvas, flat, np.array([large[0] / camera.width, large[1] / camera.height] * 2), named)
    tile[y : y + h, x : x + w] = cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA)
    (text_width, _), _ = cv2.getTextSize(camera.name, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
    cv2.rectangle(tile, (0, 0), (text_width + 14, 21), _PAGE, -1)
    _text(tile, camera.name, (7, 15), 0.42, _TEXT, 1)
    return tile


def _flat(canvas: Image, boxes: Boxes2D, scale: NDArray[np.float64], named: bool) -> None:
    for xyxy, score, name in zip(boxes.xyxy, boxes.score, boxes.names()):
        x0, y0, x1, y1 = xyxy * scale
        colour = colour_of_class(name)
        corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        if named:
            lines = [corners[[0, 1, 2, 3, 0]]]
        else:
            dx, dy = np.array([min(24.0, 0.3 * (x1 - x0)), 0]), np.array([0, min(24.0, 0.3 * (y1 - y0))])
            turns = ((dx, dy), (-dx, dy), (-dx, -dy), (dx, -dy))
            lines = [np.stack([c + a, c, c + b]) for c, (a, b) in zip(corners, turns)]
        _lines(canvas, lines, (0, 0, 0), 6)
        _lines(canvas, lines, colour, 3)
        if named:
            text = f"{name.replace('_', ' ')} {score:.2f}"
            (size, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.8, 2)
            at = (int(x0), max(24, int(y0) - 6))
            cv2.rectangle(canvas, (at[0], at[1] - 22), (at[0] + size + 6, at[1] + 6), colour, -1)
            _text(canvas, text, (at[0] + 3, at[1] - 1), 0.8, (11, 15, 20), 2)


def birds_eye(boxes: Boxes3D, width: int, height: int, *, truth: Boxes3D | None = None) -> Image:
    """Bird's-eye view (height, width, 3): ego in the middle, x ahead is up; rings every 10 m; arrows: one second of motion."""
    w, h = width * _OVER, height * _OVER
    canvas = np.full((h, w, 3), _PANEL, np.uint8)
    scale = h / (2 * _RANGE)
    middle = np.array([w / 2, h / 2])

    def place(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return middle + np.stack([-xy[..., 1], -xy[..., 0]], axis=-1) * scale

    reach = int(np.hypot(w, h) / scale / 20) * 10
    for metres in range(-reach, reach + 1, 10):
        far = float(2 * reach)
        for line in ([[metres, -far], [metres, far]], [[-far, metres], [far, metres]]):
            _lines(canvas, [place(np.array(line, np.float64))], _GRID, 1)
    for radius in range(10, reach + 1, 10):
        centre = tuple(int(v * 2**_BITS) for v in middle)
        cv2.circle(canvas, centre, int(radius * scale * 2**_BITS), _RING, 2 if radius % 20 == 0 else 1, cv2.LINE_AA, _BITS)
        if radius % 20 == 0 and radius < _RANGE:
            at = place(radius * np.array([np.cos(0.7), -np.sin(0.7)]))
            _text(canvas, f"{radius} m", (int(at[0]) - 26, int(at[1]) + 9), 0.8, _SOFT, 2)
    if truth is not None:
        grown = truth.size[:, :2] + 0.3
        for ground in _ground(truth.center, grown, truth.yaw):
            _lines(canvas, [place(ground[[0, 1, 2, 3, 0]])], _SOFT, 2)
    _ego(canvas, place)
    for n, ground in enumerate(_ground(boxes.center, boxes.size[:, :2], boxes.yaw)):
        colour = class_rgb(int(boxes.label[n]))
        corners = place(ground)
        fill = canvas.copy()
        cv2.fillPoly(fill, [np.round(corners * 2**_BITS).astype(np.int32)], colour, cv2.LINE_AA, _BITS)
        canvas = cv2.addWeighted(fill, 0.3, canvas, 0.7, 0)  # type: ignore[assignment]
        _lines(canvas, [corners[[0, 1, 2, 3, 0]]], colour, 3)
        _lines(canvas, [corners[[0, 3]]], colour, 6)
        speed = float(np.hypot(*boxes.velocity[n]))
        if speed > 0.5:
            start, end = place(np.array([boxes.center[n, :2], boxes.center[n, :2] + boxes.velocity[n]]))
            tip = min(0.5, 9.0 / max(float(np.hypot(*(end - start))), 1e-6))
            cv2.arrowedLine(canvas, _point(start), _point(end), colour, 3, cv2.LINE_AA, _BITS, tip)
    return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _ground(center: NDArray[np.float64], size: NDArray[np.float64], yaw: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4, 2) floor corners: front left, rear left, rear right, front right."""
    half = 0.5 * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * size[:, None, :]
    c, s = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    turned = np.stack([c * half[..., 0] - s * half[..., 1], s * half[..., 0] + c * half[..., 1]], axis=-1)
    return np.asarray(turned + center[:, None, :2])


def _ego(canvas: Image, place: object) -> None:
    assert callable(place)
    outline = place(np.array([[3.35, 0.9], [-0.85, 0.9], [-0.85, -0.9], [3.35, -0.9]]))
    glass = place(np.array([[2.3, 0.65], [1.4, 0.65], [1.4, -0.65], [2.3, -0.65]]))
    for points, colour in ((outline, _TEXT), (glass, _PANEL)):
        cv2.fillPoly(canvas, [np.round(points * 2**_BITS).astype(np.int32)], colour, cv2.LINE_AA, _BITS)


def _legend(canvas: Image, boxes: Boxes3D, truth: Boxes3D | None, right: int, baseline: int) -> None:
    """Classes present and how often, and what the outlines are, ending at ``right``."""
    labels, counts = np.unique(boxes.label, return_counts=True)
    entries = [
        (f"{class_name(label).replace('_', ' ')} {count}", class_rgb(label), -1)
        for label, count in zip(labels.tolist(), counts.tolist())
    ]
    if truth is not None:
        entries.append((f"truth {len(truth)}", _SOFT, 1))
    x = right
    for text, colour, thick in reversed(entries):
        (size, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.48, 1)
        x -= size
        _text(canvas, text, (x, baseline), 0.48, _TEXT, 1)
        x -= 18
        cv2.rectangle(canvas, (x, baseline - 11), (x + 11, baseline), colour, thick, cv2.LINE_AA)
        x -= 18


def _lines(canvas: Image, lines: list[NDArray[np.float64]], colour: RGB, thick: int) -> None:
    limit = 30000.0  # OpenCV's fixed-point coordinates must not overflow
    points = [np.round(np.clip(line, -limit, limit) * 2**_BITS).astype(np.int32) for line in lines]
    cv2.polylines(canvas, points, False, colour, thick, cv2.LINE_AA, _BITS)


def _point(xy: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(xy[0]) * 2**_BITS), round(float(xy[1]) * 2**_BITS)


def _text(canvas: Image, text: str, at: tuple[int, int], size: float, colour: RGB, thick: int) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, thick, cv2.LINE_AA)
