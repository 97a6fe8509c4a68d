"""Lens distortion: a distorted picture is bent from a larger ideal one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.geometry import Camera

_MAX_TANGENT = 3.0  # half a field of view of 71.6 degrees: further out, one flat picture grows without bound
_MAX_GROWTH = 3.0


@dataclass(frozen=True)
class Lens:
    """``ideal``: the camera to draw with; ``map_x``, ``map_y``: (H, W) float32 where each pixel comes from in its picture."""

    ideal: Camera
    map_x: NDArray[np.float32]
    map_y: NDArray[np.float32]

    def bend(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture (H, W, 3) that the distorting lens gives; black where it sees further out than we draw."""
        return np.asarray(cv2.remap(image, self.map_x, self.map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))


def ideal_lens(camera: Camera) -> Lens:
    """Finds the ideal camera that covers the view of a distorted one, as far as 71 degrees from the axis."""
    u, v = np.meshgrid(np.arange(camera.width, dtype=np.float64), np.arange(camera.height, dtype=np.float64))
    pixels = np.stack([u, v], axis=-1).reshape(-1, 1, 2)
    if camera.model == "fisheye":
        d = np.zeros(4)
        d[: min(4, camera.distortion.size)] = camera.distortion[:4]
        points = cv2.fisheye.undistortPoints(pixels, camera.K, d)
    else:
        points = cv2.undistortPoints(pixels, camera.K, camera.distortion)
    points = points.reshape(-1, 2)
    sane = np.isfinite(points).all(axis=1) & (np.abs(points) < _MAX_TANGENT).all(axis=1)
    fx, fy = camera.K[0, 0], camera.K[1, 1]
    low, high = points[sane].min(axis=0), points[sane].max(axis=0)
    width = int(min(np.ceil((high[0] - low[0]) * fx) + 3, _MAX_GROWTH * camera.width))
    height = int(min(np.ceil((high[1] - low[1]) * fy) + 3, _MAX_GROWTH * camera.height))
    cx, cy = 1.0 - low[0] * fx, 1.0 - low[1] * fy
    if width == int(_MAX_GROWTH * camera.width):
        cx = width / 2 - 0.5 * (low[0] + high[0]) * fx
    if height == int(_MAX_GROWTH * camera.height):
        cy = height / 2 - 0.5 * (low[1] + high[1]) * fy
    ideal = replace(
        camera,
        width=width,
        height=height,
        K=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
        distortion=np.zeros(0),
        model="pinhole",
    )
    x, y = points[:, 0] * fx + cx, points[:, 1] * fy + cy
    x[~sane], y[~sane] = -10.0, -10.0
    shape = (camera.height, camera.width)
    return Lens(ideal, x.reshape(shape).astype(np.float32), y.reshape(shape).astype(np.float32))
