"""A synthetic rig and boxes for the page: no weights, no ROS, no files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bevstack.geometry import Boxes3D, Camera, pose

YAWS = {
    "cam_front": 0.0,
    "cam_front_right": -55.0,
    "cam_front_left": 55.0,
    "cam_back": 180.0,
    "cam_back_left": 110.0,
    "cam_back_right": -110.0,
}


def make_camera(name: str, yaw_deg: float, width: int = 320, height: int = 180) -> Camera:
    """A level pinhole camera 1.5 m above the ground, looking ``yaw_deg`` to the left of straight ahead."""
    a = np.radians(yaw_deg)
    # Columns: optical x (right), y (down), z (ahead) in ego axes.
    rotation = np.array([[np.sin(a), 0.0, np.cos(a)], [-np.cos(a), 0.0, np.sin(a)], [0.0, -1.0, 0.0]])
    k = np.array([[0.8 * width, 0.0, width / 2], [0.0, 0.8 * width, height / 2], [0.0, 0.0, 1.0]])
    return Camera(name, width, height, k, pose(rotation, [1.0, 0.0, 1.5]))


def make_jpeg(shade: int = 90, width: int = 320, height: int = 180) -> bytes:
    done, data = cv2.imencode(".jpg", np.full((height, width, 3), shade, np.uint8))
    assert done
    return bytes(data)


def make_boxes() -> Boxes3D:
    """A car ahead, a pedestrian to the left, a truck behind."""
    return Boxes3D(
        center=np.array([[15.0, 0.0, 0.8], [8.0, 6.0, 0.9], [-20.0, -2.0, 1.5]]),
        size=np.array([[4.5, 1.9, 1.6], [0.7, 0.7, 1.8], [8.0, 2.5, 3.0]]),
        yaw=np.array([0.0, 1.0, 3.1]),
        velocity=np.array([[8.0, 0.0], [0.0, 1.2], [-5.0, 0.0]]),
        score=np.array([0.9, 0.6, 0.4]),
        label=np.array([0, 7, 1]),
        id=np.array([3, -1, 12]),
    )


@pytest.fixture
def rig() -> dict[str, Camera]:
    return {name: make_camera(name, yaw) for name, yaw in YAWS.items()}


@pytest.fixture
def boxes() -> Boxes3D:
    return make_boxes()


@pytest.fixture
def jpeg() -> bytes:
    return make_jpeg()
