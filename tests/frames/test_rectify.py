"""Rectification against OpenCV's own undistortion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bevstack.errors import CalibrationError
from bevstack.frames.rectify import Rectifier, undistorted
from bevstack.geometry import Camera

K = np.array([[310.0, 0.0, 318.0], [0.0, 305.0, 242.0], [0.0, 0.0, 1.0]])
PINHOLE = Camera("p", 640, 480, K, np.eye(4), np.array([-0.28, 0.09, 0.001, -0.0007, -0.01]))
RATIONAL = Camera("r", 640, 480, K, np.eye(4), np.array([0.3, -0.1, 0.001, 0.0004, 0.02, 0.5, -0.03, 0.01]))
FISHEYE = Camera("f", 640, 480, K, np.eye(4), np.array([0.02, -0.01, 0.004, -0.001]), "fisheye")


def texture(width: int = 640, height: int = 480) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width] * (640 / width)
    return np.stack([127 + 100 * np.sin(x / 23), 127 + 100 * np.cos(y / 31), (x + y) / 5], axis=2).astype(np.uint8)


def reference_map(camera: Camera, size: tuple[int, int], new_k: np.ndarray) -> np.ndarray:
    if camera.model == "fisheye":
        a, b = cv2.fisheye.initUndistortRectifyMap(camera.K, camera.distortion, np.eye(3), new_k, size, cv2.CV_32FC1)
    else:
        a, b = cv2.initUndistortRectifyMap(camera.K, camera.distortion, np.eye(3), new_k, size, cv2.CV_32FC1)
    return np.stack([a, b], axis=2)


@pytest.mark.parametrize("camera", [PINHOLE, RATIONAL, FISHEYE], ids=["plumb_bob", "rational", "fisheye"])
def test_maps_equal_opencvs(camera: Camera) -> None:
    rectifier = Rectifier(camera, (320, 240))
    new_k = camera.resized(320, 240).K
    assert np.allclose(rectifier.source_pixels(640, 480), reference_map(camera, (320, 240), new_k), atol=2e-3)


@pytest.mark.parametrize("camera", [PINHOLE, RATIONAL, FISHEYE], ids=["plumb_bob", "rational", "fisheye"])
def test_images_equal_opencvs(camera: Camera) -> None:
    where = reference_map(camera, (640, 480), camera.K)
    expected = cv2.remap(texture(), where[..., 0], where[..., 1], cv2.INTER_LINEAR)
    found = Rectifier(camera)(texture())
    assert np.abs(found.astype(int) - expected).max() <= 6  # positions are rounded to 1/32 pixel


def test_any_scale_of_the_source_gives_the_same_picture() -> None:
    rectifier = Rectifier(PINHOLE, (320, 240))
    pictures = [rectifier(texture(*size)) for size in ((640, 480), (400, 300), (320, 240))]
    inner = (slice(20, -20), slice(20, -20))
    for other in pictures[1:]:
        assert np.abs(pictures[0][inner].astype(int) - other[inner]).mean() < 3


@pytest.mark.parametrize("camera", [PINHOLE, FISHEYE], ids=["plumb_bob", "fisheye"])
def test_points_are_where_the_ideal_camera_sees_them(camera: Camera) -> None:
    """White dots drawn where the real lens sees points appear where the ideal pinhole sees them."""
    points = np.array([[x, y, 4.0] for x in (-2.0, 0.3, 1.8) for y in (-1.2, 0.1, 1.4)])
    image = np.zeros((480, 640, 3), np.uint8)
    for u, v in camera.project_camera(points)[0]:
        cv2.circle(image, (round(16 * u), round(16 * v)), 16 * 5, (255, 255, 255), -1, cv2.LINE_AA, 4)
    rectifier = Rectifier(camera)
    flat = rectifier(image)[..., 0].astype(float)
    for u, v in rectifier.camera.project_camera(points)[0]:
        x, y = round(u), round(v)
        window = flat[y - 12 : y + 13, x - 12 : x + 13]
        ys, xs = np.mgrid[y - 12 : y + 13, x - 12 : x + 13]
        assert window.sum() > 0
        assert abs((window * xs).sum() / window.sum() - u) < 0.6
        assert abs((window * ys).sum() / window.sum() - v) < 0.6


def test_fine_texture_is_averaged_when_a_raw_image_shrinks() -> None:
    """A bilinear remap alone would pick single pixels of a checkerboard and give black or white patches."""
    checks = np.repeat(((np.indices((480, 640)).sum(axis=0) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    small = Rectifier(PINHOLE, (160, 120))(checks)
    assert np.abs(small[20:-20, 20:-20].astype(int) - 127).max() < 20


def test_a_new_k_keeps_more_of_a_fisheye() -> None:
    wide = Rectifier(FISHEYE, K=np.diag([0.5, 0.5, 1.0]) @ K)
    seen = wide.source_pixels(640, 480)
    near = Rectifier(FISHEYE).source_pixels(640, 480)
    assert np.ptp(seen[..., 0]) > np.ptp(near[..., 0])
    assert wide.camera.K[0, 0] == pytest.approx(155.0)


def test_the_twin_camera_has_no_distortion() -> None:
    twin = undistorted(FISHEYE)
    assert twin.model == "pinhole"
    assert not twin.distorted
    assert np.array_equal(twin.K, K)


def test_singular_k_is_refused() -> None:
    with pytest.raises(CalibrationError, match="K is singular"):
        Rectifier(Camera("p", 640, 480, np.zeros((3, 3)), np.eye(4), np.array([0.1, 0, 0, 0])))


def test_a_changed_calibration_is_noticed() -> None:
    rectifier = Rectifier(PINHOLE, (320, 240))
    assert rectifier.matches(PINHOLE, (320, 240))
    assert not rectifier.matches(PINHOLE, (160, 120))
    assert not rectifier.matches(RATIONAL, (320, 240))
