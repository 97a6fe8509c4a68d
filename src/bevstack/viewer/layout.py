"""Where the cameras stand on a screen: as they sit on the vehicle."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bevstack.geometry import Camera, yaw_of


def optical_yaw(camera: Camera) -> float:
    """Heading of the camera's optical axis in the ego frame, radians: 0 ahead, positive to the left."""
    axis = camera.T_ego_camera[:3, 2]
    return float(np.arctan2(axis[1], axis[0])) if np.hypot(axis[0], axis[1]) > 1e-6 else yaw_of(camera.T_ego_camera)


def looks_back(camera: Camera) -> bool:
    """True for cameras of the rear row."""
    return abs(optical_yaw(camera)) >= np.pi / 2


def rig_rows(cameras: Iterable[Camera]) -> list[list[Camera]]:
    """The front row from left to right, then the rear row, its left side first too; rows without cameras are left out."""
    front: list[Camera] = []
    rear: list[Camera] = []
    for camera in cameras:
        (rear if looks_back(camera) else front).append(camera)
    front.sort(key=lambda camera: -optical_yaw(camera))
    rear.sort(key=lambda camera: optical_yaw(camera) % (2 * np.pi))
    return [row for row in (front, rear) if row]
