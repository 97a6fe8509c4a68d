"""Boxes of the ego frame as lines on a camera's image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .boxes import BOX_EDGES, Boxes3D
from .camera import Camera
from .pose import invert, transform_points

NEAR = 0.2
"""Metres: what lies nearer to the lens than this is cut off."""

# Edges of the face that the object looks out of: corners 0 and 3 (floor) and 4 and 7 (roof).
_FRONT = frozenset({3, 7, 8, 11})
# How far outside the image lines go on, in image sizes: their ends must not be seen; lenses bend them, so more where they do.
_MARGIN = {False: 0.02, True: 0.25}
_BENT_STEPS = 8


@dataclass(frozen=True)
class Outline:
    """One box on one image.

    Attributes:
        index: which box.
        lines: polylines, each (K, 2), in fractions of the image's width and height (0 0 the left upper corner).
        front: polylines of the face in driving direction, a part of ``lines``.
        depth: metres from the camera to the box's centre, along the optical axis.
    """

    index: int
    lines: list[NDArray[np.float64]]
    front: list[NDArray[np.float64]]
    depth: float


def box_outlines(camera: Camera, boxes: Boxes3D) -> list[Outline]:
    """Outlines of the boxes that the camera sees, farthest first (so that a painter ends with the nearest).

    Edges are cut at the near plane and at the image's sides before they are projected, so that a box beside or around the
    camera gives no wild lines. A lens with distortion gives curved edges.

    Args:
        camera: calibration of the image drawn on.
        boxes: in the ego frame.
    """
    if not len(boxes):
        return []
    to_camera = invert(camera.T_ego_camera)
    corners = transform_points(to_camera, boxes.corners())
    depths = transform_points(to_camera, boxes.center)[:, 2]
    edges = np.asarray(BOX_EDGES)
    start, end = corners[:, edges[:, 0]], corners[:, edges[:, 1]]  # (N, 12, 3)
    first, last = _clip(start, end, _planes(camera))
    steps = np.linspace(0.0, 1.0, _BENT_STEPS + 1 if camera.distorted else 2)
    outlines = []
    for n in np.argsort(-depths):
        lines, front = [], []
        for e in range(len(edges)):
            t0, t1 = first[n, e], last[n, e]
            if t1 <= t0:
                continue
            points = start[n, e] + (t0 + (t1 - t0) * steps)[:, None] * (end[n, e] - start[n, e])
            pixels, _ = camera.project_camera(points)
            line = (pixels + 0.5) / (camera.width, camera.height)
            if not np.all(np.isfinite(line)):
                continue
            lines.append(line)
            if e in _FRONT:
                front.append(line)
        if any(np.any((line >= 0) & (line <= 1), axis=0).all() for line in lines):
            outlines.append(Outline(int(n), lines, front, float(depths[n])))
    return outlines


def _planes(camera: Camera) -> NDArray[np.float64]:
    """(P, 4) planes (n, d) with n . p + d >= 0 for what may be drawn, in the optical frame."""
    near = [0.0, 0.0, 1.0, -NEAR]
    if camera.model == "fisheye":
        return np.array([near])  # its sides are no planes
    fx, fy, cx, cy = camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]
    margin = _MARGIN[camera.distorted]
    left, right = (-margin * camera.width - cx) / fx, ((1 + margin) * camera.width - cx) / fx
    top, bottom = (-margin * camera.height - cy) / fy, ((1 + margin) * camera.height - cy) / fy
    return np.array([near, [1, 0, -left, 0], [-1, 0, right, 0], [0, 1, -top, 0], [0, -1, bottom, 0]], dtype=np.float64)


def _clip(
    start: NDArray[np.float64], end: NDArray[np.float64], planes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Part [first, last] of each segment (..., 3) inside all planes, as fractions of its length; last <= first: nothing."""
    first, last = np.zeros(start.shape[:-1]), np.ones(start.shape[:-1])
    for *normal, offset in planes:
        d0, d1 = start @ np.asarray(normal) + offset, end @ np.asarray(normal) + offset
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = d0 / (d0 - d1)
        first = np.where((d0 < 0) & (d1 >= 0), np.maximum(first, crossing), first)
        last = np.where((d0 >= 0) & (d1 < 0), np.minimum(last, crossing), last)
        last = np.where((d0 < 0) & (d1 < 0), -1.0, last)
    return first, last
