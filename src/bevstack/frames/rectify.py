"""Removing lens distortion, in one remap together with the last part of the resize."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.errors import CalibrationError
from bevstack.geometry import Camera, Matrix

# Above this ratio of source to target pixels a bilinear remap would skip pixels (alias): average down first.
_MAX_SHRINK = 1.5


def undistorted(camera: Camera, K: Matrix | None = None) -> Camera:
    """The ideal pinhole camera that a rectified image of ``camera`` belongs to: same size and pose, no distortion.

    Args:
        camera: pinhole or fisheye.
        K: (3, 3) intrinsics of the result; None keeps the camera's own.
    """
    return replace(camera, K=camera.K if K is None else K, distortion=np.zeros(0), model="pinhole")


class Rectifier:
    """Maps images of a distorted camera to those of its ideal pinhole twin, at a target size. Maps are cached; thread-safe.

    Args:
        camera: calibration of the sensor's image.
        size: (width, height) of the result, pixels; None keeps the camera's own size.
        K: (3, 3) intrinsics of the ideal camera *at the camera's own size*; None keeps ``camera.K``. A fisheye lens that sees
            more than a pinhole can show loses its rim: a smaller focal length keeps more.

    Raises:
        CalibrationError: if the intrinsics are singular.
    """

    def __init__(self, camera: Camera, size: tuple[int, int] | None = None, K: Matrix | None = None) -> None:
        self.source = camera
        self.size = size if size is not None else (camera.width, camera.height)
        self.camera = undistorted(camera, K)
        if abs(float(np.linalg.det(camera.K))) < 1e-9 or abs(float(np.linalg.det(self.camera.K))) < 1e-9:
            raise CalibrationError(f"{camera.name}: K is singular, its image cannot be rectified: calibrate the camera")
        self._maps: dict[tuple[int, int], tuple[NDArray[np.int16], NDArray[np.uint16]]] = {}
        self._lock = Lock()

    def matches(self, camera: Camera, size: tuple[int, int]) -> bool:
        """True if this rectifier was made for this calibration and target size."""
        mine = self.source
        return (
            self.size == size
            and (mine.width, mine.height, mine.model) == (camera.width, camera.height, camera.model)
            and np.array_equal(mine.K, camera.K)
            and np.array_equal(mine.distortion, camera.distortion)
        )

    def source_pixels(self, width: int, height: int) -> NDArray[np.float32]:
        """(h, w, 2) float32: for each pixel of the result, where it lies in an image of ``width`` x ``height``."""
        target = self.camera.resized(*self.size)
        u, v = np.meshgrid(np.arange(self.size[0], dtype=np.float64), np.arange(self.size[1], dtype=np.float64))
        rays = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=1) @ np.linalg.inv(target.K).T
        seen = self.source.resized(width, height)
        pixels, _ = seen.project_camera(rays)
        return np.ascontiguousarray(pixels.reshape(*u.shape, 2), dtype=np.float32)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Rectify (H, W, 3) uint8 of any scale of the camera's image to ``size``; what the lens did not see is black."""
        height, width = image.shape[:2]
        if width > _MAX_SHRINK * self.size[0] and height > _MAX_SHRINK * self.size[1]:
            image = np.asarray(cv2.resize(image, self.size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
            height, width = image.shape[:2]
        with self._lock:
            maps = self._maps.get((width, height))
            if maps is None:
                # Fixed-point maps: half the memory traffic of two float maps.
                where = self.source_pixels(width, height)
                fixed, fraction = cv2.convertMaps(where[..., 0], where[..., 1], cv2.CV_16SC2)
                maps = self._maps[(width, height)] = (np.asarray(fixed, np.int16), np.asarray(fraction, np.uint16))
        return np.asarray(
            cv2.remap(image, *maps, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), dtype=np.uint8
        )
