"""Projection against OpenCV's two camera models, and resize and crop."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.geometry import Camera, invert, pose, rotation_rpy, transform_points
from bevstack.geometry.camera import CameraModel

K = np.array([[630.0, 0.0, 401.5], [0.0, 622.0, 224.0], [0.0, 0.0, 1.0]])
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
MOUNT = pose(rotation_rpy(0.02, 0.05, 0.9) @ OPTICAL, [1.5, -0.4, 1.6])

small = st.floats(-0.05, 0.05)
points = st.lists(st.tuples(st.floats(-1.2, 1.2), st.floats(-0.9, 0.9), st.floats(0.5, 60)), min_size=1, max_size=20)


def camera(distortion: list[float], model: CameraModel = "pinhole") -> Camera:
    return Camera("cam_front", 800, 450, K, MOUNT, np.array(distortion), model)


def rays_to_points(rays: list[tuple[float, float, float]]) -> np.ndarray:
    return np.array([(x * z, y * z, z) for x, y, z in rays])


@settings(deadline=None)
@given(points, st.lists(small, min_size=8, max_size=8), st.sampled_from([0, 4, 5, 8]))
def test_pinhole_equals_opencv(rays: list[tuple[float, float, float]], coefficients: list[float], count: int) -> None:
    world = rays_to_points(rays)
    cam = camera(coefficients[:count])
    expected, _ = cv2.projectPoints(world, np.zeros(3), np.zeros(3), K, np.array(coefficients[:count]) if count else None)
    pixels, depth = cam.project_camera(world)
    assert np.allclose(pixels, expected[:, 0], atol=1e-6)
    assert np.array_equal(depth, world[:, 2])


@settings(deadline=None)
@given(points, st.lists(small, min_size=4, max_size=4))
def test_fisheye_equals_opencv(rays: list[tuple[float, float, float]], coefficients: list[float]) -> None:
    world = rays_to_points(rays)
    expected, _ = cv2.fisheye.projectPoints(world[:, None], np.zeros(3), np.zeros(3), K, np.array(coefficients))
    pixels, _ = camera(coefficients, "fisheye").project_camera(world)
    assert np.allclose(pixels, expected[:, 0], atol=1e-6)


@settings(deadline=None)
@given(points)
def test_ego_points_go_through_the_mounting(rays: list[tuple[float, float, float]]) -> None:
    world = rays_to_points(rays)
    cam = camera([-0.2, 0.05, 0.001, 0.002])
    ego = transform_points(cam.T_ego_camera, world)
    back = invert(cam.T_ego_camera)
    expected, _ = cv2.projectPoints(ego, cv2.Rodrigues(back[:3, :3])[0], back[:3, 3], K, cam.distortion)
    pixels, depth = cam.project(ego)
    assert np.allclose(pixels, expected[:, 0], atol=1e-5)
    assert np.allclose(depth, world[:, 2])


def test_a_camera_looking_ahead_sees_left_on_the_left_and_up_above() -> None:
    cam = Camera("cam_front", 800, 450, K, pose(OPTICAL, [1.0, 0.0, 1.5]))
    pixels, depth = cam.project([[11.0, 0.0, 1.5], [11.0, 2.0, 1.5], [11.0, 0.0, 3.0]])
    assert np.allclose(pixels[0], K[:2, 2])
    assert np.allclose(depth, 10.0)
    assert pixels[1, 0] < pixels[0, 0]
    assert pixels[2, 1] < pixels[0, 1]


def test_points_behind_have_no_pixel() -> None:
    pixels, depth = camera([0.1, 0, 0, 0]).project_camera([[0.0, 0.0, -3.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    assert np.isnan(pixels[:2]).all()
    assert np.isfinite(pixels[2]).all()
    assert camera([]).inside(pixels, depth).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("u", "v", "inside"), [(-0.5, 0, True), (-0.6, 0, False), (799.4, 449.4, True), (799.5, 0, False), (0, 449.6, False)]
)
def test_image_borders_are_half_a_pixel_outside_the_outer_centres(u: float, v: float, inside: bool) -> None:
    assert camera([]).inside([[u, v]], [1.0]).tolist() == [inside]


@settings(deadline=None)
@given(points, st.sampled_from([(400, 225), (704, 396), (1600, 900), (333, 111)]))
def test_resized_cameras_see_the_same_rays(rays: list[tuple[float, float, float]], size: tuple[int, int]) -> None:
    world = rays_to_points(rays)
    for cam in (camera([-0.2, 0.05, 0.001, 0.002, 0.01]), camera([0.01, 0.002, 0, 0], "fisheye")):
        small_one = cam.resized(*size)
        assert (small_one.width, small_one.height) == size
        assert np.allclose(small_one.project_camera(world)[0], cam.project_camera(world)[0] * [size[0] / 800, size[1] / 450])


def test_cropped_cameras_shift_pixels() -> None:
    cam = camera([-0.2, 0.05, 0.001, 0.002])
    window = cam.cropped(100, 50, 300, 200)
    world = np.array([[0.3, -0.2, 4.0]])
    assert np.allclose(window.project_camera(world)[0], cam.project_camera(world)[0] - [100, 50])
    assert (window.width, window.height) == (300, 200)


def test_distorted_says_whether_straight_lines_bend() -> None:
    assert not camera([]).distorted
    assert not camera([0, 0, 0, 0, 0]).distorted
    assert camera([0, 0, 1e-4, 0]).distorted
    assert camera([0, 0, 0, 0], "fisheye").distorted
