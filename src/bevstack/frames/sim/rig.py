"""Rigs: six cameras placed as on a nuScenes vehicle, and cameras above the road that look down."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bevstack.geometry import Camera, pose

# Name, yaw (degrees, anticlockwise from forward), focal length and principal point (pixels at 1600x900), ego position.
# The positions are those of the Fast-BEV brief's synthetic rig (section 8), moved from its LiDAR frame at (0.94, 0, 1.84) m.
_MOUNTS: tuple[tuple[str, float, float, tuple[float, float], tuple[float, float, float]], ...] = (
    ("cam_front", 0.0, 1266.4, (816.0, 491.0), (1.49, 0.0, 1.49)),
    ("cam_front_right", -55.0, 1260.8, (816.0, 491.0), (1.34, -0.5, 1.49)),
    ("cam_front_left", 55.0, 1272.6, (816.0, 491.0), (1.34, 0.5, 1.49)),
    ("cam_back", 180.0, 809.2, (829.0, 481.0), (-0.01, 0.0, 1.54)),
    ("cam_back_left", 110.0, 1256.7, (816.0, 491.0), (0.84, 0.5, 1.54)),
    ("cam_back_right", -110.0, 1259.5, (816.0, 491.0), (0.84, -0.5, 1.54)),
)


def nuscenes_rig(width: int = 1600) -> dict[str, Camera]:
    """Six undistorted, level cameras with a nuScenes-like layout, in the project's camera order.

    Args:
        width: image width in pixels; the height is 9/16 of it and the intrinsics of 1600x900 are scaled (u' = s u).
    """
    rig = {}
    for name, yaw_deg, focal, (cx, cy), position in _MOUNTS:
        yaw = np.deg2rad(yaw_deg)
        c, s = np.cos(yaw), np.sin(yaw)
        rotation = np.array([[s, 0.0, c], [-c, 0.0, s], [0.0, -1.0, 0.0]])  # columns: right, down, forward
        full = Camera(name, 1600, 900, np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]]), pose(rotation, position))
        rig[name] = full if width == 1600 else full.resized(width, round(width * 9 / 16))
    return rig


SPREAD = 0.25  # of an image from above: targets lie in its middle half


def overhead_rig(
    targets: NDArray[np.float64],
    rng: np.random.Generator,
    width: int = 640,
    *,
    spread: float = SPREAD,
    headings: NDArray[np.float64] | None = None,
) -> dict[str, Camera]:
    """One undistorted camera for every target, above the road, as on masts, bridges and buildings; drawn from ``rng``.

    Heights of 5 to 16 m, pitch of 25 to 80 degrees down, any yaw, roll of a few degrees, horizontal fields of view of 35 to 75
    degrees.

    Args:
        targets: (N, 2) points on the ground to look at, ego frame, metres.
        width: image width in pixels; the height is 9/16 of it.
        spread: how far from the image's middle the target may lie, as a share of its width and height; at 0.5 many targets
            are cut off by an edge.
        headings: (N,) radians. With them the cameras look along the target, from behind or from before, up to 20 degrees
            aside, as cameras over a road mostly do.
    """
    height = round(width * 9 / 16)
    rig = {}
    for n, target in enumerate(targets):
        yaw, roll = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.normal(0.0, 2.0))
        if headings is not None:
            yaw = headings[n] + np.pi * (yaw > 0) + np.deg2rad(rng.uniform(-20.0, 20.0))
        pitch, tall = np.deg2rad(rng.uniform(25.0, 80.0)), rng.uniform(5.0, 16.0)
        forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
        level = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        right = np.cos(roll) * level + np.sin(roll) * np.cross(forward, level)
        down = np.cross(forward, right)
        focal = 0.5 * width / np.tan(np.deg2rad(rng.uniform(35.0, 75.0)) / 2)
        u, v = rng.uniform(-spread, spread, 2) * (width, height) / focal
        ray = forward + u * right + v * down
        foot = -tall / ray[2] * ray[:2]  # where the target's ray meets the ground, seen from below the camera
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        T = pose(np.column_stack([right, down, forward]), (*(target - foot), tall))
        rig[f"overhead_{n}"] = Camera(f"overhead_{n}", width, height, K, T)
    return rig


# Milliseconds after the reference camera at which each camera exposes: a spinning LiDAR triggers them one after the other.
STAGGER_MS: dict[str, float] = {
    "cam_front_left": -8.0,
    "cam_front": 0.0,
    "cam_front_right": 8.0,
    "cam_back_right": 16.0,
    "cam_back": 25.0,
    "cam_back_left": 35.0,
}
